"""What a piece of code says: the same however it is written, another as soon as it computes something else."""

import ast
import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from ministeer.source import definition, node_of, shape

PLAIN = """
def f(x, y=2):
    return [x + y, "a", None, {**x}]
"""
SAME = [
    '# said\ndef f(\n    x,\n    y = 2,\n):\n    """Said."""\n    # said\n    return [(x + y), \'a\', None, {**x}]  # said\n',
    "from __future__ import annotations\ndef f(x: int, y: dict[str, int] = 2) -> list:\n    import json\n    return [x + y, 'a', None, {**x}]\n",
    'def renamed(x, y=2):\n    return [x + y, u"a", None, {**x}]\n',
]
OTHER = [
    PLAIN.replace("x + y", "x - y"),
    PLAIN.replace("y=2", "y=3"),
    PLAIN.replace("y=2", "y=2.0"),
    PLAIN.replace("y=2", "y=True"),
    PLAIN.replace("y=2", "*, y=2"),
    PLAIN.replace('"a"', "b'a'"),
    PLAIN.replace('"a"', "a"),
    PLAIN.replace("None", '"None"'),
    PLAIN.replace("None", "..."),
    PLAIN.replace("**x", "x: x"),
    PLAIN.replace("\ndef", "\n@cache\ndef"),
    PLAIN.replace("    return", "    x = 1\n    return"),
]


def said(code: str) -> str:
    (function,) = (node for node in ast.parse(code).body if isinstance(node, ast.FunctionDef))
    return json.dumps(definition(function))  # 2 == 2.0 to Python, and not to JSON


@pytest.mark.parametrize("code", SAME)
def test_how_a_function_is_written_is_not_said(code: str) -> None:
    assert said(code) == said(PLAIN)


@pytest.mark.parametrize("code", OTHER)
def test_what_a_function_does_is_said(code: str) -> None:
    assert said(code) != said(PLAIN)


def test_only_names_from_outside_are_referred_to() -> None:
    code = """
def f(a, b=D, *c: C) -> R:
    e: E = [g(h) for h in G if a.b.I]
    def inner(j):
        nonlocal e
        k = j + K
        return lambda m: m + M + k
    global n
    n = a
    return o.p.q
"""
    asked = []
    shape(ast.parse(code), lambda node: asked.append(ast.unparse(node)))
    # of a dotted name, also what stands before its dots
    assert set(asked) == {"D", "C", "R", "E", "g", "G", "K", "M", "n", "o.p.q", "o.p", "o"}


def test_the_definition_of_a_function_is_found_by_its_code(tmp_path: Path) -> None:
    file = tmp_path / "some.py"
    file.write_text(
        "def outer():\n    def inner():\n        return 1\n    return inner\n\n"
        "keep = lambda f: f\n\n@keep\n@keep\ndef decorated():\n    return 2\n\n"
        "one = lambda: 3\ntwo = [lambda: 4, lambda: 5]\n"
    )
    found = runpy.run_path(str(file))
    for function, text in (
        (found["outer"](), "def inner():\n    return 1"),
        (found["decorated"], "@keep\n@keep\ndef decorated():\n    return 2"),
        (found["one"], "lambda: 3"),
    ):
        node = node_of(function.__code__)
        assert node is not None
        assert ast.unparse(node) == text
    assert node_of(found["two"][0].__code__) is None  # which of the two, the line does not tell
    made: dict[str, Any] = {}
    exec("def f(): pass", made)  # noqa: S102
    assert node_of(made["f"].__code__) is None


def test_a_text_counts_for_a_function_only_while_it_compiles_to_it(tmp_path: Path) -> None:
    file, text = tmp_path / "some.py", "def f(x):\n    return x[5]\n"
    file.write_text(text)
    old = runpy.run_path(str(file))["f"].__code__
    assert node_of(old) is not None

    def said(text: str) -> str | None:
        file.write_text(text)
        return None if (node := node_of(old)) is None else ast.unparse(node)

    assert said("# said\n\n" + text) == text.strip()  # moved
    assert said(text.replace("5", "3000")) is None
    new = runpy.run_path(str(file))["f"].__code__
    assert ast.unparse(node_of(new)) == text.replace("5", "3000").strip()  # type: ignore[arg-type]
    assert said(text + "def f(x):\n    return x[6]\n") == text.strip()
    assert said("def (") is None


def test_what_a_comprehension_first_runs_over_is_read_outside_it() -> None:
    asked = []
    code = "def f(y):\n    return [w for w in w if v for v in v] + [y for y in (u for u in u.t)]"
    shape(ast.parse(code), lambda node: asked.append(ast.unparse(node)))
    assert sorted(asked) == ["u", "u.t", "w"]
