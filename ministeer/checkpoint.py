"""A name or a path -> files -> a model, and back. safetensors only, in the hub's GPT-2 layout; pickles are never opened.

    model, tok = load("nano")                    # the bundled model: no network
    model, tok = load("gpt2-xl")                 # downloaded once, 6 GB, into Hugging Face's cache
    model, tok = load("my/folder", dtype="bfloat16", device="cuda")
    save_model(model, "another/folder")          # the weights; transformers' GPT2LMHeadModel loads them

The layout: `config.json` with `model.safetensors`, or with `model.safetensors.index.json` and its shards. Its matrices
are [in, out]; ours, as everywhere else in torch, [out, in].

In float32 on a CPU nothing is copied: the weights are the file, mapped into memory and seen turned. Several processes share
that memory, and a weight that is changed becomes the process's own. A file may be replaced while a model uses it, as
`save_model` does, but not written into. Other dtypes and devices get a copy, turned.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ministeer.files import read_json, replacing
from ministeer.model import GPT2, GPT2Config
from ministeer.tokenizer import Tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MASKS = (".attn.bias", ".attn.masked_bias")  # the causal mask, as buffers of a layer: no weights
FILE_DTYPES = ("F32", "BF16", "F16")
SIZES = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
# what else a GPT-2 config can ask for, and the one value of each that the model here computes
VARIANTS = {
    "activation_function": "gelu_new",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "reorder_and_upcast_attn": False,
    "add_cross_attention": False,
}
Entry = tuple[Path, str, str, list[int]]  # of a tensor: its file, its key there, dtype and shape


def load(
    name: str | Path, *, device: str | torch.device | None = None, dtype: str | torch.dtype | None = None
) -> tuple[GPT2, Tokenizer]:
    """A model and its tokenizer: "nano", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", or a path. See `load_model`."""
    weights = _locate(name)
    config = _config_beside(weights)
    tokenizer = Tokenizer.from_folder(weights.parent, config.vocab_size)
    return _read_model(weights, config, device, dtype), tokenizer


def load_model(
    name: str | Path, *, device: str | torch.device | None = None, dtype: str | torch.dtype | None = None
) -> GPT2:
    """A model alone.

    name: a name as in `load`, a folder, a `.safetensors` file, or a `model.safetensors.index.json`.
    device: the CPU unless told.
    dtype: float32 unless told, also where the file holds bfloat16; a torch dtype or "float32", "bfloat16", "float16".

    The model is in eval mode and its weights take no gradient; to train it: `model.train().requires_grad_(True)`.
    Needs the memory of the model in `dtype`, and the pages of those tensors of the file that are being converted, one a thread, at
    most eight; in float32 on the CPU the disk's cache is enough, and the file has to stay as it is (see above). Raises `ValueError`
    for files that are not a sound GPT-2, `FileNotFoundError` where there are none, `ConnectionError` where a download is not possible.
    """
    weights = _locate(name)
    return _read_model(weights, _config_beside(weights), device, dtype)


def read_config(name: str | Path) -> GPT2Config:
    """The sizes of the model that `load` finds by this name; its weights are not read."""
    return _config_beside(_locate(name))


def from_transformers(
    theirs: Any, *, device: str | torch.device | None = None, dtype: str | torch.dtype | None = None
) -> GPT2:
    """A GPT-2 of transformers that is in memory already, `GPT2LMHeadModel` or `GPT2Model`, as ours.

    device, dtype: by default the model's own. Nothing is copied then: both read the same memory, and a weight changed in
    one is changed in the other. The matrices are turned without moving a number, which in bfloat16 makes decoding on a CPU
    slower; `load_model` reads the same weights from a file in the order that is quicker there.

    Raises `ValueError` for another architecture, for a variant of GPT-2 that is not supported, and as `load_model` does.
    """
    where = type(theirs).__name__
    if not hasattr(getattr(theirs, "config", None), "to_dict") or not hasattr(theirs, "state_dict"):
        raise ValueError(f"expected a GPT-2 of transformers, got {where}; for a name or a path use load_model")
    config = _config(theirs.config.to_dict(), where)
    state = {name.removeprefix("transformer."): weight for name, weight in theirs.state_dict().items()}
    if any(weight.is_meta for weight in state.values()):
        raise ValueError(f"{where}: expected weights in memory, found some on the meta device; load them first")
    if "lm_head.weight" in state and not torch.equal(state["lm_head.weight"], state["wte.weight"]):
        raise ValueError(f"{where}: expected lm_head.weight equal to wte.weight; only GPT-2's tied head is supported")
    with torch.device("meta"):
        model = GPT2(config)
    home = None if device is None else known_device(device)
    wanted = {"lm_head.weight", *map(_hub_name, model.state_dict())}
    if more := [name for name in state if name not in wanted and not name.endswith(MASKS)]:
        raise ValueError(
            f"{where}: expected only GPT-2's tensors, found {more[0]}; give the GPT2Model inside, its .transformer"
        )
    for name, mine in model.state_dict().items():
        source = state.get(_hub_name(name))
        if source is None:
            raise ValueError(f"{where}: expected a tensor {_hub_name(name)}, found none; is it a GPT-2 as it came?")
        source = source.t() if _is_turned(name) else source  # [in, out] -> [out, in], the same memory
        if source.shape != mine.shape:
            raise ValueError(
                f"{where}: expected {_hub_name(name)} to become {tuple(mine.shape)}, found {tuple(source.shape)}; "
                "were heads pruned, or embeddings added?"
            )
        target = source.to(device=home, dtype=_dtype(dtype, state["wte.weight"].dtype))
        _check_finite(name, target, source, where)
        _put(model, name, target)
    return model.eval()


def save_model(model: GPT2, folder: str | Path, *, dtype: str | torch.dtype | None = None) -> None:
    """Write `config.json` and `model.safetensors`; the same model gives the same bytes, an interruption no half files.

    dtype: of the file, the model's own unless told; as in `load_model`. No tokenizer is written: for a vocabulary that is
    not GPT-2's, put its `vocab.tiktoken` beside, or read the folder with `load_model`.
    """
    from safetensors.torch import save_file

    kind = _dtype(dtype, model.wte.weight.dtype)
    config, folder = model.config, Path(folder)
    settings = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        **{name: getattr(config, name) for name in SIZES},
        "n_ctx": config.n_positions,
        "n_inner": None,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "activation_function": "gelu_new",
        "tie_word_embeddings": True,
        "initializer_range": 0.02,
        **dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0),
        **dict.fromkeys(("bos_token_id", "eos_token_id"), config.vocab_size - 1),
        "dtype": str(kind).removeprefix("torch."),
    }
    tensors = {}
    for name, weight in model.state_dict().items():
        turned = weight.t() if _is_turned(name) else weight
        tensors[_hub_name(name)] = target = turned.to("cpu", kind).contiguous()
        if not _all_finite(target):
            raise ValueError(
                f"expected weights that {kind} can hold, got NaN, infinity or more than its largest number in {name}; "
                "nothing was written"
            )
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "config.json") as sizes, replacing(folder / "model.safetensors") as weights:
        sizes.write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
        save_file(tensors, weights, metadata={"format": "pt"})


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
        device = torch.empty(0, device=asked).device
        if device.type == "meta":
            raise RuntimeError("it holds no numbers")
        return device
    except (RuntimeError, AssertionError, TypeError) as error:  # torch raises any of them, by what is missing
        raise ValueError(
            f'expected a device that torch can use here, such as "cpu", got "{asked}" ({error})'
        ) from error


def _hub_name(name: str) -> str:
    return name.replace("blocks.", "h.", 1)


def _is_turned(name: str) -> bool:
    """Whether the layout holds this weight as [in, out]: the square attn.c_proj too, where no shape would tell."""
    return name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))


# --- from a name to files ---


def _locate(name: str | Path) -> Path:
    """The `.safetensors` file or index that a name or a path means."""
    if name == "nano":
        installed, clone = Path(__file__).parent / "nano", Path(__file__).parents[1] / "weights" / "nano"
        return _locate(installed if installed.is_dir() else clone)
    from ministeer.hub import HUB, fetch  # here, so that `python -m ministeer.hub` is its only copy

    if isinstance(name, str) and name in HUB:
        return fetch(name)
    path = Path(name)
    if not path.exists():
        names = ", ".join(f'"{known}"' for known in ("nano", *HUB))
        raise FileNotFoundError(
            f'expected {names} or the path of a model, got "{name}", where nothing is; mind the spelling'
        )
    if path.is_dir():
        endings = ("model.safetensors", "model.safetensors.index.json", "*.bin", "*.pt", "*.pth")
        found = [file for ending in endings for file in sorted(path.glob(ending))]
        if not found:
            raise FileNotFoundError(
                f"{path}: expected model.safetensors or model.safetensors.index.json in this folder, found neither; "
                "is it the folder of a model?"
            )
        path = found[0]
    if not path.name.endswith((".safetensors", ".safetensors.index.json")):
        convert = (
            "import torch; from safetensors.torch import save_file; save_file({k: v.clone() for k, v in torch.load("
            f"'{path}', map_location='cpu', weights_only=True).items()}}, '{path.with_name('model.safetensors')}')"
        )
        raise ValueError(
            f"{path}: expected a .safetensors file or its index, found {path.suffix or 'another'}, and pickles can run code, "
            f'so they are never opened; convert it: python -c "{convert}"'
        )
    return path


# --- from files to a model ---


def _config_beside(weights: Path) -> GPT2Config:
    """The sizes in the `config.json` beside a weights file, after a look at all it asks for."""
    path = weights.with_name("config.json")
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: expected the model's config.json beside {weights.name}, found none; copy it there"
        )
    return _config(read_json(path), str(path))


def _config(found: dict[str, Any], where: str) -> GPT2Config:
    if found.get("model_type") != "gpt2":
        raise ValueError(
            f'{where}: expected model_type "gpt2", found {found.get("model_type")!r}; only GPT-2\'s architecture is supported'
        )
    for name, value in VARIANTS.items():
        if found.get(name, value) != value:
            raise ValueError(
                f"{where}: expected {name} {value!r}, found {found[name]!r}; this variant of GPT-2 is not supported"
            )
    for name in SIZES:
        if name not in found:
            raise ValueError(f"{where}: expected {name}, found no such entry; take the config.json the model came with")
    epsilon = found.get("layer_norm_epsilon", 1e-5)
    if not isinstance(epsilon, float) or not 0 < epsilon < 1:
        raise ValueError(f"{where}: expected layer_norm_epsilon between 0 and 1, found {epsilon!r}; GPT-2's is 1e-05")
    try:
        config = GPT2Config(**{name: found[name] for name in SIZES}, layer_norm_epsilon=epsilon)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    if found.get("n_inner") not in (None, 4 * config.n_embd):
        raise ValueError(
            f"{where}: expected n_inner null or {4 * config.n_embd}, four times n_embd, found {found['n_inner']!r}; "
            "this variant of GPT-2 is not supported"
        )
    return config


def _read_headers(weights: Path) -> dict[str, Entry]:
    """Of each tensor, by the hub's name without `transformer.`: its file, its key there, dtype and shape."""
    from safetensors import SafetensorError

    files = [weights]
    if weights.suffix == ".json":
        index = read_json(weights).get("weight_map")
        if not isinstance(index, dict) or not index or not all(isinstance(file, str) for file in index.values()):
            raise ValueError(f"{weights}: expected a weight_map of names to files, found none; save the model again")
        if away := [file for file in index.values() if Path(file).name != file]:
            raise ValueError(f"{weights}: expected shards in the same folder, found {away[0]!r}; put them there")
        files = [weights.with_name(file) for file in sorted(set(index.values()))]
    headers: dict[str, Entry] = {}
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(
                f"{file}: expected this shard, as {weights.name} names it, found none; download it too"
            )
        try:
            with _open(file) as opened:
                for key in opened.keys():  # noqa: SIM118 - no dict
                    name = key.removeprefix("transformer.")
                    if name in headers:
                        raise ValueError(
                            f"{file}: expected each tensor once, found {name} twice, the other as {headers[name][1]} in "
                            f"{headers[name][0].name}; keep one"
                        )
                    if not name.endswith(MASKS):
                        entry = opened.get_slice(key)
                        headers[name] = (file, key, entry.get_dtype(), entry.get_shape())
        except SafetensorError as error:
            raise ValueError(
                f"{file}: expected a safetensors file whose header fits its {file.stat().st_size} bytes, found a damaged or "
                f"cut one ({error}); download or save it again"
            ) from error
    return headers


def _read_model(
    weights: Path, config: GPT2Config, device: str | torch.device | None, dtype: str | torch.dtype | None
) -> GPT2:
    """All headers are checked before any tensor is read; then each tensor stays where it is, or goes straight to its final memory."""
    kind = _dtype(dtype, torch.float32)
    home = known_device(device or "cpu")
    headers = _read_headers(weights)
    with torch.device("meta"):
        model = GPT2(config)
    shapes = {name: list(weight.shape) for name, weight in model.state_dict().items()}
    wanted = {_hub_name(name): shape[::-1] if _is_turned(name) else shape for name, shape in shapes.items()}
    if "lm_head.weight" in headers:
        wanted["lm_head.weight"] = wanted["wte.weight"]
    _check_headers(weights, headers, wanted)
    if "lm_head.weight" in headers:
        head, embedding = (_read_tensor(headers[name]) for name in ("lm_head.weight", "wte.weight"))
        if head.dtype == embedding.dtype:  # compared as bytes, so that NaN is not mistaken for a difference
            head, embedding = head.view(torch.uint8), embedding.view(torch.uint8)
        if not torch.equal(head, embedding.to(head.dtype)):
            raise ValueError(
                f"{weights}: expected lm_head.weight equal to wte.weight, found a head of its own; "
                "only GPT-2's tied head is supported"
            )
        del head, embedding

    mapped = (kind, home.type) == (torch.float32, "cpu")
    held = {file: _open(file) for file in {entry[0] for entry in headers.values()}} if mapped else {}

    def converted(name: str) -> Tensor:
        entry, turned = headers[_hub_name(name)], _is_turned(name)
        file, key, dtype_there, _ = entry
        if mapped and dtype_there == "F32":
            there = _aligned(held[file].get_tensor(key))
            _check_finite(name, there, there, str(file))
            return there.t() if turned else there  # [in, out] -> [out, in], the same memory
        source = _read_tensor(entry)
        target = torch.empty(shapes[name], dtype=kind, device=home)
        into = target.t() if turned else target
        strip = 256 if home.type == "cpu" else len(source)  # rounded first, turned while it is in a cache
        for i in range(0, len(source), strip):
            into[i : i + strip] = source[i : i + strip].to(kind)
        _check_finite(name, target, source, str(file))
        return target

    # several at a time: turning a matrix waits for memory, and torch turns one with one thread
    with ThreadPoolExecutor(min(torch.get_num_threads(), 8)) as pool:
        for name, target in zip(shapes, pool.map(converted, shapes), strict=True):
            _put(model, name, target)
    return model.eval()


def _put(model: GPT2, name: str, target: Tensor) -> None:
    """Make `target` the model's weight of this name."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, nn.Parameter(target, requires_grad=False))


def _check_finite(name: str, target: Tensor, source: Tensor, where: str) -> None:
    """Refuse a weight that is not finite; `source` is what it was converted from."""
    if not _all_finite(target):
        damaged = not _all_finite(source)
        found = "NaN or infinity" if damaged else f"values beyond {target.dtype}"
        remedy = "download it again or train anew" if damaged else 'load with dtype="bfloat16" or "float32"'
        raise ValueError(f"{where}: expected finite numbers in {_hub_name(name)}, found {found}; {remedy}")


def _check_headers(weights: Path, headers: dict[str, Entry], wanted: dict[str, list[int]]) -> None:
    advice = "is the config.json beside it this model's?"
    for name, shape in wanted.items():
        if name not in headers:
            raise ValueError(f"{weights}: expected a tensor {name} of shape {shape}, found none; {advice}")
        file, key, dtype, found = headers[name]
        if dtype not in FILE_DTYPES:
            raise ValueError(
                f"{file}: expected {key} in {', '.join(FILE_DTYPES)}, found {dtype}; convert it to one of them"
            )
        if found != shape:
            raise ValueError(f"{file}: expected {key} of shape {shape}, found {found}; {advice}")
    for name, (file, key, _, found) in headers.items():
        if name not in wanted:
            raise ValueError(f"{file}: expected only GPT-2's tensors, found {key} of shape {found}; {advice}")


def _open(file: Path) -> Any:
    from safetensors import safe_open

    return safe_open(file, framework="pt")


def _read_tensor(entry: Entry) -> Tensor:
    """One tensor, mapped from its file. The file is opened for each: what was read leaves memory with the tensor."""
    return _aligned(_open(entry[0]).get_tensor(entry[1]))


def _aligned(tensor: Tensor) -> Tensor:
    """A copy of a tensor that lies at no multiple of its numbers' size, over which fast arithmetic may stumble: as in files from before
    safetensors 0.3 (its issue 231), whose header has any length and shifts all behind it."""
    size = tensor.element_size()
    return tensor if tensor.data_ptr() % size == 0 else tensor.view(torch.uint8).clone().view(tensor.dtype)


def _all_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite. Both show in the extremes, which cost one read, a 30th of `isfinite().all()`."""
    return all(bool(torch.isfinite(extreme)) for extreme in tensor.aminmax())
