"""One experiment's measurements on disk: `results/<model>/cells/NN_name.jsonl`, with everything they depend on, and of them
`NN_name.json`, what the report shows.

An experiment is cut into cells. A cell is a function of the model and of settings that can be written down, so its
key says what decides its rows: the function with all that it calls and holds, as `identity.identity` tells it, its
settings, the weights, the model's config, what decides the tokenizer's ids, the dtype and the device. A cell whose
key is in the file is not computed again: an interrupted run continues, whatever changed is computed anew, and a
change of the package that no measure reaches costs nothing.
"""

from __future__ import annotations

import argparse
import builtins
import hashlib
import json
import operator
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from ministeer.checkpoint import load
from ministeer.files import append_lines, make_folder, read_lines, write_text
from ministeer.identity import identity, model_identity, products, state
from ministeer.model import Transformer, refusal
from ministeer.pack import int8
from ministeer.provenance import data_hash, fingerprint
from ministeer.receipt import Receipt
from ministeer.tokenizer import Tokenizer
from ministeer.vectors import SteeringVector, vector_hash

Row = dict[str, Any]
Measure = Callable[..., list[Row]]
QUICK = 4  # of how many items, and draws of vectors, the quick subset takes one


class Experiment:
    """A model, and the file in which what is measured on it is kept.

    Ask it for vectors and cells, then `save` what the report is to show of them.
    """

    def __init__(
        self,
        name: str,
        model: str,
        *,
        dtype: str = "float32",
        device: str = "cpu",
        results: str | Path = "results",
        quick: bool = False,
    ) -> None:
        self.name, self.model_name, self.dtype, self.device, self.quick = name, str(model), dtype, device, quick
        self.options = argparse.Namespace()
        self.model: Transformer
        self.tokenizer: Tokenizer
        self.model, self.tokenizer = load(model, device=device, dtype="bfloat16" if dtype == "int8" else dtype)
        if dtype == "int8":
            int8(self.model)
        self.weights = fingerprint(self.model)
        self._loaded = state(self.model)
        # to the bit: a fingerprint, by which vectors know their model, is the same after a rounding to bfloat16
        self._model = [model_identity(self.model), identity([type(self.tokenizer), SteeringVector])]
        self._vocabulary = data_hash([*self.tokenizer.files().values()])
        self.folder = Path(results) / (Path(model).name + ("-quick" if quick else ""))
        make_folder(self.folder)
        self.path = self.folder / f"{name}.json"
        self.journal = self.folder / "cells" / f"{name}.jsonl"  # a line a cell
        make_folder(self.journal.parent)
        try:
            known = {cell["key"]: {**cell, "rows": [*cell["rows"]]} for cell in read_lines(self.journal)}
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{self.journal}: expected cells with a key and rows, got others ({error!r}); remove it to measure again"
            ) from error
        self._check_folder()
        self._known: dict[str, Row] = known
        self._used: dict[str, Row] = {}
        self._vectors: set[Path] = set()
        self._told: dict[Any, str] = {}  # what this package's functions are, while its names mean
        self._bound: list[Any] = []  # these values
        self._seconds = 0.0  # in the model, of vectors made and cells measured now
        self._reused = 0  # vectors and cells that were there

    @classmethod
    def from_command_line(cls, name: str, parser: argparse.ArgumentParser | None = None) -> Experiment:
        """For the scripts in examples/: `--model nano --dtype float32 --device cpu --results results --subset all`.

        parser: `command_line()` with options or defaults of the script's own; what was asked for is the experiment's `options`.

        In a notebook, whose command line is the kernel's, all are as they are here. From here on, a disk that cannot be written ends the
        script with one sentence; what was measured stays in the journal.
        """
        ours = not in_notebook() or Path(sys.argv[0]).stem == name
        options = (parser or command_line()).parse_args(sys.argv[1:] if ours else [])
        sys.excepthook = partial(_end, name)
        try:
            lab = cls(
                name,
                options.model,
                dtype=options.dtype,
                device=options.device,
                results=options.results,
                quick=options.subset == "quick",
            )
        except (ValueError, OSError) as error:
            sys.exit(f"{name}: {error}")
        lab.options = options
        return lab

    def cell(self, measure: Measure, **settings: Any) -> list[Row]:
        """The rows of `measure(model, tokenizer, **settings)`, from the file if they are there.

        Settings are plain values, as JSON has them, or steering vectors, which are written as their provenance. The
        rows are a copy, as they are read back from the file. What a measure holds counts as it is now, a list that it
        fills too, so let it return what it finds. What it asks of the world while it runs does not count: give a file's
        text or a seed as a setting. Raises `ValueError` for a model changed since its loading, as far as that is seen:
        `tensor.data[5, 5] = 0` is not (docs/design.md).
        """
        key = self._key(measure, settings)
        if key in self._known:
            self._reused += key not in self._used
        else:
            start = time.perf_counter()
            rows = measure(self.model, self.tokenizer, **settings)
            seconds = time.perf_counter() - start
            self._seconds += seconds
            cell = {
                "key": key,
                "measure": _name(measure),
                "model": self.model_name,
                "settings": {name: _short(value) for name, value in settings.items()},
                **self._where(),
                "seconds": round(seconds, 2),
                "rows": rows,
            }
            line = _line(cell)
            append_lines(self.journal, [line])
            self._known[key] = json.loads(line)
        self._used[key] = self._known[key]
        found: list[Row] = json.loads(json.dumps(self._known[key]["rows"]))
        return found

    def vector(self, make: Callable[..., SteeringVector], **settings: Any) -> SteeringVector:
        """The vector `make(model, tokenizer, **settings)`, kept as `vectors/<name>.<key>.safetensors`."""
        path = self.folder / "vectors" / f"{self.name}.{self._key(make, settings)}.safetensors"
        if path.exists():
            self._reused += path not in self._vectors
        else:
            start = time.perf_counter()
            make_folder(path.parent)
            make(self.model, self.tokenizer, **settings).save(path)
            self._seconds += time.perf_counter() - start
        self._vectors.add(path)
        return SteeringVector.load(path)  # made by this model, as its name says

    def part(self, items: Sequence[Any]) -> Sequence[Any]:
        """All items to be measured, or every fourth where the run is a quick one."""
        return items[:: QUICK if self.quick else 1]

    def progress(self, items: Iterable[Any], label: str) -> Iterable[Any]:
        """The items, with a progress bar on the terminal if tqdm is installed."""
        try:
            from tqdm import tqdm
        except ImportError:
            return items
        bar: Iterable[Any] = tqdm(items, desc=f"{self.name}: {label}", leave=False, disable=None)
        return bar

    def save(
        self,
        *,
        title: str,
        question: str,
        protocol: str,
        finding: str,
        receipt: Receipt | str,
        figures: Sequence[Row] = (),
        tables: Sequence[Row] = (),
        evidence: dict[str, dict[str, Row]] | None = None,
        samples: Row | None = None,
    ) -> None:
        """Write the file with its page of the report, keep of cells and files only those this run used; print the finding.

        receipt: what the run of the experiment's main result did. figures: {"file", "alt", "caption"}, the file in this experiment's folder. tables: {"caption", "columns", "rows"}.
        evidence: for claims by their key, by seed, as `claims.judge` takes it. samples: a table of steered texts for the report's first screen, a prompt a row,
        and after the prompt's a column for each strength, named by it and by what was measured there.
        """
        page = {
            "title": title,
            "question": question,
            "protocol": protocol,
            "finding": finding,
            "receipt": str(receipt),
            "figures": list(figures),
            "tables": list(tables),
            "samples": samples,
            "command": self._command(),
        }
        everything = {
            "name": self.name,
            "model": self.model_name,
            "quick": self.quick,
            "peak": _peak_memory(),
            "seconds": round(self._seconds, 1),
            "reused": self._reused,
            "took": round(sum(cell["seconds"] for cell in self._used.values()), 1),  # whenever it was measured
            **self._where(),
            "page": page,
            "evidence": evidence or {},
        }
        before = self._figures()
        write_text(self.journal, "".join(f"{_line(cell)}\n" for cell in self._used.values()))
        write_text(self.path, json.dumps(everything, indent=1, ensure_ascii=False, default=_plain) + "\n")
        drawn = {self.folder / figure["file"] for figure in figures}
        ours = re.compile(rf"{re.escape(self.name)}\.[0-9a-f]{{16}}\.safetensors")
        made = {path for path in (self.folder / "vectors").glob("*.safetensors") if ours.fullmatch(path.name)}
        for path in (made | before) - self._vectors - drawn:
            path.unlink(missing_ok=True)
        if in_notebook():
            from IPython.display import SVG, display

            for path in sorted(drawn):
                display(SVG(filename=str(path)))
        print(f"{self.name}: {finding} -> {self.path}")
        print(f"{self.name}, what was done: {receipt}")

    def _figures(self) -> set[Path]:
        """Those that were saved last."""
        try:
            figures = json.loads(self.path.read_text("utf-8"))["page"]["figures"]
            return {self.folder / Path(figure["file"]).name for figure in figures}
        except (OSError, ValueError, KeyError, TypeError):  # none yet, cut off, or of another form
            return set()

    def _command(self) -> str:
        """The line that runs this experiment so again."""
        asked = {"dtype": self.dtype, "device": self.device, "results": str(self.folder.parent)}
        asked["subset"] = "quick" if self.quick else "all"
        usual = command_line().get_default
        options = [f" --{name} {value}" for name, value in asked.items() if value != usual(name)]
        return f"python examples/{self.name}.py --model {self.model_name}{''.join(options)}"

    def _key(self, function: Callable[..., Any], settings: dict[str, Any]) -> str:
        if state(self.model) != self._loaded:
            raise refusal(
                "the model as it was loaded", "one with a tensor, a module or a hook that was changed since",
                "load it again; for another model, save it and measure its folder",
            )  # fmt: skip
        tok = self.tokenizer
        model = [*self._model, self._vocabulary, tok.chat_template, tok.bos, tok.eot, tok.stop]
        # of dicts in the settings the order counts: rows are often in it
        return _digest([self._code(function), sorted(settings.items()), model, self._where(), *products(self.model)])

    def _code(self, function: Callable[..., Any]) -> str:
        """`identity`; of this package's own functions told once, until a name of its modules is bound to another value, or a list or
        a dict that has a name there holds another."""
        if not _of_this(function):
            return identity(function)
        ours = [vars(module) for name, module in [*sys.modules.items()] if name.split(".")[0] == "ministeer"]
        bound = [value for names in ours for name, value in names.items() if name != "__builtins__"]
        for value in [value for value in bound if type(value) in (list, dict)]:
            bound += value if isinstance(value, list) else value.values()
        if len(bound) != len(self._bound) or any(map(operator.is_not, bound, self._bound)):
            self._told, self._bound = {}, bound  # held, so that no other value is given an id of theirs
        if function not in self._told:
            self._told[function] = identity(function)
        return self._told[function]

    def _check_folder(self) -> None:
        """Refuse a folder with results of another model, whose path ends alike. The same path may hold new weights."""
        for journal in sorted(self.journal.parent.glob("*.jsonl")):
            page = self.folder / f"{journal.stem}.json"
            with journal.open(encoding="utf-8") as file:
                first = file.readline()
            for text in (first, page.read_text("utf-8") if page.is_file() else ""):
                try:
                    lies = json.loads(text)
                    model, weights = lies["model"], lies["weights"]
                except (ValueError, KeyError, TypeError):  # cut off, or of another form
                    continue
                if weights != self.weights and Path(model).resolve() != Path(self.model_name).resolve():
                    raise refusal(
                        f"what was measured on {self.model_name} in {self.folder}",
                        f"{journal.stem}, measured on {model}, another model",
                        "give another folder for the results (--results), or remove this one",
                    )

    def _where(self) -> Row:
        """What the model is and what it runs on."""
        return {"weights": self.weights, "dtype": self.dtype, "device": self.device.split(":")[0]}


def in_notebook() -> bool:
    """Whether this runs in IPython, as cells of a notebook do."""
    return hasattr(builtins, "__IPYTHON__")


def _end(script: str, kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Say why a script ends: in the words of `files` where it could not write, else with the traceback."""
    if isinstance(error, OSError) and error.errno is None:
        print(f"{script}: {error}; run it again to go on where it was", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def command_line() -> argparse.ArgumentParser:
    """What the scripts in examples/ are asked on their command line."""
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", default="nano", help="nano, gpt2, gpt2-medium, gpt2-large, gpt2-xl or a folder")
    parser.add_argument(
        "--dtype", default="float32", help="float32, bfloat16, float16, or int8: bfloat16 after pack.int8"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    parser.add_argument("--results", default="results", help="folder for results/<model>/")
    parser.add_argument("--subset", default="all", choices=("all", "quick"), help=f"quick: one item in {QUICK}")
    return parser


def _peak_memory() -> float | None:
    """The most memory that this process held so far, in GiB; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(size / 2**30 * (1 if sys.platform == "darwin" else 1024), 2)  # bytes on macOS, KiB elsewhere


def _line(cell: Row) -> str:
    return json.dumps(cell, ensure_ascii=False, default=_plain)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(_keyed(value), default=_plain).encode()).hexdigest()[:16]


def _keyed(value: Any) -> Any:
    """The value with the kind of each key of a dict that is no text, as JSON makes texts of all."""
    if isinstance(value, dict):
        return {k if isinstance(k, str) else f"{type(k).__name__} {k!r}": _keyed(part) for k, part in value.items()}
    return [*map(_keyed, value)] if isinstance(value, (list, tuple)) else value


def _of_this(function: Any) -> bool:
    """Whether it is this package's own, and no notebook's or script's, which can change from cell to cell."""
    home, name = getattr(function, "__module__", None) or "", getattr(function, "__name__", "")
    return home.startswith("ministeer.") and getattr(sys.modules.get(home), name, None) is function


def _name(measure: Any) -> str:
    while isinstance(measure, partial):
        measure = measure.func
    return getattr(measure, "__name__", type(measure).__name__)


def _plain(value: Any) -> Any:
    if isinstance(value, SteeringVector):
        return {"sites": value.sites, **asdict(value.provenance), "sha256": vector_hash(value)}
    raise ValueError(f"expected settings that JSON can hold, or steering vectors, got {type(value).__name__}")


def _short(value: Any) -> Any:
    """A long list of texts as its length and hash: the texts themselves lie in ministeer/lab/data."""
    if isinstance(value, dict):
        return {name: _short(part) for name, part in value.items()}
    return {"items": len(value), "sha256": _digest(value)} if isinstance(value, list) and len(value) > 24 else value
