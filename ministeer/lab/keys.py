"""What decides the rows of a cell, as far as it is code: the definitions that its measure can reach by name.

From the measure, the classes of the running model and that of its tokenizer, every name of a function, a class or a constant is
followed to where it is defined, in the file of the measure or in the package, and from there on. A class is taken whole, with its
bases. A name in an annotation is followed too, since methods are called on what it announces. Other packages are not followed.

The text that is read has to be that of the code that runs: where a definition was edited after it was loaded, there is no key.
What is found counts by what it says: moving or renaming a definition, formatting, comments, docstrings and the spelling of annotations
change no key, nor does any file that is not reached. What no name leads to, as `getattr` with a text, is not seen.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import linecache
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from ministeer.model import refusal
from ministeer.source import definition, node_of, parse, stands

PACKAGE = Path(__file__).resolve().parents[1]
Place = tuple[Path, str]  # a file, and a name that it defines
Module = Path  # a module of the package as a path without its suffix


class Contents(NamedTuple):
    """A file: the statements by the names that they define, and what its imports bring, `{name: (module, name there or None)}`."""

    definitions: dict[str, list[ast.stmt]]
    imports: dict[str, tuple[Module, str | None]]


def code_key(measure: Callable[..., Any], classes: Iterable[type]) -> str:
    """16 hex digits of the SHA-256 of all that a measure and the classes it runs on can reach.

    Raises `ValueError` for a measure whose source cannot be read, and for a definition that was edited after it was loaded.
    """
    reach = Reach()
    reach.begin(measure)
    for kind in sorted(classes, key=lambda kind: kind.__qualname__):
        if PACKAGE in Path(inspect.getfile(kind)).resolve().parents:
            reach.begin(kind)
    said = json.dumps(reach.said())
    check_loaded(reach.places)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def check_loaded(places: Iterable[Place]) -> None:
    """Refuse a function, a class or a plain constant whose file no longer says what its module loaded."""
    loaded = [module for module in list(sys.modules.values()) if getattr(module, "__file__", None)]
    of: dict[Path, list[ModuleType]] = {}
    for file, name in places:
        if file not in of:
            alike = [module for module in loaded if str(module.__file__).endswith(file.name)]
            of[file] = [module for module in alike if Path(str(module.__file__)).resolve() == file]
        for module in of[file]:
            if not _as_loaded(file, name, vars(module).get(name)):
                raise refusal(
                    f"{name} as {file.name} says it", "one that was loaded before the file was edited",
                    "begin again: what is measured so far is kept",
                )  # fmt: skip


def _as_loaded(file: Path, name: str, thing: Any) -> bool:
    """Whether a file says what a module holds by this name, as far as that can be compared."""
    if isinstance(thing, (int, float, str, tuple)):
        match _read(file).definitions.get(name):
            case [ast.Assign(targets=[ast.Name()], value=value) | ast.AnnAssign(value=ast.expr() as value)]:
                try:
                    return bool(ast.literal_eval(value) == thing)
                except (TypeError, ValueError):  # computed
                    return True
        return True
    parts = vars(thing).values() if isinstance(thing, type) else [thing]
    functions = [inspect.unwrap(getattr(part, "fget", None) or getattr(part, "__func__", part)) for part in parts]
    codes = [part.__code__ for part in functions if inspect.isfunction(part)]
    return all(stands(code) for code in codes if Path(code.co_filename).resolve() == file)


class Reach:
    """Definitions in the order in which they are met. Each is written once, with the numbers of others in the place of their names."""

    def __init__(self) -> None:
        self.places: list[Place] = []
        self.nested: list[tuple[Path, ast.AST]] = []  # functions within functions, which no name of a file leads to
        self._files: dict[Path, Contents] = {}

    def begin(self, thing: Callable[..., Any]) -> None:
        thing = inspect.unwrap(thing)
        file, name = Path(inspect.getfile(thing)).resolve(), thing.__qualname__
        if file.is_file() and name in self._contents(file).definitions:
            self._number((file, name))
        elif inspect.isfunction(thing) and (node := node_of(thing.__code__)) is not None:
            self.nested.append((file, node))
        else:
            raise ValueError(f"expected a measure whose source can be read, got {name}; define it by itself in a file")

    def said(self) -> list[Any]:
        """The shapes of all that is reached from what was begun with."""
        found = [definition(node, self._refer(file)) for file, node in self.nested]
        for file, name in self.places:  # which grow on the way
            found.append([definition(part, self._refer(file)) for part in self._contents(file).definitions[name]])
        return found

    def _number(self, place: Place) -> int:
        if place not in self.places:
            self.places.append(place)
        return self.places.index(place)

    def _refer(self, file: Path) -> Callable[[ast.Name | ast.Attribute], Any]:
        """What to write in the place of the names in a file."""

        def refer(node: ast.Name | ast.Attribute) -> Any:
            found = self._resolve(file, node)
            return ["definition", self._number(found)] if isinstance(found, tuple) else None

        return refer

    def _resolve(self, file: Path, node: ast.expr) -> Place | Module | None:
        """What a name or a dotted name in a file leads to; None for what is not of the package."""
        if isinstance(node, ast.Name):
            return self._named(file, node.id)
        module = self._resolve(file, node.value) if isinstance(node, ast.Attribute) else None
        return self._member(module, node.attr) if isinstance(module, Path) else None  # type: ignore[attr-defined]

    def _named(self, file: Path, name: str) -> Place | Module | None:
        definitions, imports = self._contents(file)
        if name in definitions:
            return file, name
        module, member = imports.get(name, (None, None))
        return module if module is None or member is None else self._member(module, member)

    def _member(self, module: Module, name: str) -> Place | Module | None:
        """What a module holds by a name: a definition, what it imports itself, or a module in it."""
        file = _file(module)
        if file is None:
            return None
        definitions, imports = self._contents(file)
        if name in definitions or imports.get(name, (module, name)) != (module, name):
            return self._named(file, name)
        return module / name if _file(module / name) else None

    def _contents(self, file: Path) -> Contents:
        if file not in self._files:
            self._files[file] = _read(file)
        return self._files[file]


def _read(file: Path) -> Contents:
    tree = ast.Module([statement for text in _texts(file) for statement in parse(text).body], [])
    definitions: dict[str, list[ast.stmt]] = {}
    for statement in tree.body:
        for name in dict.fromkeys(_defined(statement)):
            definitions.setdefault(name, []).append(statement)
    imports: dict[str, tuple[Module, str | None]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                # `import a.b` brings a, `import a.b as c` brings a.b
                imports[alias.asname or alias.name.split(".")[0]] = (
                    _module(file, alias.name if alias.asname else alias.name.split(".")[0]),
                    None,
                )
        elif isinstance(node, ast.ImportFrom):
            module = _module(file, node.module or "", node.level)
            imports.update({alias.asname or alias.name: (module, alias.name) for alias in node.names})
    return Contents(definitions, imports)


def _texts(file: Path) -> list[str]:
    """What a file says. A cell of a notebook is no file, and names in it may be another cell's: of one, what each cell said that ran."""
    if file.is_file():
        return [file.read_text(encoding="utf-8")]
    beside = [
        name for name in linecache.cache if (path := Path(name).resolve()).parent == file.parent and not path.is_file()
    ]
    return ["".join(linecache.getlines(name)) for name in beside]


def _defined(node: ast.AST) -> list[str]:
    """The names that a statement gives to its file, also where it is an `if` around others."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    own = [node.id] if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else []
    return own + [name for child in ast.iter_child_nodes(node) for name in _defined(child)]


def _module(file: Path, name: str, level: int = 0) -> Module:
    """Where a module lies that a file imports: in the package, or beside a file outside it."""
    parts = name.split(".") if name else []
    if level:
        return file.parents[level - 1].joinpath(*parts)
    return (PACKAGE.parent if parts[0] == PACKAGE.name else file.parent).joinpath(*parts)


def _file(module: Module) -> Path | None:
    return next((path for path in (module.with_suffix(".py"), module / "__init__.py") if path.is_file()), None)
