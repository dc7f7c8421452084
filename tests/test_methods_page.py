"""docs/methods.md: its lines run as they stand there, and its tables are what its script measures."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch
import transformers

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_lines_run_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = {
        "theirs": transformers.GPT2LMHeadModel.from_pretrained(ROOT / "weights" / "nano", dtype=torch.float32).eval()
    }
    for block in BLOCKS:
        exec(block, names)  # noqa: S102 - what is run is the page, nothing from outside
    assert len(BLOCKS) > 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["honesty.gguf", "honesty.pt"]
    assert names["steer"].rows == [True, False]


def test_the_tables_are_what_is_measured() -> None:
    """Numbers to within 2 in the last of their digits, for another processor's rounding; the words as they are."""
    spec = importlib.util.spec_from_file_location("methods", ROOT / "docs" / "methods.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for name, table in script.tables().items():
        shown = PAGE[PAGE.index(f"<!-- {name} -->") :].split("\n\n")[1].strip()
        number = re.compile(r"-?\d+(?:\.\d+)?")
        assert number.sub("#", shown) == number.sub("#", table), name
        for here, there in zip(number.findall(shown), number.findall(table), strict=True):
            digits = len(here.partition(".")[2])
            assert abs(float(here) - float(there)) <= max(2 * 10**-digits, 0.02 * abs(float(there))), (
                name,
                here,
                there,
            )


def test_every_method_has_its_lines() -> None:
    from ministeer import extract, heads, interventions

    public = [n for m in (extract, heads, interventions) for n, f in vars(m).items()
              if callable(f) and getattr(f, "__module__", "") == m.__name__ and not n.startswith("_")]  # fmt: skip
    code = PAGE + "".join(BLOCKS)
    assert [name for name in public if name not in code and name != "Function"] == []


def test_its_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\((?!https?://)([^)#]+)", PAGE):
        assert (ROOT / "docs" / link).exists(), link
