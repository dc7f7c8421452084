"""Which edits of the code measure a cell again, and which do not: on a copy of the package, by the keys that experiments use."""

import ast
import importlib
import json
import linecache
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ministeer.lab.keys import code_key

ROOT = Path(__file__).parents[2]
KEYS = """
import json, sys
from ministeer.lab import answers, experiment, keys
keys.check_loaded = lambda places: None  # what is edited here is read and not run
lab = experiment.Experiment("test", sys.argv[1], results=sys.argv[2])
for line in sys.stdin:  # after each edit
    experiment._code.cache_clear()
    print(json.dumps({f.__name__: lab._key(f, {"layer": 1}) for f in (answers.answers, answers.disturbance)}), flush=True)
"""


class Copy:
    """A copy of the package, and a process that tells the keys its files give."""

    def __init__(self, folder: Path) -> None:
        self.package = folder / "ministeer"
        shutil.copytree(ROOT / "ministeer", self.package, ignore=shutil.ignore_patterns("__pycache__", "nano"))
        command = [sys.executable, "-c", KEYS, str(ROOT / "weights" / "nano"), str(folder / "results")]
        env = os.environ | {"PYTHONPATH": str(folder)}
        self.process = subprocess.Popen(
            command, cwd=folder, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.before = self.keys()

    def keys(self) -> dict[str, str]:
        self.process.stdin.write("now\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def after(self, *edits: tuple[str, Callable[[str], str]]) -> dict[str, str]:
        """The keys after edits of files, which are undone."""
        paths = [self.package / file for file, _ in edits]
        before = {path: path.read_text("utf-8") if path.exists() else None for path in paths}
        for path, (_, edit) in zip(paths, edits, strict=True):
            text = edit(before[path] or "")
            assert text != before[path]
            ast.parse(text)
            path.write_text(text, "utf-8")
        found = self.keys()
        for path, text in before.items():
            path.unlink() if text is None else path.write_text(text, "utf-8")
        return found


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    made = Copy(tmp_path_factory.mktemp("copy"))
    yield made
    made.process.stdin.close()
    made.process.wait(60)


def lines_of(text: str, name: str) -> tuple[int, int, int]:
    """Of a function or a method: its first line, the first after its docstring, and the first after it, from 0."""
    node: ast.AST = ast.parse(text)
    for part in name.split("."):
        node = next(child for child in ast.walk(node) if getattr(child, "name", None) == part)
    body = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
    return node.lineno - 1, body.lineno - 1, node.end_lineno


def insert(name: str, line: str) -> Callable[[str], str]:
    """Write a line at the top of a function or a method."""

    def edit(text: str) -> str:
        lines = text.splitlines()
        at = lines_of(text, name)[1]
        indent = len(lines[at]) - len(lines[at].lstrip())
        return "\n".join([*lines[:at], " " * indent + line, *lines[at:], ""])

    return edit


def cut(name: str) -> Callable[[str], str]:
    return lambda text: "\n".join(text.splitlines()[slice(*lines_of(text, name)[::2])]) + "\n"


def moved(name: str, module: str) -> Callable[[str], str]:
    """Take a function out of a file, which imports it from another module."""

    def edit(text: str) -> str:
        rest = text.replace(cut(name)(text), "")
        at = rest.index("\nimport ")
        return rest[:at] + f"\nfrom {module} import {name}" + rest[at:]

    return edit


def more(text: str) -> str:
    return text + "\n\ndef more():\n    return 1\n"


@pytest.mark.parametrize(
    "edits",
    [
        [(file, more)]
        for file in ("cli.py", "lab/report.py", "lab/claims.py", "lab/experiment.py", "metrics.py", "lab/answers.py")
    ]
    + [
        [("metrics.py", insert("kl", '"""Said again."""'))],
        [("model.py", insert("Attention.forward", "# a comment"))],
        [("metrics.py", insert("bootstrap", "changed = 1"))],  # a file that is reached, a function that is not
        [("lab/answers.py", lambda text: text.replace("content(", "renamed("))],
        [
            (
                "divergence.py",
                lambda _: "import torch\n" + cut("kl")((ROOT / "ministeer" / "metrics.py").read_text("utf-8")),
            ),
            ("metrics.py", moved("kl", "ministeer.divergence")),
        ],
    ],
)
def test_what_no_measure_reaches_costs_nothing(copy, edits):
    assert copy.after(*edits) == copy.before


@pytest.mark.parametrize(
    ("file", "edit", "measures"),
    [
        ("lab/answers.py", insert("answers", "changed = 1"), {"answers"}),
        ("lab/answers.py", insert("content", "changed = 1"), {"answers", "disturbance"}),
        ("metrics.py", insert("kl", "changed = 1"), {"disturbance"}),
        ("variants.py", insert("above", "changed = 1"), {"answers"}),
        ("model.py", insert("Block.attend", "changed = 1"), {"answers", "disturbance"}),
        ("model.py", insert("Attention.forward", "changed = 1"), {"answers", "disturbance"}),
        ("model.py", insert("multiply", "changed = 1"), {"answers", "disturbance"}),
        ("tokenizer.py", insert("Tokenizer.encode", "changed = 1"), {"answers", "disturbance"}),
        ("interventions.py", insert("project_out", "changed = 1"), {"answers", "disturbance"}),
        ("vectors.py", insert("SteeringVector.__getitem__", "changed = 1"), {"answers", "disturbance"}),
        ("steer.py", insert("_Part.add", "changed = 1"), {"answers", "disturbance"}),
        ("lab/answers.py", lambda text: text.replace("\nTEXTS = ", "\nTEXTS = 1 + "), {"disturbance"}),
    ],
)
def test_what_a_measure_reaches_measures_again(copy, file, edit, measures):
    after = copy.after((file, edit))
    assert {measure for measure, key in copy.before.items() if key != after[measure]} == measures


SCRIPT = """
import beside
from beside import helper as help_

LIMIT = 3
OTHER = 4

def measure(model, tokenizer, *, OTHER):
    return [help_(OTHER), within(), beside.far()]

def within():
    return LIMIT

def made():
    def measure(model, tokenizer):
        return within()
    return measure

two = [lambda: 1, lambda: 2]
"""
BESIDE = """
def helper(x):
    return x

def far():
    return 1

def unused():
    return 2
"""


def script_keys(folder: Path, script: str = SCRIPT, beside: str = BESIDE) -> list[str]:
    """The keys of a script's measure and of the one that a function of it makes."""
    folder.mkdir(exist_ok=True)
    (folder / "beside.py").write_text(beside)
    (folder / "script.py").write_text(script)
    sys.path.insert(0, str(folder))
    try:
        found = runpy.run_path(str(folder / "script.py"))
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("beside")
    return [code_key(function, []) for function in (found["measure"], found["made"]())]


@pytest.mark.parametrize(
    ("changed", "which"),
    [
        ({"script": SCRIPT.replace("LIMIT = 3", "LIMIT = 5")}, [True, True]),
        ({"script": SCRIPT.replace("        return within()", "        return 1 + within()")}, [False, True]),
        ({"script": SCRIPT.replace("OTHER = 4", "OTHER = 5")}, [False, False]),  # a parameter of that name hides it
        ({"beside": BESIDE.replace("return x", "return -x")}, [True, False]),
        ({"beside": BESIDE.replace("return 1", "return -1")}, [True, False]),
        ({"beside": BESIDE.replace("return 2", "return -2")}, [False, False]),
        ({"beside": BESIDE.replace("helper", "h"), "script": SCRIPT.replace("import helper", "import h")}, [False] * 2),
    ],
)
def test_a_measure_of_a_script_reaches_its_own_file_and_those_beside_it(tmp_path, changed, which):
    before, after = script_keys(tmp_path / "a"), script_keys(tmp_path / "b", **changed)
    assert [a != b for a, b in zip(before, after, strict=True)] == which


EDITED = """
LIMIT = 3
class Held:
    def within(self):
        return LIMIT

def helper(x):
    return x + OTHER
OTHER = 4

def measure(model, tokenizer):
    return helper(Held())
"""


def test_a_measure_that_was_edited_after_it_was_loaded_has_no_key(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    file = tmp_path / "their_measure.py"
    file.write_text(EDITED)
    module = importlib.import_module("their_measure")
    key = code_key(module.measure, [])
    file.write_text(EDITED.replace("\nclass", "\n# said\n\nclass") + "def unused():\n    return 1\n")
    assert code_key(module.measure, []) == key
    for old, new in (
        ("LIMIT = 3", "LIMIT = 5"),
        ("return LIMIT", "return -LIMIT"),
        ("+ OTHER", "- OTHER"),
        ("return h", "return 2 * h"),
    ):
        file.write_text(EDITED.replace(old, new))
        with pytest.raises(ValueError, match="expected .* as their_measure.py says it, got one that was loaded before"):
            code_key(module.measure, [])
    assert code_key(importlib.reload(module).measure, []) != key
    sys.modules.pop("their_measure")


def test_a_measure_without_a_text_of_its_own_is_refused(tmp_path):
    (tmp_path / "some.py").write_text("two = [lambda: 1, lambda: 2]\n")
    with pytest.raises(ValueError, match=r"expected a measure whose source can be read, got <lambda>; define it by"):
        code_key(runpy.run_path(str(tmp_path / "some.py"))["two"][0], [])


def cells_key(folder: Path, *cells: str) -> str:
    """The key of `measure` in a notebook, whose cells IPython leaves in `linecache` by the names of files that are not there."""
    names = [str(folder / f"{i}.py") for i in range(len(cells))]
    known: dict[str, object] = {}
    try:
        for name, text in zip(names, cells, strict=True):
            linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
            exec(compile(text, name, "exec"), known)  # noqa: S102
        return code_key(known["measure"], [])
    finally:
        for name in names:
            linecache.cache.pop(name, None)


def test_a_measure_of_a_notebook_reaches_the_other_cells(tmp_path):
    cells = ["LIMIT = 3\n", "OTHER = 4\n", "def measure(model):\n    return LIMIT\n"]
    before = cells_key(tmp_path, *cells)
    assert cells_key(tmp_path, *cells) == before
    assert cells_key(tmp_path, cells[0], "OTHER = 5\n", cells[2]) == before
    assert cells_key(tmp_path, "LIMIT = 4\n", *cells[1:]) != before
    assert cells_key(tmp_path, *cells[:2], cells[2].replace("LIMIT", "-LIMIT")) != before
