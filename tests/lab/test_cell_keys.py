"""Which edits of the code measure a cell again, and which do not, by the keys that experiments use."""

import ast
import functools
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

from ministeer import metrics
from ministeer.identity import identity
from ministeer.lab import answers
from ministeer.lab.experiment import Experiment

ROOT = Path(__file__).parents[2]
MEASURES = (answers.answers, answers.disturbance)
KEYS = """
import json, sys
from ministeer.lab import answers, experiment
lab = experiment.Experiment("test", sys.argv[1], results=sys.argv[2])
print(json.dumps({f.__name__: lab._key(f, {"layer": 1}) for f in (answers.answers, answers.disturbance)}))
"""


class Copy:
    """A copy of the package, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.package = folder, folder / "ministeer"
        shutil.copytree(ROOT / "ministeer", self.package, ignore=shutil.ignore_patterns("__pycache__", "nano"))
        self.before = self.after()

    def after(self, *edits: tuple[str, Callable[[str], str]]) -> dict[str, str]:
        """The keys that a new process finds after edits of files, which are undone."""
        before = {
            file: path.read_text("utf-8") if (path := self.package / file).exists() else None for file, _ in edits
        }
        for file, edit in edits:
            path = self.package / file
            now = path.read_text("utf-8") if path.exists() else ""
            text = edit(now)
            assert text != now
            ast.parse(text)
            path.write_text(text, "utf-8")
        command = [sys.executable, "-B", "-c", KEYS, str(ROOT / "weights" / "nano"), str(self.folder / "results")]
        env = os.environ | {"PYTHONPATH": str(self.folder), "PYTHONHASHSEED": "7"}
        done = subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, check=False)
        for file, text in before.items():
            path = self.package / file
            path.unlink() if text is None else path.write_text(text, "utf-8")
        assert done.returncode == 0, done.stderr
        found: dict[str, str] = json.loads(done.stdout)
        return found


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    return Copy(tmp_path_factory.mktemp("copy"))


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


UNREACHED = {
    "more functions": [(file, more) for file in ("cli.py", "lab/report.py", "lab/experiment.py", "metrics.py", "lab/answers.py")],
    "words": [
        ("metrics.py", insert("kl", '"""Said again."""')),
        ("model.py", insert("Attention.forward", "# a comment")),
        ("metrics.py", insert("bootstrap", "changed = 1")),  # a file that is reached, a function that is not
        ("lab/answers.py", lambda text: text.replace("content(", "renamed(")),
    ],
    "a move": [
        (
            "divergence.py",
            lambda _: "import torch\nfrom torch import Tensor\nfrom ministeer.metrics import _logits\n"
            + cut("kl")((ROOT / "ministeer" / "metrics.py").read_text("utf-8")),
        ),
        (
            "lab/answers.py",
            lambda text: text.replace("metrics.kl(", "divergence.kl(").replace(
                "from ministeer import extract, metrics", "from ministeer import divergence, extract, metrics"
            ),
        ),
    ],
}  # fmt: skip


@pytest.mark.parametrize("what", UNREACHED)
def test_what_no_measure_reaches_costs_nothing(copy, what):
    assert copy.after(*UNREACHED[what]) == copy.before


def test_a_key_is_the_same_wherever_the_package_lies_and_in_every_process(copy, tmp_path):
    lab = Experiment("test", str(ROOT / "weights" / "nano"), results=tmp_path)
    assert copy.before == {f.__name__: lab._key(f, {"layer": 1}) for f in MEASURES}


EACH = {"answers", "disturbance"}


@pytest.mark.parametrize(
    ("edits", "measures"),
    [
        ([("lab/answers.py", insert("answers", "changed = 1")), ("variants.py", insert("below", "changed = 1"))], {"answers"}),
        ([("metrics.py", insert("kl", "changed = 1"))], {"disturbance"}),
        ([("lab/answers.py", lambda text: text.replace("\nTEXTS = ", "\nTEXTS = 1 + "))], {"disturbance"}),
        ([("lab/answers.py", insert("content", "changed = 1"))], EACH),
        ([("model.py", insert("Block.attend", "changed = 1"))], EACH),
        ([("model.py", insert("multiply", "changed = 1"))], EACH),
        ([("tokenizer.py", insert("Tokenizer.encode", "changed = 1"))], EACH),
        ([("vectors.py", insert("SteeringVector.__getitem__", "changed = 1"))], EACH),
        ([("steer.py", insert("_Part.add", "changed = 1"))], EACH),
    ],
)  # fmt: skip
def test_what_a_measure_reaches_measures_again(copy, edits, measures):
    after = copy.after(*edits)
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
    return [identity(function) for function in (found["measure"], found["made"]())]


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


def cells_key(folder: Path, *cells: str) -> str:
    """The key of `measure` in a notebook, whose cells IPython leaves in `linecache` by the names of files that are not there."""
    names = [str(folder / f"{i}.py") for i in range(len(cells))]
    known: dict[str, object] = {}
    try:
        for name, text in zip(names, cells, strict=True):
            linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
            exec(compile(text, name, "exec"), known)  # noqa: S102
        return identity(known["measure"])
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


def test_a_cell_of_a_notebook_that_was_run_again_counts_for_a_measure_that_stands(tmp_path):
    known: dict[str, object] = {}

    def run(name: str, text: str) -> None:
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        exec(compile(text, name, "exec"), known)  # noqa: S102

    names = [str(tmp_path / f"{i}.py") for i in range(3)]
    try:
        run(names[0], "def helper():\n    return 1\n")
        run(names[1], "def measure(model):\n    return helper()\n")
        before = identity(known["measure"])
        assert identity(known["measure"]) == before
        run(names[2], "def helper():\n    return 2\n")
        assert identity(known["measure"]) != before
    finally:
        for name in names:
            linecache.cache.pop(name, None)


# ---- values: what a measure holds, and what constants hold at the time


def closing(k):
    def measure(model, tokenizer):
        return [k]

    return measure


def by_default(k):
    def measure(model, tokenizer, k=k, *, unused=0):
        return [k]

    return measure


def given(model, tokenizer, *, k):
    return [k]


def wrapping(k):
    def decorate(f):
        @functools.wraps(f)
        def measure(model, tokenizer):
            return [*f(model, tokenizer), k]

        return measure

    return decorate(closing(0))


def replacing(k):
    def decorate(f):
        def measure(model, tokenizer):
            return f(model, tokenizer)

        return measure

    return decorate(closing(k))


def helped(k):
    def helper():
        return k

    def measure(model, tokenizer):
        return [helper()]

    return measure


HOLDING = [closing, by_default, wrapping, replacing, helped, lambda k: functools.partial(given, k=k)]


@pytest.mark.parametrize("of", HOLDING)
@pytest.mark.parametrize(("one", "other"), [(1, 2), (1, True), ([1, 2], [2, 1]), ({"a": 1}, {"a": 2}), ("a", "b")])
def test_what_a_measure_holds_is_in_its_key(of, one, other):
    assert identity(of(one)) == identity(of(one))
    assert identity(of(one)) != identity(of(other))


def test_a_measure_that_holds_what_cannot_be_read_is_refused(tmp_path):
    lab = Experiment("test", "nano", results=tmp_path)
    for of in HOLDING[:2]:
        with pytest.raises(
            ValueError, match="whole state can be read, since the key of its results .*, got a .*generator"
        ):
            lab.cell(of(i for i in "ab"))


MEASURE = "\ndef measure(model, tokenizer):\n    return "


def loaded(folder: Path, monkeypatch, measured: str, main: str, helper: str = ""):
    """A module whose measure returns what `measured` says, with a module `their_helper` beside it."""
    folder.mkdir()
    (folder / "their_helper.py").write_text(helper)
    (folder / "their_main.py").write_text(main + MEASURE + measured + "\n")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for name in ("their_helper", "their_main"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(folder)
        return importlib.import_module("their_main")


REACHED = {
    "an entry": ("T['k']", "T = {}\nT['k'] = %d\n", ""),
    "an item": ("W[0]", "W = []\nW.append(%d)\n", ""),
    "an item of a loop": ("W[-1]", "W = []\nfor i in (1, %d):\n    W.append(i)\n", ""),
    "a key": ("T['k']", "T = {}\nT.update(k=%d)\n", ""),
    "a method": ("T.keyword", "import functools\nT = functools.partial(print)\nT.keyword = %d\n", ""),
    "an attribute": ("C.k", "class C:\n    k = 0\nC.k = %d\n", ""),
    "a registry": (
        "R['f']()", "R = {}\ndef to(f):\n    R[f.__name__] = f\n    return f\n@to\ndef f():\n    return %d\n", ""
    ),
    "a star": ("f()", "from their_helper import *\n", "def f():\n    return %d\n"),
    "a star's constant": ("K", "from their_helper import *\n", "K = %d\n"),
    "by exec": ("K", "K = 0\nexec('K = %d')\n", ""),
    "by exec alone": ("K", "exec('K = %d')\n", ""),
    "by globals": ("K", "K = int()\nglobals()['K'] = %d\n", ""),
    "another's": ("their_helper.T['k']", "import their_helper\ntheir_helper.T['k'] = %d\n", "T = {}\n"),
    "computed": ("K", "import os\nos.environ['MINISTEER_K'] = '%d'\nK = os.environ['MINISTEER_K']\n", ""),
    "of a decorator": (
        "f()", "def of(k):\n    return lambda f: lambda: k\n@of(%d)\ndef f():\n    return 0\n", ""
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REACHED)
def test_what_a_constant_becomes_after_its_definition_is_in_the_key(what, tmp_path, monkeypatch):
    measured, *files = REACHED[what]
    keys, rows = [], []
    for n, k in enumerate((1, 1, 2)):
        there = loaded(
            tmp_path / f"{n}", monkeypatch, measured, *(text % k if "%d" in text else text for text in files)
        )
        keys.append(identity(there.measure))
        rows.append(there.measure(None, None))
    assert rows[0] == rows[1] != rows[2]
    assert keys[0] == keys[1] != keys[2]


def test_a_measure_of_a_script_is_told_anew_for_each_cell(tmp_path, monkeypatch):
    """What it names, and what it holds, may change between two cells; a function set from elsewhere counts as it is."""
    lab = Experiment("test", "nano", results=tmp_path / "results")
    there = loaded(tmp_path / "a", monkeypatch, "[SET['scale'], K]", "SET = {'scale': 1}\nK = 1\n")
    held = {"a": 1}
    for measure, change, back in (
        (there.measure, lambda: there.SET.update(scale=2), lambda: there.SET.update(scale=1)),
        (there.measure, lambda: setattr(there, "K", 2), lambda: setattr(there, "K", 1)),
        (closing(held), lambda: held.update(a=2), lambda: held.update(a=1)),
    ):
        before = lab._key(measure, {})
        change()
        assert lab._key(measure, {}) != before
        back()
        assert lab._key(measure, {}) == before
    before = identity(answers.disturbance)
    with monkeypatch.context() as patch:
        patch.setattr(metrics, "kl", lambda *given: 0)
        assert identity(answers.disturbance) != before
    assert identity(answers.disturbance) == before


def test_an_edit_that_was_not_loaded_changes_nothing_that_runs(tmp_path, monkeypatch):
    there = loaded(tmp_path / "a", monkeypatch, "[K]", "K = 1\n")
    before, file = identity(there.measure), tmp_path / "a" / "their_main.py"
    file.write_text(file.read_text().replace("K = 1", "K = 2"))
    assert there.measure(None, None) == [1] and identity(there.measure) == before
    there = loaded(tmp_path / "b", monkeypatch, "[K]", "K = 2\n")
    assert there.measure(None, None) == [2] and identity(there.measure) != before
