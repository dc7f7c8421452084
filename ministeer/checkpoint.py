"""A name or a path -> files -> a model, and back. safetensors and GGUF; pickles are never opened.

    model, tok = load("nano")                    # the bundled model: no network
    model, tok = load("gpt2-xl")                 # downloaded once, 6 GB, into Hugging Face's cache
    model, tok = load("my/folder", dtype="bfloat16", device="cuda")
    save_model(model, "another/folder", tokenizer=tok)   # transformers' AutoModelForCausalLM loads it

A folder is in the hub's layout: `config.json` with `model.safetensors`, or with `model.safetensors.index.json` and its shards.
`layouts.py` says what its config means and how its weights are named. GPT-2's matrices are [in, out] there; ours, as
everywhere else in torch, [out, in].

In float32 on a CPU nothing is copied: the weights are the file mapped into memory, GPT-2's as turned views. Several processes
share that memory, and a weight that is changed becomes the process's own. A file may be replaced while a model uses it, as
`save_model` does, but not written into. Other dtypes and devices get a copy, turned.
"""

from __future__ import annotations

import gc
import json
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ministeer.files import make_folder, replacing
from ministeer.layouts import HEAD, LAYOUTS, OTHER_HEADS, WRAPPERS, Config, write_config
from ministeer.layouts import read_config as config_of
from ministeer.model import Transformer, hooked
from ministeer.model_files import FILE_DTYPES, Entry, ModelFiles, find, find_config, open_file
from ministeer.tokenizer import Tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(
    name: str | Path, *, device: str | torch.device | None = None, dtype: str | torch.dtype | None = None
) -> tuple[Transformer, Tokenizer]:
    """A model and its tokenizer, by a name or a path. See `load_model`.

    A GGUF file brings its tokenizer in its metadata, a folder in its own files (`Tokenizer.from_folder`).
    """
    files = find(name)
    tokenizer = files.tokenizer()
    with _uncollected():
        return _read_model(files, device, dtype), tokenizer


def load_model(
    name: str | Path, *, device: str | torch.device | None = None, dtype: str | torch.dtype | None = None
) -> Transformer:
    """A model alone: a `GPT2` or a `Llama`.

    name: "nano", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "smollm2-135m-instruct", a repository "owner/name" of the hub, a
        folder, a `.safetensors` file, a `model.safetensors.index.json`, or a `.gguf` file.
    device: the CPU unless told.
    dtype: by default float32, even if the file holds bfloat16; a torch dtype or "float32", "bfloat16", "float16".

    The model is in eval mode and its weights take no gradient; to train it: `model.train().requires_grad_(True)`.
    Needs memory for the model in `dtype` and for the pages of the tensors being converted, one per thread, at
    most eight; in float32 on the CPU the disk's cache is enough, and the file must not change (see above). Heads of other
    tasks in the file, such as a classifier's, are left out with a `UserWarning`. Raises `ValueError` for files that are not a sound
    model of a supported architecture, `FileNotFoundError` where there are none, `ConnectionError` where a download is not possible.
    """
    files = find(name)
    with _uncollected():
        return _read_model(files, device, dtype)


def read_config(name: str | Path) -> Config:
    """The sizes of the model that `load` finds by this name; its weights are not read, nor downloaded from the hub."""
    return find_config(name)


def from_transformers(
    theirs: Any, *, device: str | torch.device | None = None, dtype: str | torch.dtype | None = None
) -> Transformer:
    """A transformers GPT-2, Llama or Qwen2 already in memory, as ours: `GPT2LMHeadModel`, `LlamaModel` and so on.

    device, dtype: by default the model's own. Nothing is copied then, unless it has several dtypes (a warning says so): both read the same memory, and a weight changed in
    one is changed in the other. GPT-2's matrices are turned without moving a number, which in bfloat16 makes decoding on a
    CPU slower; `load_model` reads the same weights from a file in the order that is quicker there.

    Only weights and config are taken: a warning says that its hooks stay behind.

    Raises `ValueError` for another architecture or an unsupported variant of one, and as `load_model` does.
    """
    where = type(theirs).__name__
    if not hasattr(getattr(theirs, "config", None), "to_dict") or not hasattr(theirs, "state_dict"):
        raise ValueError(
            f"expected a GPT-2, Llama or Qwen2 of transformers, got {where}; for a name or a path use load_model"
        )
    config = config_of(theirs.config.to_dict(), where)
    if left := [name for name, part in theirs.named_modules() if hooked(part)]:
        warnings.warn(
            f"{where}: expected a model without hooks, found one on {left[0] or 'it'}, which is left behind; "
            "steer with a Steer instead",
            stacklevel=2,
        )
    state = theirs.state_dict()
    if any(weight.is_meta for weight in state.values()):
        raise ValueError(f"{where}: expected weights in memory, found some on the meta device; load them first")
    labels = {dtype: label for label, dtype in FILE_DTYPES.items()}
    there = [
        Entry(where, key, labels.get(weight.dtype, str(weight.dtype)), list(weight.shape), weight.detach)
        for key, weight in state.items()
    ]
    advice = "is it a model as it came, without heads pruned or embeddings added?"
    model, entries = _match(config, there, where, advice)
    layout, kind = LAYOUTS[type(config)], _dtype(dtype, FILE_DTYPES[entries["wte.weight"].dtype])
    home = None if device is None else known_device(device)
    others = sorted({entry.dtype for entry in entries.values() if FILE_DTYPES[entry.dtype] != kind})
    if others and dtype is None:
        warnings.warn(
            f"{where}: expected weights of one dtype, found {' and '.join(others)} beside the embedding's {kind}, to which they are "
            "copied; name the dtype that you want",
            stacklevel=2,
        )
    for name, entry in entries.items():
        source = entry.read().t() if layout.is_turned(name) else entry.read()  # [in, out] -> [out, in], the same memory
        target = source.to(device=home, dtype=kind)
        _check_finite(entry, target, source)
        _put(model, name, target)
    return model.eval()


def save_model(
    model: Transformer,
    folder: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    tokenizer: Tokenizer | None = None,
) -> None:
    """Write `config.json` and `model.safetensors`; equal models give equal bytes; interruption leaves no half files.

    dtype: of the file, the model's own unless told; as in `load_model`.
    tokenizer: written beside them if given. Without it, a model whose vocabulary is not GPT-2's can only be read by `load_model`,
    unless its tokenizer's files are in the folder. With it, files there that would be read with or before it are refused
    (`Tokenizer.files`).
    """
    from safetensors.torch import save_file

    kind, layout = _dtype(dtype, model.dtype), LAYOUTS[type(model.config)]
    settings, folder = write_config(model.config), Path(folder)
    texts = {}
    if tokenizer is not None:
        if tokenizer.n_vocab > model.config.vocab_size:
            raise ValueError(
                f"expected a tokenizer of at most {model.config.vocab_size} tokens, the model's vocab_size, got "
                f"{tokenizer.n_vocab}; give the model's own"
            )
        texts = tokenizer.files(folder)
        ends = [*tokenizer.stop]
        settings |= {
            "bos_token_id": tokenizer.bos,
            "eos_token_id": tokenizer.eot if ends in ([], [tokenizer.eot]) else ends,
        }
    tensors, weights = {}, model.state_dict()
    with torch.device("meta"):
        whole_model = layout.model(model.config)
    wanted = {name: tuple(weight.shape) for name, weight in whole_model.state_dict().items()}
    got = {name: tuple(weight.shape) for name, weight in weights.items()}
    if wrong := [name for name in {**wanted, **got} if wanted.get(name) != got.get(name)]:
        raise ValueError(
            f"expected the weights that the model's config says, {wrong[0]} of shape {wanted.get(wrong[0])}, got "
            f"{got.get(wrong[0])}; was the model changed, pruned or parametrised? nothing was written"
        )
    if more := [name for name, _ in model.named_buffers() if name not in weights]:
        raise ValueError(
            f"expected the weights that the model's config says, got a buffer {more[0]} beside them, which a checkpoint cannot "
            "hold; put the plain matrix back, its numbers multiplied out; nothing was written"
        )
    for name, weight in weights.items():
        turned = weight.t() if layout.is_turned(name) else weight
        tensors[layout.key(name, model.config)] = target = turned.to("cpu", kind).contiguous()
        if not _all_finite(target):
            raise ValueError(
                f"expected weights that {kind} can hold, got NaN, infinity or more than its largest number in {name}; "
                "nothing was written"
            )
    settings["dtype"] = str(kind).removeprefix("torch.")
    make_folder(folder)
    texts["config.json"] = json.dumps(settings, indent=2) + "\n"
    with ExitStack() as whole:  # all files or none
        for name, text in texts.items():
            whole.enter_context(replacing(folder / name)).write_text(text, "utf-8")
        save_file(tensors, whole.enter_context(replacing(folder / "model.safetensors")), metadata={"format": "pt"})


def _dtype(asked: str | torch.dtype | None, default: torch.dtype) -> torch.dtype:
    kind = default if asked is None else DTYPES.get(asked) if isinstance(asked, str) else asked
    if kind is None or kind not in DTYPES.values():
        raise ValueError(
            f"expected dtype {', '.join(map(repr, DTYPES))} or the torch dtype, got {default if asked is None else asked!r}"
        )
    return kind


def known_device(asked: str | torch.device) -> torch.device:
    """A device that torch can use here; raises `ValueError` for another."""
    try:
        device = torch.empty(0, dtype=torch.float32, device=asked).device
        if device.type == "meta":
            raise RuntimeError("it holds no numbers")
        return device
    except (RuntimeError, AssertionError, TypeError) as error:  # torch raises any of them, by what is missing
        raise ValueError(
            f'expected a device that torch can use here, such as "cpu", got "{asked}" ({error})'
        ) from error


# --- from files to a model ---


def _match(
    config: Config, there: list[Entry], where: str, advice: str, caller: int = 3
) -> tuple[Transformer, dict[str, Entry]]:
    """The model without numbers, and by our names the tensors that belong in it. Raises `ValueError` where they do not fit."""
    layout = LAYOUTS[type(config)]
    found: dict[str, Entry] = {}
    others = []
    for entry in there:
        name = layout.bare(entry.key)
        if wrapper := next((prefix for prefix in WRAPPERS if name.startswith(prefix)), None):
            raise ValueError(
                f"{entry.where}: expected the hub's names, found {entry.key}: a wrapper put {wrapper} there; "
                f"save {WRAPPERS[wrapper]}"
            )
        if name in found:
            raise ValueError(
                f"{entry.where}: expected each tensor once, found {name} twice, the other as {found[name].key} in "
                f"{Path(found[name].where).name}; keep one"
            )
        if name.startswith(OTHER_HEADS):
            others.append(entry.key)
        elif not name.endswith(layout.buffers):
            found[name] = entry
    if config.n_layer > len(found):  # before anything is made for each
        raise ValueError(
            f"{where}: expected tensors of {config.n_layer} layers, found {len(found)} tensors in all; {advice}"
        )
    with torch.device("meta"):
        model = layout.model(config)
    if not config.tied and HEAD not in found:
        raise ValueError(
            f"{where}: expected {HEAD}, as tie_word_embeddings is false, found none; take the whole model, or say true in "
            "its config if its head is the embedding"
        )
    entries = {}
    for name, weight in model.state_dict().items():
        hub_name, shape = layout.hub_name(name), list(weight.shape)
        entries[name] = _checked(found.get(hub_name), hub_name, layout.is_turned(name), shape, where, advice)
    if config.tied and HEAD in found:
        head = _checked(found[HEAD], HEAD, False, [config.vocab_size, config.width], where, advice)
        if not _same(head.read(), entries["wte.weight"].read()):
            embedding = layout.hub_name("wte.weight")
            raise ValueError(
                f"{head.where}: expected {HEAD} equal to {embedding}, the tied head that tie_word_embeddings asks for, found "
                "a head of its own; if it is the model's, say false in its config"
            )
    wanted = {HEAD, *map(layout.hub_name, entries)}
    for name, entry in found.items():
        if name not in wanted:
            raise ValueError(
                f"{entry.where}: expected only {layout.family}'s tensors, found {entry.key} of shape "
                f"{entry.shape}; {advice}"
            )
    if others:
        warnings.warn(
            f"{where}: {', '.join(others)} left out: the head of another task; what is loaded is the language model",
            stacklevel=caller,
        )
    return model, entries


def _checked(entry: Entry | None, name: str, turned: bool, shape: list[int], where: str, advice: str) -> Entry:
    shape = shape[::-1] if turned else shape
    if entry is None:
        raise ValueError(f"{where}: expected a tensor {name} of shape {shape}, found none; {advice}")
    if entry.dtype not in FILE_DTYPES:
        raise ValueError(
            f"{entry.where}: expected {entry.key} in {', '.join(FILE_DTYPES)}, found {entry.dtype}; convert it to one of them"
        )
    if entry.shape != shape:
        raise ValueError(f"{entry.where}: expected {entry.key} of shape {shape}, found {entry.shape}; {advice}")
    return entry


def _same(head: Tensor, embedding: Tensor) -> bool:
    """Whether the numbers are the same, as far as the head's dtype has them."""
    if head.dtype != embedding.dtype:
        return torch.equal(head, embedding.to(head.dtype))
    return torch.equal(head.view(torch.uint8), embedding.view(torch.uint8))  # bytes: a NaN is equal to itself


@contextmanager
def _uncollected() -> Iterator[None]:
    """Leave Python's garbage collector out: for the thousands of small objects of a model's modules, which stay, it would look through all
    that torch is made of, which takes longer than making them."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


def _read_model(files: ModelFiles, device: str | torch.device | None, dtype: str | torch.dtype | None) -> Transformer:
    """All headers are checked before any tensor is read; then each tensor stays where it is, or goes straight to its final memory."""
    kind = _dtype(dtype, torch.float32)
    home = known_device("cpu" if device is None else device)
    mapped, layout = (kind, home.type) == (torch.float32, "cpu"), LAYOUTS[type(files.config)]
    # what is converted leaves memory with its tensor, so its file is opened for each
    there = files.entries(cache(open_file) if mapped else open_file)
    advice = "is the config.json beside it this model's?"
    model, entries = _match(files.config, there, str(files.weights), advice, caller=4)
    shapes = {name: weight.shape for name, weight in model.state_dict().items()}

    def converted(name: str) -> Tensor:
        entry, turned = entries[name], layout.is_turned(name)
        there = entry.read()
        if mapped and there.dtype == kind:
            _check_finite(entry, there, there)
            return there.t() if turned else there  # [in, out] -> [out, in], the same memory
        target = torch.empty(shapes[name], dtype=kind, device=home)
        into = target.t() if turned else target
        strip = 64 if turned and home.type == "cpu" else len(there)  # rounded first, turned while it is in a cache
        for i in range(0, len(there), strip):
            into[i : i + strip] = there[i : i + strip].to(kind) if turned else there[i : i + strip]
        _check_finite(entry, target, there)
        return target

    # several at a time where torch works on one with one thread, which waits for memory: turning matrices, unpacking a GGUF's
    alone = files.stored is None and (mapped or not layout.turned)
    with ThreadPoolExecutor(min(torch.get_num_threads(), 8)) as pool:
        for name, target in zip(entries, (map if alone else pool.map)(converted, entries), strict=True):
            _put(model, name, target)
    return model.eval()


def _put(model: Transformer, name: str, target: Tensor) -> None:
    """Make `target` the model's weight of this name."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, nn.Parameter(target, requires_grad=False))


def _check_finite(entry: Entry, target: Tensor, source: Tensor) -> None:
    """Refuse a weight that is not finite; `source` is what it was converted from."""
    if not _all_finite(target):
        damaged = not _all_finite(source)
        found = "NaN or infinity" if damaged else f"values beyond {target.dtype}"
        remedy = "download it again or train anew" if damaged else 'load with dtype="bfloat16" or "float32"'
        raise ValueError(f"{entry.where}: expected finite numbers in {entry.key}, found {found}; {remedy}")


def _all_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite. Both show in the extremes, which cost one read, a 30th of `isfinite().all()`."""
    return all(bool(torch.isfinite(extreme)) for extreme in tensor.aminmax())
