"""What decides the rows of a cell, as far as it is code: the definitions that its measure can reach by name, and what it holds.

From the measure, the classes of the running model and that of its tokenizer, every name of a function, a class or a constant is
followed to where it is defined, in the file of the measure or in the package, and from there on. A class is taken whole, with its
bases. A name in an annotation is followed too, since methods are called on what it announces. Other packages are not followed.

The text that is read has to be that of the code that runs: where a definition was edited after it was loaded, there is no key.
What is found counts by what it says: moving or renaming a definition, formatting, comments, docstrings and the spelling of annotations
change no key, nor does any file that is not reached. Values count beside it: what a measure closes over, its defaults, the arguments
of a `partial`, and the plain data of a constant (numbers, texts, lists, ...) where they are not what its text says.

Not seen: what no name leads to, as `getattr` with a text; what the measure reads as it runs, as `os.environ` or a file; a constant that
is no plain data, as a tensor, and was changed after its definition. What the measured code only writes to decides nothing and is left out.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import linecache
import sys
from collections.abc import Callable, Iterable
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from ministeer.identity import identity, installed_file
from ministeer.model import refusal
from ministeer.source import FUNCTIONS, definition, node_of, parse, stands

DATA = (type(None), bool, int, float, complex, str, bytes, range)
CHANGING = {
    "add", "append", "appendleft", "clear", "discard", "extend", "insert", "pop", "popitem", "remove", "reverse", "setdefault",
    "sort", "update",
}  # fmt: skip
PACKAGE = Path(__file__).resolve().parents[1]
Place = tuple[Path, str]  # a file, and a name that it defines
Module = Path  # a module of the package as a path without its suffix


class Contents(NamedTuple):
    """A file: the statements by the names that they define, what its imports bring, `{name: (module, name there or None)}`, and the
    modules of which they bring all."""

    definitions: dict[str, list[ast.stmt]]
    imports: dict[str, tuple[Module, str | None]]
    stars: list[Module]


def code_key(measure: Callable[..., Any], classes: Iterable[type]) -> str:
    """16 hex digits of the SHA-256 of all that a measure and the classes it runs on can reach.

    Raises `ValueError` for a measure whose source or whose values cannot be read, and for a definition that was edited after it was
    loaded.
    """
    return Code(measure, classes).key()


class Code:
    """What a measure reaches. Its text is read once; its key is asked for at each cell, as values may change in between."""

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
        if any(space.get(name) is not thing and _plain(thing) is None for space, name, thing in self._bound):
            self._follow()  # a cell of a notebook was run again
        said = [self._said, captured(self.measure), self._reach.values()]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def links(measure: Any) -> list[Any]:
    """A measure, what it is a `partial` of or wraps, and so on."""
    inner = measure.func if isinstance(measure, partial) else getattr(measure, "__wrapped__", None)
    return [measure] if inner is None else [measure, *links(inner)]


def captured(measure: Callable[..., Any]) -> list[tuple[str, str]]:
    """What a measure holds besides its text, by name, each as its identity: arguments of a `partial`, what functions close over, and
    defaults. What a function only writes to is left out, as is what wrappers of other packages hold."""
    chain, found = links(measure), []
    for link in chain:
        held: dict[str, Any] = {}
        if isinstance(link, partial):
            held = {**{str(i): value for i, value in enumerate(link.args)}, **link.keywords}
        elif inspect.isfunction(link) and not installed_file(link.__code__.co_filename):
            given = inspect.signature(link, follow_wrapped=False).parameters.values()
            held = {part.name: part.default for part in given if part.default is not part.empty} | _closed(link)
            if held and (node := node_of(link.__code__)) is not None:
                written = _written(node)
                read = {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and id(part) not in written}
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
            "a measure that holds what can be read, since its key says what it is", f"{name} in it, a {type(value).__name__}",
            "give it as a setting, or make it in the measure",
        ) from error  # fmt: skip


def check_loaded(places: Iterable[Place]) -> None:
    """Refuse a function, a class or a plain constant whose file does not say what its module holds."""
    read, loaded = cache(_read), cache(_loaded)
    for file, name in places:
        for module in loaded(file):
            if not _as_loaded(file, read(file).definitions.get(name, []), vars(module).get(name)):
                raise refusal(
                    f"{name} as {file.name} says it", "one that was loaded before the file was edited, or set from elsewhere",
                    "begin again: what is measured so far is kept",
                )  # fmt: skip


def _loaded(file: Path) -> list[ModuleType]:
    """The modules that were loaded from a file."""
    alike = [m for m in list(sys.modules.values()) if str(getattr(m, "__file__", None)).endswith(file.name)]
    return [module for module in alike if Path(str(module.__file__)).resolve() == file]


def _as_loaded(file: Path, statements: list[ast.stmt], thing: Any) -> bool:
    """Whether the statements that define a name in a file say what a module holds by it, as far as that can be compared."""
    if isinstance(thing, (int, float, str, tuple)):
        said = _literal(statements)
        return said is None or bool(said[0] == thing)
    for part in _functions(statements):
        held = vars(thing).get(part.name) if isinstance(thing, type) else thing
        code = getattr(getattr(held, "__func__", held), "__code__", None)
        if held is not None and (code is None or Path(code.co_filename).resolve() != file):
            return False
    parts = vars(thing).values() if isinstance(thing, type) else [thing]
    functions = [inspect.unwrap(getattr(part, "fget", None) or getattr(part, "__func__", part)) for part in parts]
    codes = [part.__code__ for part in functions if inspect.isfunction(part)]
    return all(stands(code) for code in codes if Path(code.co_filename).resolve() == file)


def _functions(statements: list[ast.stmt]) -> list[ast.FunctionDef]:
    """The functions that a name stands for as they are written, a class's methods: those with a decorator may be anything."""
    if len(statements) != 1:
        return []
    inner = statements[0].body if isinstance(statements[0], ast.ClassDef) else statements
    return [part for part in inner if isinstance(part, ast.FunctionDef) and not part.decorator_list]


def _literal(statements: list[ast.stmt]) -> tuple[Any] | None:
    """The value that the one statement of a constant spells out, in a tuple; None where it is computed."""
    match statements:
        case [ast.Assign(targets=[ast.Name()], value=value) | ast.AnnAssign(value=ast.expr() as value)]:
            try:
                return (ast.literal_eval(value),)
            except (TypeError, ValueError):
                return None
    return None


def _plain(value: Any) -> Any:
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


class Reach:
    """Definitions in the order in which they are met. Each is written once, with the numbers of others in the place of their names."""

    def __init__(self) -> None:
        self.places: list[Place] = []
        self.nested: list[tuple[Path, ast.AST]] = []  # functions within functions, which no name of a file leads to
        self._read: set[Place] = set()  # what is not only written to
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
        """The plain data that constants hold where that is not what their text says, or, outside the package, is computed."""
        found = []
        for number, place in enumerate(self.places):
            (file, name), (home, _) = place, self.home(place)
            statements = self._contents(file).definitions[name]
            if place not in self._read or name not in home or isinstance(statements[0], (*FUNCTIONS, ast.ClassDef)):
                continue
            said, value = _literal(statements), _plain(home[name])
            if value is not None and (value != _plain(said[0]) if said else PACKAGE not in file.parents):
                found.append([number, value])
        return found

    def home(self, place: Place) -> tuple[dict[str, Any], str]:
        """The names that live where a definition stands, and its own."""
        file, name = place
        if file not in self._homes:
            self._homes[file] = next((vars(module) for module in _loaded(file)), {})
        return self._homes[file], name

    def _open(self, place: Place) -> None:
        """Follow the functions in a list or a dict of a file outside the package: a registry's are named nowhere else."""
        home, name = self.home(place)
        left = [] if PACKAGE in place[0].parents else [home.get(name)]
        for thing in left:  # which grows
            if type(thing) in (list, tuple, dict) and len(left) < 10000:
                left += thing.values() if isinstance(thing, dict) else thing
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
        written = _written(within)

        def refer(node: ast.Name | ast.Attribute) -> Any:
            found = self._resolve(file, node)
            if not isinstance(found, tuple):
                return None
            if isinstance(node.ctx, ast.Load) and id(node) not in written:
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
            self._files[file] = _read(file)
        return self._files[file]


def _read(file: Path) -> Contents:
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


def _altered(statement: ast.stmt) -> list[str]:
    """The names of what a statement of a file changes in place: `T` of `T[0] = 1`, `T.x = 1`, `T.append(1)`, and of a lone `T.x()`."""
    if isinstance(statement, (*FUNCTIONS, ast.ClassDef)):
        return []
    found = [statement.value.func] if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call) else []
    for node in ast.walk(statement):
        if isinstance(node, (ast.Subscript, ast.Attribute)) and not isinstance(node.ctx, ast.Load):
            found.append(node)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGING:
            found.append(node.func)
    return [root.id for node in found if isinstance(node, (ast.Subscript, ast.Attribute)) and (root := _root(node))]


def _written(within: ast.AST) -> set[int]:
    """The nodes, by id, at which code writes to a thing and reads nothing of it: `T` of a line `T.append(1)`, or of `T[0] = 1`."""
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
