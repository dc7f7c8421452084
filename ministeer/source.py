"""What code says, not how it is written: this tells whether the code that made a result is still the same."""

from __future__ import annotations

import ast
import linecache
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache
from types import CodeType
from typing import Any

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
UNSAID = {"ctx", "kind", "type_comment", "type_params", "annotation", "returns"}  # fields of ast that compute nothing

Refer = Callable[[ast.Name | ast.Attribute], Any]


def shape(node: Any, refer: Refer = lambda name: None) -> Any:
    """A node of `ast` as lists that JSON can hold: no positions, comments, docstrings, imports or annotations.

    The same for every version of Python that parses it into the same tree. refer: what to write for a name or dotted name
    that is not the function's own, None to keep it. It is called on annotations too, but what it returns there is not written.
    """
    if isinstance(node, list):
        return [shape(part, refer) for part in node if not _unsaid(part)]
    if not isinstance(node, ast.AST):
        return node if isinstance(node, (str, bool, int, float)) else [repr(node)]
    if isinstance(node, (ast.Name, ast.Attribute)) and (found := refer(node)) is not None:
        return found
    inner = _hiding(node, refer) if isinstance(node, FUNCTIONS + COMPREHENSIONS) else refer
    said = []
    for field, value in ast.iter_fields(node):
        if value is None or value == []:
            continue  # a field that is not there, in one version or in all
        # a function's defaults and decorators are read outside it
        part = shape(value, refer if isinstance(node, FUNCTIONS) and field != "body" else inner)
        if field not in UNSAID:
            said.append([field, part])
    return [type(node).__name__, *said]


def definition(node: ast.AST, refer: Refer = lambda name: None) -> Any:
    """The shape of a function or a class without its own name, or of another statement."""
    return [part for part in shape(node, refer) if part[0] != "name"]


def node_of(code: CodeType) -> ast.AST | None:
    """The definition that a function's code was compiled from; None where there is no text of it, or two on its first line.

    Text edited since may describe other code, so it counts for a function only if it compiles to the same one.
    """
    text = text_of(code)
    lines = _compiled(text).get(_bare(code), [])
    if not lines:
        return None
    line = code.co_firstlineno if code.co_firstlineno in lines else lines[0]  # moved by an edit above it
    found = _functions(text).get((code.co_name, line), [])
    return found[0] if len(found) == 1 else None


def text_of(code: CodeType) -> str:
    """The present text of the file that code came from; empty if there is none."""
    linecache.checkcache(code.co_filename)
    return "".join(linecache.getlines(code.co_filename))


@lru_cache(maxsize=64)
def _compiled(text: str) -> dict[CodeType, list[int]]:
    """What the functions of a text compile to, and on which lines they begin."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python gave them when it compiled the text to run it
            whole = compile(parse(text), "", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError):
        return {}
    found: dict[CodeType, list[int]] = {}
    left = [whole]
    while left:
        inner = [part for part in left.pop().co_consts if isinstance(part, CodeType)]
        for code in inner:
            found.setdefault(_bare(code), []).append(code.co_firstlineno)
        left += inner
    return found


def _bare(code: CodeType) -> CodeType:
    """A code without its lines, and without `__future__`, which in a notebook an earlier cell may have imported."""
    consts = tuple(_bare(part) if isinstance(part, CodeType) else part for part in code.co_consts)
    return code.replace(co_consts=consts, co_firstlineno=1, co_linetable=b"", co_flags=code.co_flags & 0xFFFF)


@lru_cache(maxsize=64)
def _functions(text: str) -> dict[tuple[str, int], list[ast.AST]]:
    """The functions of a text by their name and first line, that of a decorator if they have one."""
    found: dict[tuple[str, int], list[ast.AST]] = {}
    for node in ast.walk(parse(text)):
        if isinstance(node, FUNCTIONS):
            line = min(part.lineno for part in [node, *getattr(node, "decorator_list", [])])
            found.setdefault((getattr(node, "name", "<lambda>"), line), []).append(node)
    return found


@lru_cache(maxsize=64)
def parse(text: str) -> ast.Module:
    """The text as a tree; an empty one of text that is not Python, as a cell of a notebook with a magic in it."""
    try:
        return ast.parse(text)
    except SyntaxError:
        return ast.Module([], [])


def _unsaid(node: Any) -> bool:
    """Whether a line is an import, whose names count where they are used, or a text alone, as a docstring is."""
    text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    return text or isinstance(node, (ast.Import, ast.ImportFrom))


def _own(scope: ast.AST) -> set[str]:
    """The names that belong to a function or a comprehension: its parameters, and what it assigns to."""
    arguments = scope.args if isinstance(scope, FUNCTIONS) else None
    names = {node.arg for node in ast.walk(arguments) if isinstance(node, ast.arg)} if arguments else set()
    outside: set[str] = set()
    for node in _within(scope):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        if isinstance(node, (ast.Global, ast.Nonlocal)):
            outside |= {*node.names}
    return names - outside


def _within(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a scope but for those of the scopes in it."""
    for child in ast.iter_child_nodes(scope):
        yield child
        if not isinstance(child, (*FUNCTIONS, *COMPREHENSIONS, ast.ClassDef)):
            yield from _within(child)


def _hiding(scope: ast.AST, refer: Refer) -> Refer:
    """`refer`, not asked of a scope's own names; what a comprehension first runs over is read outside it."""
    names = _own(scope)
    outside = {*ast.walk(scope.generators[0].iter)} if isinstance(scope, COMPREHENSIONS) else set()

    def visible(node: ast.Name | ast.Attribute) -> Any:
        root: ast.AST = node
        while isinstance(root, ast.Attribute):
            root = root.value
        own = isinstance(root, ast.Name) and root.id in names and node not in outside
        return None if own else refer(node)

    return visible
