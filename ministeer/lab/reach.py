"""What code can reach by name: definitions in its file, in those beside it and in the package, and what they hold."""

from __future__ import annotations

import ast
import inspect
import json
import linecache
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from ministeer.identity import installed_file
from ministeer.source import FUNCTIONS, definition, node_of, parse

DATA = (type(None), bool, int, float, complex, str, bytes, range)
CHANGING = {
    "add", "append", "appendleft", "clear", "discard", "extend", "insert", "pop", "popitem", "remove", "reverse",
    "setdefault", "sort", "update",
}  # fmt: skip
PACKAGE = Path(__file__).resolve().parents[1]
Place = tuple[Path, str]  # a file, and a name that it defines
Module = Path  # a module of the package as a path without its suffix


class Contents(NamedTuple):
    """A file: the statements by the names that they define, what its imports bring, `{name: (module, name there or
    None)}`, and the modules of which they bring all."""

    definitions: dict[str, list[ast.stmt]]
    imports: dict[str, tuple[Module, str | None]]
    stars: list[Module]


class Reach:
    """Definitions as they are met. Each is written once, with the numbers of others in the place of their names."""

    def __init__(self) -> None:
        self.places: list[Place] = []
        self.nested: list[tuple[Path, ast.AST]] = []  # functions within functions, which no name of a file leads to
        self._read: set[Place] = set()  # what is not only written to
        self._unwritten: dict[Place, None] = {}  # names that are read and that no text defines, as what `exec` gave
        self._files: dict[Path, Contents] = {}
        self._homes: dict[Path, dict[str, Any]] = {}

    def begin(self, thing: Any, last: bool = True) -> None:
        """last: nothing stands behind it, as the function behind a wrapper; such a one may go unread."""
        code = thing.__code__ if inspect.isfunction(thing) else None
        name = getattr(thing, "__qualname__", type(thing).__qualname__)
        if code or isinstance(thing, type):
            file = Path(code.co_filename if code else inspect.getfile(thing)).resolve()
            if code:
                self._homes.setdefault(file, thing.__globals__)
            if last and file.is_file() and name in self._contents(file).definitions:
                self._number((file, name))
                return
            if code and not installed_file(str(file)) and (node := node_of(code)) is not None:
                self.nested.append((file, node))
                return
        if last:
            raise ValueError(f"expected a measure whose source can be read, got {name}; define it by itself in a file")

    def said(self) -> list[Any]:
        """The shapes of all that is reached from what was begun with."""
        found = [definition(node, self._refer(file, node)) for file, node in self.nested]
        for place in self.places:  # which grow on the way
            file, name = place
            statements = self._contents(file).definitions[name]
            found.append([definition(part, self._refer(file, part)) for part in statements])
            self._open(place)
        return found

    def values(self) -> list[Any]:
        """The plain data of constants, where it is not what their text says or, outside the package, is computed."""
        found = []
        for number, place in enumerate(self.places):
            (file, name), (home, _) = place, self.home(place)
            statements = self._contents(file).definitions[name]
            if place not in self._read or name not in home or isinstance(statements[0], (*FUNCTIONS, ast.ClassDef)):
                continue
            said, value = literal(statements), plain(home[name])
            if value is not None and (value != plain(said[0]) if said else PACKAGE not in file.parents):
                found.append([number, value])
        for place in self._unwritten:
            home, name = self.home(place)
            # __file__ says where it lies, __name__ how it was begun
            if name in home and not name.startswith("__") and (value := plain(home[name])) is not None:
                found.append([name, value])
        return found

    def home(self, place: Place) -> tuple[dict[str, Any], str]:
        """The names that live where a definition stands, and its own."""
        file, name = place
        if file not in self._homes:
            self._homes[file] = next((vars(module) for module in loaded(file)), {})
        return self._homes[file], name

    def _open(self, place: Place) -> None:
        """Follow the functions in a list or a dict outside the package: a registry's are named nowhere else."""
        home, name = self.home(place)
        left = [] if PACKAGE in place[0].parents else [home.get(name)]
        for thing in left:  # which grows
            if isinstance(thing, (list, tuple, dict)) and len(left) < 10000:
                left += list(thing.values() if isinstance(thing, dict) else thing)
            elif inspect.isfunction(thing) and not installed_file(thing.__code__.co_filename):
                file = Path(thing.__code__.co_filename).resolve()
                if file.is_file() and thing.__qualname__ in self._contents(file).definitions:
                    self._number((file, thing.__qualname__))

    def _number(self, place: Place) -> int:
        if place not in self.places:
            self.places.append(place)
        return self.places.index(place)

    def _refer(self, file: Path, within: ast.AST) -> Callable[[ast.Name | ast.Attribute], Any]:
        """What to write in the place of the names in a definition of a file."""
        only = written(within)

        def refer(node: ast.Name | ast.Attribute) -> Any:
            found = self._resolve(file, node)
            if not isinstance(found, tuple):
                if found is None and isinstance(node, ast.Name) and node.id not in self._contents(file).imports:
                    self._unwritten[file, node.id] = None
                return None
            if isinstance(node.ctx, ast.Load) and id(node) not in only:
                self._read.add(found)
            return ["definition", self._number(found)]

        return refer

    def _resolve(self, file: Path, node: ast.expr) -> Place | Module | None:
        """What a name or a dotted name in a file leads to; None for what is not of the package."""
        if isinstance(node, ast.Name):
            return self._named(file, node.id)
        module = self._resolve(file, node.value) if isinstance(node, ast.Attribute) else None
        return self._member(module, node.attr) if isinstance(module, Path) else None  # type: ignore[attr-defined]

    def _named(self, file: Path, name: str) -> Place | Module | None:
        definitions, imports, _ = self._contents(file)
        if name in definitions:
            return file, name
        if name not in imports:
            return self._starred(file, name)
        module, member = imports[name]
        return module if member is None else self._member(module, member)

    def _member(self, module: Module, name: str) -> Place | Module | None:
        """What a module holds by a name: a definition, what it imports itself, or a module in it."""
        file = _file(module)
        if file is None:
            return None
        definitions, imports, _ = self._contents(file)
        if name in definitions or imports.get(name, (module, name)) != (module, name):
            return self._named(file, name)
        return self._starred(file, name) or (module / name if _file(module / name) else None)

    def _starred(self, file: Path, name: str) -> Place | Module | None:
        """What `from module import *` brings by a name, from modules that may do so themselves."""
        files = [file]
        for one in files:  # which grow
            more = [there for module in reversed(self._contents(one).stars) if (there := _file(module))]
            files += [there for there in more if there not in files]
        for there in files[1:]:
            definitions, imports, _ = self._contents(there)
            if name in definitions or name in imports:
                return self._named(there, name)
        return None

    def _contents(self, file: Path) -> Contents:
        if file not in self._files:
            self._files[file] = contents(file)
        return self._files[file]


def contents(file: Path) -> Contents:
    tree = ast.Module([statement for text in _texts(file) for statement in parse(text).body], [])
    definitions: dict[str, list[ast.stmt]] = {}
    named: set[str] = set()
    for statement in tree.body:
        named |= (own := dict.fromkeys(_defined(statement))).keys()
        for name in own | dict.fromkeys(_altered(statement)):
            definitions.setdefault(name, []).append(statement)
    imports: dict[str, tuple[Module, str | None]] = {}
    stars: list[Module] = []
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
            brought = {alias.asname or alias.name: (module, alias.name) for alias in node.names}
            stars += [module] if brought.pop("*", None) else []
            imports.update(brought)
    # what is changed here and made elsewhere is no definition of this file
    return Contents({name: found for name, found in definitions.items() if name in named}, imports, stars)


def _texts(file: Path) -> list[str]:
    """What a file says. A cell of a notebook is no file, and names in it may be another's: what each said that ran."""
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


def _altered(statement: ast.stmt) -> list[str]:
    """The names of what a statement changes in place: `T` of `T[0] = 1`, `T.x = 1`, `T.append(1)`, a lone `T.x()`."""
    if isinstance(statement, (*FUNCTIONS, ast.ClassDef)):
        return []
    found = [statement.value.func] if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call) else []
    for node in ast.walk(statement):
        if isinstance(node, (ast.Subscript, ast.Attribute)) and not isinstance(node.ctx, ast.Load):
            found.append(node)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGING:
            found.append(node.func)
    return [root.id for node in found if isinstance(node, (ast.Subscript, ast.Attribute)) and (root := _root(node))]


def written(within: ast.AST) -> set[int]:
    """The nodes, by id, where code writes to a thing and reads nothing: `T` of a line `T.append(1)` or `T[0] = 1`."""
    found: list[ast.expr] = []
    for node in ast.walk(within):
        if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            found.append(node.value)
        elif isinstance(node, ast.Expr) and isinstance(call := node.value, ast.Call):
            found += [call.func.value] if isinstance(call.func, ast.Attribute) and call.func.attr in CHANGING else []
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            found.append(node)
    return {id(node) for node in found}


def _root(node: ast.expr) -> ast.Name | None:
    """The name that a dotted name or an entry begins with."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return node if isinstance(node, ast.Name) else None


def _module(file: Path, name: str, level: int = 0) -> Module:
    """Where a module lies that a file imports: in the package, or beside a file outside it."""
    parts = name.split(".") if name else []
    if level:
        return file.parents[level - 1].joinpath(*parts)
    return (PACKAGE.parent if parts[0] == PACKAGE.name else file.parent).joinpath(*parts)


def _file(module: Module) -> Path | None:
    return next((path for path in (module.with_suffix(".py"), module / "__init__.py") if path.is_file()), None)


def literal(statements: list[ast.stmt]) -> tuple[Any] | None:
    """The value that the one statement of a constant spells out, in a tuple; None where it is computed."""
    match statements:
        case [ast.Assign(targets=[ast.Name()], value=value) | ast.AnnAssign(value=ast.expr() as value)]:
            try:
                return (ast.literal_eval(value),)
            except (TypeError, ValueError):
                return None
    return None


def plain(value: Any) -> Any:
    """Plain data, as JSON can hold it and the same for equal data; None in the place of all else."""
    try:
        return _data(value)
    except RecursionError:  # of what holds itself
        return None


def _data(value: Any) -> Any:
    if type(value) in DATA:
        return repr(value)
    if type(value) in (list, tuple):
        return [type(value).__name__, *map(_data, value)]
    if type(value) in (set, frozenset):
        return ["set", *sorted(map(_data, value), key=json.dumps)]
    if type(value) is dict:
        return ["dict", *([_data(name), _data(part)] for name, part in value.items())]
    return None


def loaded(file: Path) -> list[ModuleType]:
    """The modules that were loaded from a file."""
    alike = [m for m in list(sys.modules.values()) if str(getattr(m, "__file__", None)).endswith(file.name)]
    return [module for module in alike if Path(str(module.__file__)).resolve() == file]
