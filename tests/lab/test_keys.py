"""Which edits of the code measure a cell again, and which do not: on a copy of the package, by the keys that experiments use."""

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
from ministeer.lab import answers
from ministeer.lab.experiment import Experiment
from ministeer.lab.keys import Code, code_key

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
                lambda _: (
                    "import torch\nfrom ministeer.metrics import _tensors\n"
                    + cut("kl")((ROOT / "ministeer" / "metrics.py").read_text("utf-8"))
                ),
            ),
            ("metrics.py", moved("kl", "ministeer.divergence")),
        ],
    ],
)
def test_what_no_measure_reaches_costs_nothing(copy, edits):
    assert copy.after(*edits) == copy.before


def test_a_key_is_the_same_wherever_the_package_lies(copy, tmp_path):
    lab = Experiment("test", str(ROOT / "weights" / "nano"), results=tmp_path)
    assert copy.before == {f.__name__: lab._key(f, {"layer": 1}) for f in (answers.answers, answers.disturbance)}


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


def test_a_cell_of_a_notebook_that_was_run_again_counts_for_a_measure_that_stands(tmp_path):
    known: dict[str, object] = {}

    def run(name: str, text: str) -> None:
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        exec(compile(text, name, "exec"), known)  # noqa: S102

    names = [str(tmp_path / f"{i}.py") for i in range(3)]
    try:
        run(names[0], "def helper():\n    return 1\n")
        run(names[1], "def measure(model):\n    return helper()\n")
        code = Code(known["measure"], [])
        before = code.key()
        assert code.key() == before
        run(names[2], "def helper():\n    return 2\n")
        assert code.key() != before
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
    assert code_key(of(one), []) == code_key(of(one), [])
    assert code_key(of(one), []) != code_key(of(other), [])


def test_what_a_measure_holds_may_change_between_two_cells():
    held = {"a": 1}
    code = Code(closing(held), [])
    before = code.key()
    held["a"] = 2
    assert code.key() != before
    held["a"] = 1
    assert code.key() == before


def test_what_a_measure_only_writes_to_is_not_in_its_key():
    def of(log, table, read):
        def measure(model, tokenizer):
            log.append(1)
            table["now"] = 1
            read.append(len(read))
            return []

        return measure

    key = code_key(of([], {}, []), [])
    assert code_key(of([1], {"now": 1}, []), []) == key
    assert code_key(of([], {}, [0]), []) != key


@pytest.mark.parametrize("of", HOLDING[:2])
def test_a_measure_that_holds_what_cannot_be_read_is_refused(of):
    with pytest.raises(
        ValueError, match="expected a measure that holds what can be read, .*, got k in it, a generator; g"
    ):
        code_key(of(i for i in "ab"), [])


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
        try:
            keys.append(code_key(there.measure, []))
        except ValueError as error:  # a refusal is an answer too, where the text says otherwise
            assert "expected K as their_main.py says it" in str(error)
            return
        rows.append(there.measure(None, None))
    assert rows[0] == rows[1] != rows[2]
    assert keys[0] == keys[1] != keys[2]


def test_a_constant_may_change_between_two_cells(tmp_path, monkeypatch):
    main = "SET = {'scale': 1}\nK = 1\nLOG = []\n"
    there = loaded(tmp_path / "a", monkeypatch, "LOG.append(0) or [SET['scale'], K]", main)
    code = Code(there.measure, [])
    before = code.key()
    there.SET["scale"] = 2
    second = code.key()
    there.SET["scale"], there.K = 1, 2
    assert len({before, second, code.key()}) == 3
    there.K = 1
    assert code.key() == before


def test_a_function_that_was_replaced_is_refused(monkeypatch):
    code = Code(answers.disturbance, [])
    before = code.key()
    with monkeypatch.context() as patch:
        patch.setattr(metrics, "kl", lambda *given: 0)
        for ask in (code.key, lambda: code_key(answers.disturbance, [])):
            with pytest.raises(
                ValueError, match=r"expected kl as metrics.py says it, got .* or set from elsewhere; begin"
            ):
                ask()
    assert code.key() == before


STABLE = """
import sys
from pathlib import Path
from ministeer.lab import answers, behaviours, experiment
from ministeer.vectors import SteeringVector
sys.path.insert(0, sys.argv[1])
import their_main
print(experiment.code_key(answers.answers, []), experiment.code_key(their_main.measure, []))
""".replace("experiment", "keys")


def test_a_key_is_the_same_in_every_process(tmp_path, monkeypatch):
    main = "WORDS = {w for w in ('a', 'b', 'c', 'd')}\nTABLE = {'s': {'x', 'y', 'z'}, 'f': len}\n"
    there = loaded(tmp_path / "a", monkeypatch, "[WORDS, TABLE]", main)
    keys = f"{code_key(answers.answers, [])} {code_key(there.measure, [])}\n"
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", STABLE, str(tmp_path / "a")]
    assert subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout == keys
