"""What decides the rows of a cell, as far as it is code: what its measure can reach by name, and what it holds.

From the measure, the classes of the running model and that of its tokenizer, every name of a function, a class or a
constant is followed to where it is defined, in the file of the measure or in the package, and from there on. A class
is taken whole, with its bases. A name in an annotation is followed too, since methods are called on what it
announces. Other packages are not followed.

The text that is read has to be that of the code that runs: where a definition was edited after it was loaded, there
is no key. What is found counts by what it says: moving or renaming a definition, formatting, comments, docstrings and
the spelling of annotations change no key, nor does any file that is not reached. Values count beside it: what a
measure closes over, its defaults, the arguments of a `partial`, and the plain data of a constant (numbers, texts,
lists, ...) where they are not what its text says.

Not seen: what no name leads to, as `getattr` with a text; what the measure reads as it runs, as `os.environ` or a
file; a constant that is no plain data, as a tensor, and was changed after its definition. What the measured code only
writes to decides nothing and is left out.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any

from ministeer.identity import identity, installed_file
from ministeer.lab.reach import PACKAGE, Place, Reach, contents, literal, loaded, plain, written
from ministeer.model import refusal
from ministeer.source import node_of, stands


def code_key(measure: Callable[..., Any], classes: Iterable[type]) -> str:
    """16 hex digits of the SHA-256 of all that a measure and the classes it runs on can reach.

    Raises `ValueError` for a measure whose source or whose values cannot be read, and for a definition that was edited
    after it was loaded.
    """
    return Code(measure, classes).key()


class Code:
    """What a measure reaches. Its text is read once, its key asked for at each cell, as values change in between."""

    def __init__(self, measure: Callable[..., Any], classes: Iterable[type]) -> None:
        self.measure, self.classes = measure, sorted(classes, key=lambda kind: kind.__qualname__)
        self._follow()

    def _follow(self) -> None:
        reach = self._reach = Reach()
        *around, inner = links(self.measure)
        for link in around:
            reach.begin(link, last=False)
        reach.begin(inner)
        for kind in self.classes:
            if PACKAGE in Path(inspect.getfile(kind)).resolve().parents:
                reach.begin(kind)
        self._said = hashlib.sha256(json.dumps(reach.said()).encode()).hexdigest()
        check_loaded(reach.places)
        self._bound = [(space, name, space.get(name)) for space, name in map(reach.home, reach.places)]

    def key(self) -> str:
        if any(space.get(name) is not thing and plain(thing) is None for space, name, thing in self._bound):
            self._follow()  # a cell of a notebook was run again
        said = [self._said, captured(self.measure), self._reach.values()]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def links(measure: Any) -> list[Any]:
    """A measure, what it is a `partial` of or wraps, and so on."""
    inner = measure.func if isinstance(measure, partial) else getattr(measure, "__wrapped__", None)
    return [measure] if inner is None else [measure, *links(inner)]


def captured(measure: Callable[..., Any]) -> list[tuple[str, str]]:
    """What a measure holds besides its text, each by its name and identity: arguments of a `partial`, what functions
    close over, and defaults. What a function only writes to is left out, and what wrappers of other packages hold."""
    chain, found = links(measure), []
    for link in chain:
        held: dict[str, Any] = {}
        if isinstance(link, partial):
            held = {**{str(i): value for i, value in enumerate(link.args)}, **link.keywords}
        elif inspect.isfunction(link) and not installed_file(link.__code__.co_filename):
            given = inspect.signature(link, follow_wrapped=False).parameters.values()
            held = {part.name: part.default for part in given if part.default is not part.empty} | _closed(link)
            if held and (node := node_of(link.__code__)) is not None:
                only = written(node)
                read = {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and id(part) not in only}
                held = {name: value for name, value in held.items() if name in read}
        for name, value in held.items():
            if not any(value is part for part in chain):
                found.append((name, _identity(name, value)))
    return found


def _closed(function: Any) -> dict[str, Any]:
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    return found


def _identity(name: str, value: Any) -> str:
    try:
        return identity(value)
    except ValueError as error:
        raise refusal(
            "a measure that holds what can be read, since its key says what it is",
            f"{name} in it, a {type(value).__name__}",
            "give it as a setting, or make it in the measure",
        ) from error


def check_loaded(places: Iterable[Place]) -> None:
    """Refuse a function, a class or a plain constant whose file does not say what its module holds."""
    said, modules = cache(contents), cache(loaded)
    for file, name in places:
        for module in modules(file):
            if not _as_loaded(file, said(file).definitions.get(name, []), vars(module).get(name)):
                raise refusal(
                    f"{name} as {file.name} says it",
                    "one that was loaded before the file was edited, or set from elsewhere",
                    "begin again: what is measured so far is kept",
                )


def _as_loaded(file: Path, statements: list[ast.stmt], thing: Any) -> bool:
    """Whether the statements that define a name say what a module holds by it, as far as that can be compared."""
    if isinstance(thing, (int, float, str, tuple)):
        said = literal(statements)
        return said is None or bool(said[0] == thing)
    for part in _functions(statements, isinstance(thing, type)):
        held = vars(thing).get(part.name) if isinstance(thing, type) else thing
        code = getattr(getattr(held, "__func__", held), "__code__", None)
        if held is not None and (code is None or Path(code.co_filename).resolve() != file):
            return False
    parts = vars(thing).values() if isinstance(thing, type) else [thing]
    functions = [inspect.unwrap(getattr(part, "fget", None) or getattr(part, "__func__", part)) for part in parts]
    codes = [part.__code__ for part in functions if inspect.isfunction(part)]
    return all(stands(code) for code in codes if Path(code.co_filename).resolve() == file)


def _functions(statements: list[ast.stmt], of_class: bool) -> list[ast.FunctionDef]:
    """The function, or a class's methods, that a name stands for as they are written: one with a decorator may be
    anything, and an enumeration replaces `__new__`."""
    if len(statements) != 1 or isinstance(statements[0], ast.ClassDef) != of_class:
        return []
    inner = statements[0].body if isinstance(statements[0], ast.ClassDef) else statements
    found = [part for part in inner if isinstance(part, ast.FunctionDef) and not part.decorator_list]
    return [part for part in found if part.name != "__new__"]
