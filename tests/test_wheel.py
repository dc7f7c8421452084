"""What `pip install .` brings: a wheel that needs nothing of the clone it was built from."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from ministeer import load_model
from ministeer.provenance import fingerprint

ROOT = Path(__file__).parents[1]
USE = """
import ministeer
from ministeer import vectors
from ministeer.lab import data
model, tok = ministeer.load("nano")
text = ministeer.generate(model, [tok.eot, *tok.encode("The opposite of hot is")], max_new_tokens=1, temperature=0)
print(ministeer.__file__, vectors.fingerprint(model), tok.decode(text[-1:]).strip(), len(data.read("facts.tsv")) > 0)
print(len(ministeer.tokenizer.Tokenizer.gpt2().encode("Hello world")))
"""


def test_an_installed_wheel_needs_no_clone(tmp_path):
    clone, site, elsewhere = tmp_path / "clone", tmp_path / "site", tmp_path / "elsewhere"
    made_here = ("results", "build", "dist", "*.egg-info", "__pycache__", ".*")
    shutil.copytree(ROOT, clone, ignore=shutil.ignore_patterns(*made_here))
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    done = subprocess.run([*command, str(clone)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(clone)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(site)
    elsewhere.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", USE],
        cwd=elsewhere,
        env={"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    weights = fingerprint(load_model("nano"))
    assert done.stdout.splitlines() == [f"{site / 'ministeer' / '__init__.py'} {weights} cold True", "2"]
    assert (site / "ministeer" / "py.typed").is_file()
    assert all((site / "ministeer" / "play" / name).is_file() for name in ("page.html", "stream.svg"))
    assert not list((site / "ministeer" / "nano").glob("*.py"))  # the scripts that made the model stay in the clone
    assert list(site.glob("ministeer-*.dist-info/licenses/LICENSE"))
