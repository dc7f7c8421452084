"""What a piece of code says, without how it is written: by this, results know whether the code that made them is still the same."""

from __future__ import annotations

import ast
import linecache
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

    The same for every version of Python that parses it into the same tree. refer: what to write in the place of a name or a dotted name
    that is not one of the function's own, None to write it as it is. It is asked of annotations too, and what it says there is not written.
    """
    if isinstance(node, list):
        return [shape(part, refer) for part in node if not _unsaid(part)]
    if not isinstance(node, ast.AST):
        return node if isinstance(node, (str, bool, int, float)) else [repr(node)]
    if isinstance(node, (ast.Name, ast.Attribute)) and (found := refer(node)) is not None:
        return found
    inner = _hiding(_own(node), refer) if isinstance(node, FUNCTIONS + COMPREHENSIONS) else refer
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
    """The definition that a function's code was compiled from; None where there is no text of it, or two on its first line."""
    found = _functions("".join(linecache.getlines(code.co_filename))).get((code.co_name, code.co_firstlineno), [])
    return found[0] if len(found) == 1 else None


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


def _hiding(names: set[str], refer: Refer) -> Refer:
    """`refer`, not asked of these names."""

    def visible(node: ast.Name | ast.Attribute) -> Any:
        root: ast.AST = node
        while isinstance(root, ast.Attribute):
            root = root.value
        return None if isinstance(root, ast.Name) and root.id in names else refer(node)

    return visible
