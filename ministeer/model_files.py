"""A name or a path -> the files of a model: what its config says, what its headers say of each tensor, and its tokenizer.

    files = find("gpt2")                   # downloaded if need be
    files.config                           # a GPT2Config or a LlamaConfig
    files.entries(open_file)[0].read()     # one tensor; until then only headers have been read
    files.tokenizer()

safetensors in the hub's layout, alone or in shards, and GGUF files. Pickles are never opened.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ministeer.files import read_json, reading, stand_in
from ministeer.gguf_model import Stored, metadata, read
from ministeer.layouts import Config, read_config
from ministeer.tokenizer import Tokenizer

FILE_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
SHARD = re.compile(r"pytorch_model-\d+-of-(\d+)\.bin")
# what trainers keep of their own beside a model, and under which names they keep the model within a checkpoint
STATES = ("optimizer", "scheduler", "scaler", "training_args", "rng_state", "random_states", "sampler", "dl_state")
WITHIN = ("model", "module", "state_dict", "model_state_dict")


class Entry(NamedTuple):
    """A tensor that can be read: the file it is in, its key there, its dtype and shape, and how."""

    where: str
    key: str
    dtype: str
    shape: list[int]
    read: Callable[[], Tensor]


@dataclass(frozen=True)
class ModelFiles:
    """A model's files: its weights' file or its shards' index, its config, and a GGUF file's tensors."""

    weights: Path
    config: Config
    stored: dict[str, Stored] | None = None

    def entries(self, opened: Callable[[Path], Any]) -> list[Entry]:
        """What the headers say of each tensor; `opened` gives an open safetensors file."""
        if self.stored is None:
            return _read_headers(self.weights, opened)
        where = str(self.weights)
        return [
            Entry(where, key, part.kind if part.kind in FILE_DTYPES else "F32", part.shape, part.read)
            for key, part in self.stored.items()
        ]

    def tokenizer(self) -> Tokenizer:
        if self.stored is not None:
            return Tokenizer.from_gguf(metadata(self.weights), str(self.weights))
        return Tokenizer.from_folder(self.weights.parent, self.config.vocab_size)


def find(name: str | Path) -> ModelFiles:
    """The files that a name or a path means, downloaded if need be."""
    with reading():
        weights = _locate(name)
    if weights.suffix == ".gguf":
        said, stored = read(weights)
        return ModelFiles(weights, read_config(said, str(weights)), stored)
    path = weights.with_name("config.json")
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: expected the model's config.json beside {weights.name}, found none; copy it there"
        )
    return ModelFiles(weights, read_config(read_json(path), str(path)))


def find_config(name: str | Path) -> Config:
    """The config of the model that a name or a path means; from the hub nothing else is downloaded."""
    from ministeer.hub import fetch_config, known

    if not known(name):
        return find(name).config
    path = fetch_config(str(name))
    return read_config(read_json(path), str(path))


def _read_headers(weights: Path, opened: Callable[[Path], Any]) -> list[Entry]:
    from safetensors import SafetensorError

    files = [weights]
    if weights.suffix == ".json":
        index = read_json(weights).get("weight_map")
        if not isinstance(index, dict) or not index or not all(isinstance(file, str) for file in index.values()):
            raise ValueError(f"{weights}: expected a weight_map of names to files, found none; save the model again")
        if away := [file for file in index.values() if Path(file).name != file]:
            raise ValueError(f"{weights}: expected shards in the same folder, found {away[0]!r}; put them there")
        files = [weights.with_name(file) for file in sorted(set(index.values()))]
    entries = []
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(
                f"{file}: expected this shard, as {weights.name} names it, found none; download it too"
            )

        # to open a file takes as long as to convert a small tensor of it, so neighbours of 2**22 numbers are read from one opening
        again = lru_cache(maxsize=1)(lambda neighbours, file=file: opened(file))

        def reader(key: str, neighbours: int, again: Callable[[int], Any] = again) -> Callable[[], Tensor]:
            return lambda: _aligned(again(neighbours).get_tensor(key))

        if found := stand_in(file):
            raise ValueError(f"{file}: expected a safetensors file, found {found[0]}; {found[1]}")
        try:
            there, numbers = opened(file), 0
            for key in there.keys():  # noqa: SIM118 - no dict
                part = there.get_slice(key)
                numbers += math.prod(part.get_shape())
                entries.append(Entry(str(file), key, part.get_dtype(), part.get_shape(), reader(key, numbers >> 22)))
        except SafetensorError as error:
            raise ValueError(
                f"{file}: expected a safetensors file whose header fits its {file.stat().st_size} bytes, found a damaged or "
                f"cut one ({error}); download or save it again"
            ) from error
    return entries


def _locate(name: str | Path) -> Path:
    """The weights file or index that a name or a path means."""
    from ministeer.hub import NAMES, fetch, known  # here, so that `python -m ministeer.hub` is its only copy

    if name in ("nano", *NAMES) and Path(name).exists():
        warnings.warn(
            f'"{name}" is the model known by this name, not the path that is here too; for the path write "./{name}"',
            stacklevel=4,
        )
    if name == "nano":
        installed, clone = Path(__file__).parent / "nano", Path(__file__).parents[1] / "weights" / "nano"
        return _locate(installed if installed.is_dir() else clone)
    if known(name):
        return fetch(str(name), lambda config: read_config(read_json(config), str(config)))
    path = Path(name)
    if not path.exists():
        names, like = ("nano", *NAMES), str(name).lower()
        near = get_close_matches(like, names, 1) or [known for known in names if like and known.startswith(like)]
        remedy = f'did you mean "{near[0]}"?' if near else "mind the spelling"
        quoted = ", ".join(f'"{known}"' for known in names)
        raise FileNotFoundError(
            f'expected {quoted}, owner/name on the hub or the path of a model, got "{name}", where nothing is; {remedy}'
        )
    if path.is_dir():
        for ending in ("model.safetensors", "model.safetensors.index.json"):
            if (path / ending).is_file():
                if (path / "adapter_config.json").is_file():
                    warnings.warn(
                        f"{path}: expected a model alone, found an adapter of peft beside it; the model is read without it: if it belongs "
                        "to it, merge it with merge_and_unload() and save that, else move it to a folder of its own",
                        stacklevel=4,
                    )
                return path / ending
        if len(files := sorted(file for file in path.glob("*.gguf") if file.is_file())) == 1:
            return files[0]
        if files:
            raise ValueError(
                f"{path}: expected one model in this folder, found {len(files)} GGUF files; name one of them"
            )
        if (path / "adapter_config.json").is_file():
            raise ValueError(
                f"{path}: expected a whole model, found an adapter of peft; merge it into its model with merge_and_unload() "
                "and save that"
            )
        if pickles := _pickles(path):
            raise _no_pickles(pickles)
        deepspeed = (path / "zero_to_fp32.py").is_file()
        remedy = "run `python zero_to_fp32.py . .` there" if deepspeed else "is it a model's?"
        raise FileNotFoundError(
            f"{path}: expected model.safetensors or model.safetensors.index.json in this folder, found neither; {remedy}"
        )
    if path.suffix in PICKLES:
        raise _no_pickles(
            sorted(path.parent.glob("pytorch_model-*-of-*.bin")) if SHARD.fullmatch(path.name) else [path]
        )
    if not path.name.endswith((".safetensors", ".safetensors.index.json", ".gguf")):
        raise ValueError(
            f"{path}: expected a .safetensors file, its index or a .gguf file, found {path.suffix or 'another'}; "
            "name one of them or the model's folder"
        )
    return path


def _pickles(folder: Path) -> list[Path]:
    """The pickles in a folder that may be the model: the one of the hub's name, else all that are no trainer's own state."""
    found = sorted(file for ending in PICKLES for file in folder.glob(f"*{ending}"))
    whole = [file for file in found if file.name == "pytorch_model.bin"]
    return whole or [file for file in found if not file.name.startswith(STATES)]


def _no_pickles(files: list[Path]) -> ValueError:
    """The refusal of files that are no safetensors, with the command that converts them where they are sure to be one model."""
    path = files[0]
    if found := stand_in(path):
        return ValueError(
            f"{path}: expected the weights, found {found[0]}; {found[1]}, as safetensors if there are any"
        )
    shards = [SHARD.fullmatch(file.name) for file in files]
    of = {shard and shard[1] for shard in shards}  # how many there are, as each says
    if path.name.startswith(STATES):
        remedy = "this is a trainer's own state: name the folder of the model"
    elif path.name.startswith("consolidated"):
        remedy = "its tensors have Meta's names: take the model in the hub's layout"
    elif (len(files) > 1 and (None in of or len(of) > 1)) or set(str(path.parent)) & set("\"'`$\\!"):
        remedy = "convert the model among them with safetensors"
    else:
        convert = (
            "import torch; from safetensors.torch import save_file; d = {}; "
            f"[d.update(torch.load(f, map_location='cpu', weights_only=True)) for f in {[str(file) for file in files]}]; "
            f"d = next((d[k] for k in {WITHIN} if isinstance(d.get(k), dict)), d); "
            "save_file({k: v.clone(memory_format=torch.contiguous_format) for k, v in d.items()}, "
            f"'{path.with_name('model.safetensors')}')"
        )
        remedy = f'convert it: python -c "{convert}"'
    return ValueError(
        f"{path}: expected a .safetensors file, its index or a .gguf file, found {path.suffix}, and pickles can run code, "
        f"so they are never opened; {remedy}"
    )


def open_file(file: Path) -> Any:
    from safetensors import safe_open

    return safe_open(file, framework="pt")


def _aligned(tensor: Tensor) -> Tensor:
    """A copy of a tensor that lies at no multiple of its numbers' size, over which fast arithmetic may stumble: as in files from before
    safetensors 0.3 (its issue 231), whose header has any length and shifts all that follows."""
    size = tensor.element_size()
    return tensor if tensor.data_ptr() % size == 0 else tensor.view(torch.uint8).clone().view(tensor.dtype)
