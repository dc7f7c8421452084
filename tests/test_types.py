"""What a type checker tells the writer of a script, before it runs: which words exist, and what comes back."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

GOOD = """
import torch

import ministeer
from ministeer import Site, Steer, SteeringVector, extract, generate, prefill, say

model, tok = ministeer.load("nano")
site: Site = ("pre", 5)
vector: SteeringVector = extract.contrastive(model, tok, [("so (A", "so (B"), ["a", "b"]], [site, ("mid", 5)], batch_size=4)
found = extract.read(model, tok, [("so", "no")], token="last")
vector = extract.probe(found, l2=0.5) + extract.mean_difference(found)
steers = [Steer(vector, site, 2.0, "last"), Steer(vector, ("mid", 5), [1.0, 2.0], where=[0, 3]), Steer(vector, site)]
reveal_type(generate(model, tok.prompt("I feel"), max_new_tokens=5, steer=steers, temperature=0))
reveal_type(generate(model, [tok.prompt("I feel")], max_new_tokens=5, top_k=3))
reveal_type(say(model, tok, "I feel", steer=steers[0], temperature=0.5, chat=False))
model(torch.tensor([[1]]), adds={("pre", 6): vector[site], site: lambda x: x})
prefill(model, [[1, 2]], steer=steers)
"""
REVEALED = ["list[int]", "list[list[int]]", "str"]
BAD = """
import ministeer
from ministeer import Steer, extract, generate, say

model, tok = ministeer.load("nano")
pairs = [("a", "b")]
vector = extract.contrastive(model, tok, pairs, ("pre", 5))
extract.contrastive(model, tok, pairs, ("prex", 5))  # wrong: incompatible type "tuple[
extract.pca(model, tok, pairs, token="first")  # wrong: Literal['answer', 'last']
extract.probe(model, tok, pairs, tokne="last")  # wrong: tokne
extract.read(model, tok, [{"positive": "a", "negative": "b"}])  # wrong: dict[str, str]
Steer(vector, ("pre", 5), where="nowhere")  # wrong: nowhere
Steer(vector, ("prex", 5))  # wrong: prex
generate(model, [1], max_new_tokens=5, tempereture=1.0)  # wrong: tempereture
generate(model, [1], max_new_tokens=5)[0].append(1)  # wrong: "int" has no attribute
say(model, tok, "I feel", stops=[1])  # wrong: stops
say(model, tok, ["I feel"])  # wrong: expected "str"
model([1], {("prex", 6): 1.0})  # wrong: prex
model([1], tap={})  # wrong: tap
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What mypy says to both scripts, line by line. It looks into this package and not into torch, which would take a minute."""
    pytest.importorskip("mypy", reason="mypy is not installed")
    folder, root = tmp_path_factory.mktemp("types"), Path(__file__).parents[1]
    rooms = (root / "ministeer").glob("*.py")
    outside = {
        name
        for path in rooms
        for name in re.findall(r"^ *(?:import|from) (\w+)", path.read_text("utf-8"), re.MULTILINE)
    }
    settings = "[mypy]\nstrict = true\n"
    for name in sorted(outside - {"ministeer", "typing_extensions", *sys.stdlib_module_names}):
        settings += f"[mypy-{name}.*]\nfollow_imports = skip\nignore_missing_imports = true\n"
    for name, text in (("mypy.ini", settings), ("good.py", GOOD), ("bad.py", BAD)):
        (folder / name).write_text(text, "utf-8")
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "good.py", "bad.py"]
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"MYPYPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_a_sound_script_is_sound_and_what_comes_back_is_known(said: list[str]) -> None:
    mine = [line for line in said if line.startswith("good.py")]
    assert [line.split('"')[1] for line in mine if ": note: Revealed type" in line] == REVEALED
    assert [line for line in mine if ": note: Revealed type" not in line] == []


@pytest.mark.parametrize("line", [line for line in BAD.splitlines() if "  # wrong: " in line])
def test_a_wrong_word_is_seen(said: list[str], line: str) -> None:
    word, number = line.split("  # wrong: ")[1], BAD.splitlines().index(line) + 1
    told = [text for text in said if text.startswith(f"bad.py:{number}: error")]
    assert any(word in text for text in told), told
