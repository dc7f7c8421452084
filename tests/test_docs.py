"""The site of `make docs`: what a reader would run into fails its build, and what is public has its page."""

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import ministeer

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))
import api


def build(root: Path, readme: str) -> subprocess.CompletedProcess[str]:
    """The site, with the settings of ours, of a README, a page with one heading, a report and the docstrings."""
    for name in ("sphinx", "myst_nb", "jupytext", "furo"):
        pytest.importorskip(name, reason="the extra docs, which `make docs` installs")
    (root / "docs" / "results").mkdir(parents=True)
    (root / "script.py").write_text("x = 1\n", encoding="utf-8")
    (root / "README.md").write_text(f"# Start\n\n{readme}\n", encoding="utf-8")
    (root / "docs" / "page.md").write_text("# Page\n\n## A heading\n\n[back](../README.md)\n", encoding="utf-8")
    (root / "docs" / "results" / "report.html").write_text("<p>found</p>", encoding="utf-8")
    contents = "\n```{toctree}\n:hidden:\n\ndocs/page\ndocs/api/index\n```\n"
    (root / "docs" / "contents.txt").write_text(contents, encoding="utf-8")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", ROOT / "docs", root, root / "build"]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_links_to_pages_headings_files_and_folders_lead_somewhere(tmp_path: Path) -> None:
    links = "[page](docs/page.md#a-heading) [report](docs/results/report.html) [code](script.py) [folder](docs/results)"
    done = build(tmp_path, links)
    assert (done.returncode, done.stderr) == (0, "")
    site = tmp_path / "build"
    shown = re.findall(
        r'href="([^"]*)"[^>]*>(?:<[^>]*>)*(page|report|code|folder)<', (site / "README.html").read_text()
    )
    assert shown == [
        ("docs/page.html#a-heading", "page"),
        ("docs/results/report.html", "report"),
        ("script.py.txt", "code"),
    ]
    assert 'id="a-heading"' in (site / "docs" / "page.html").read_text()
    assert (site / "docs" / "results" / "report.html").read_text() == "<p>found</p>"
    assert (site / "script.py.txt").read_text() == "x = 1\n"
    for page in site.rglob("*.html"):
        assert not re.search(r'<(?!a\b)[^>]*(?:src|href)="(?:https?:)?//', page.read_text(encoding="utf-8")), page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)[\s\"']*(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet


def test_whatever_leads_nowhere_fails(tmp_path: Path) -> None:
    dead = ["docs/none.md", "docs/page.md#nowhere", "none.py", "docs/results/none.html", "none", "#nowhere"]
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "alone.md").write_text("# In no table of contents\n", encoding="utf-8")
    done = build(tmp_path, "\n\n".join(f"[link]({link})" for link in dead) + "\n\n![image](none.svg)")
    assert done.returncode == 1
    for line in [2 * i + 3 for i in range(len(dead) + 1)]:
        assert f"README.md:{line}: WARNING" in done.stderr, done.stderr
    assert "alone.md: WARNING" in done.stderr


def test_whatever_is_public_has_its_docstring_there(tmp_path: Path) -> None:
    api.write(ROOT / "ministeer", tmp_path)
    pages = {page.stem: page.read_text(encoding="utf-8") for page in tmp_path.glob("*.md")}
    for name in ministeer.__all__:
        thing = getattr(ministeer, name)
        if isinstance(thing, ModuleType):
            assert name in pages
        elif getattr(thing, "__module__", "").startswith("ministeer."):
            assert f"\n## {name}\n" in pages[thing.__module__.split(".")[1]]
    assert "\n## read\n" in pages["extract"] and "\n## Pairs\n" not in pages["extract"]
    assert "\n- `adds`: " in pages["model"] and "\n- `alone`: " not in pages["generate"]


def test_every_recorded_report_is_linked() -> None:
    folder = ROOT / "docs" / "results"
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert [page for page in folder.rglob("*.html") if f"]({page.relative_to(folder).as_posix()})" not in text] == []
