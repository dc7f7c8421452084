"""A GGUF model file -> what the loader takes: the hub's config, and tensors by the hub's names, read when asked for.

    config, tensors = read("model.Q4_1.gguf")
    config["model_type"]                                      # "llama": what would stand in the hub's config.json
    tensors["model.layers.0.self_attn.q_proj.weight"].read()  # [out, in] as on the hub, dequantised to float32
    metadata("model.Q4_1.gguf")["tokenizer.ggml.tokens"]      # all that the header says, as plain Python values

The format is llama.cpp's: magic, version, two counts, metadata, a table of tensors, and their bytes, each at a
multiple of the alignment. F32, F16 and BF16 are seen in place, in memory mapped from the file; of the quantised types
those are read which the package `gguf` dequantises. A header can lie: every length and count is held against the
bytes that are left before anything is made of it, so a damaged file costs one sentence, a `ValueError`, and no
memory.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

ARCHITECTURES = ("llama", "qwen2", "gpt2")
# metadata types by number: struct's letter; 8 is a string, 9 an array
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
# tensor types that need no package: name, torch dtype
FLOATS = {0: ("F32", torch.float32), 1: ("F16", torch.float16), 30: ("BF16", torch.bfloat16)}
# no vocabulary is near either: the largest have 260,000 entries, in a header of 15 MB
MAX_HEADER, MAX_ENTRIES = 1 << 27, 1 << 22
# metadata that does not change what a model computes, and the one value of each other key that is computed here
IGNORED = ("vocab_size", "rope.scaling.finetuned", "rope.scaling.original_context_length")
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "expert_count": (0,),
    "expert_used_count": (0,),
    "attention.causal": (True,),
    "rope.scaling.type": ("none",),
    "rope.scaling.factor": (0, 1),
    "rope.scaling.attn_factor": (1,),
    "rope.scale_linear": (1,),
    "tensor_data_layout": ("Meta AI original pth", "reference"),
}


@dataclass(frozen=True)
class Stored:
    """A tensor of the file. `shape` is the hub's, `kind` the file's type ("Q4_1", ...), `read()` gives it as on the
    hub: float32 where it was quantised, else as it is stored, in memory shared with the file."""

    shape: list[int]
    kind: str
    read: Callable[[], Tensor]


def metadata(path: str | Path) -> dict[str, Any]:
    """All key-value pairs of the header: numbers, booleans, strings, and lists of them. Raises `ValueError`."""
    return _Header(Path(path)).metadata


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, Stored]]:
    """(config, tensors): the hub's config.json and the hub's tensors that a llama, qwen2 or gpt2 file holds.

    All of the header is checked here, no tensor is read yet. Rows of `attn_q` and `attn_k`, which llama files keep in
    the order of interleaved rotation, come in the hub's order; GPT-2's matrices come [in, out], as there.

    Raises `ValueError` for a damaged or cut file, another architecture, what would be computed wrongly (mixtures,
    windows, other rotary scalings) and quantisations that the package `gguf` does not know, `ImportError` where that
    package is needed and missing.
    """
    return _read(_Header(Path(path)))


# --- the header ---


class _Header:
    """The header of a file: `metadata`, and `table`, of each tensor its shape (slowest first), type and place in
    `data`. `at` is the next byte to read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size < 24:
                self.refuse("a GGUF file", f"{size} bytes")
            # private pages that can be written: torch takes no memory that cannot, and the file stays as it is
            self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self.at, self.end, self.entries = 0, min(size, MAX_HEADER), MAX_ENTRIES
        if (magic := self.data[:4]) != b"GGUF":
            self.refuse("the magic GGUF", repr(magic), "is it a GGUF file?")
        self.at = 4
        version = self.scalar("I")
        if version not in (2, 3):
            found = "a big-endian file" if version & 0xFFFF == 0 else f"version {version}"
            self.refuse("a little-endian GGUF file of version 2 or 3", found, "convert the model again")
        tensors, pairs = self.scalar("Q"), self.scalar("Q")
        self.check_count(tensors, 24, "tensors")
        self.check_count(pairs, 13, "entries of metadata")
        self.metadata: dict[str, Any] = {}
        for _ in range(pairs):
            key = self.text()
            if key in self.metadata:
                self.refuse("each key of the metadata once", f"{key!r} twice")
            self.metadata[key] = self.value(key, self.scalar("I"))
        self.tensors, self.size = tensors, size

    def refuse(self, expected: str, found: str, remedy: str = "download it again") -> NoReturn:
        raise ValueError(f"{self.path}: expected {_quoted(expected)}, found {_quoted(found)}; {remedy}")

    def check_count(self, count: int, least: int, what: str) -> None:
        """Refuse more things of `least` bytes each than there are bytes left for."""
        if count * least > self.end - self.at:
            self.refuse(
                f"{count} {what} at byte {self.at}", f"{self.end - self.at} bytes for them: it is cut or damaged"
            )

    def scalar(self, letter: str) -> Any:
        length = struct.calcsize("<" + letter)
        self.check_count(1, length, f"number of {length} bytes")
        (value,) = struct.unpack_from("<" + letter, self.data, self.at)
        self.at += length
        return value

    def text(self) -> str:
        return self.texts(1)[0]

    def texts(self, count: int) -> list[str]:
        """Strings in a row, each after its length. Vocabularies are long, so the loop is plain."""
        self.check_count(count, 8, "strings")
        found, data, at, end, unpack = [], self.data, self.at, self.end, struct.Struct("<Q").unpack_from
        for _ in range(count):
            (length,) = unpack(data, at) if end - at >= 8 else (end,)
            if length > end - at - 8:
                self.refuse(f"a string at byte {at}", "one that is longer than the file: it is cut or damaged")
            found.append(data[at + 8 : at + 8 + length])
            at += 8 + length
        self.at = at
        try:
            return [str(text, "utf-8") for text in found]
        except UnicodeDecodeError:
            self.refuse(f"UTF-8 text before byte {at}", "other bytes: it is damaged")

    def value(self, key: str, kind: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind in SCALARS:
            return self.scalar(SCALARS[kind])
        if kind != ARRAY:
            self.refuse(f"a type of metadata from 0 to 12 for {key!r}", str(kind))
        item, count = self.scalar("I"), self.scalar("Q")
        self.entries -= count
        if self.entries < 0:
            self.refuse(f"at most {MAX_ENTRIES} entries in all lists", f"{count} in {key!r}: it is damaged")
        if item == STRING:
            return self.texts(count)
        if item not in SCALARS:
            self.refuse(f"a list of numbers or strings for {key!r}", f"entries of type {item}")
        code = f"<{count}{SCALARS[item]}"
        self.check_count(1, struct.calcsize(code), f"list of {count} numbers for {key!r}")
        values = list(struct.unpack_from(code, self.data, self.at))
        self.at += struct.calcsize(code)
        return values

    @cached_property
    def table(self) -> dict[str, tuple[list[int], int, int, int]]:
        """name: (shape, type, first byte, bytes). The tensors lie one after the other, as llama.cpp asks."""
        listed: dict[str, tuple[list[int], int, int]] = {}
        for _ in range(self.tensors):
            name, rank = self.text(), self.scalar("I")
            if name in listed:
                self.refuse("each tensor once", f"{name!r} twice")
            if not 1 <= rank <= 4:
                self.refuse(f"{name!r} with 1 to 4 dimensions", str(rank))
            shape = [self.scalar("Q") for _ in range(rank)][::-1]
            listed[name] = (shape, self.scalar("I"), self.scalar("Q"))
        step = self.metadata.get("general.alignment", 32)
        if type(step) is not int or step < 8 or step & (step - 1):
            self.refuse("general.alignment, a power of 2 from 8", repr(step))
        start = self.at + -self.at % step
        table, next_offset = {}, 0
        for name, (shape, kind, offset) in sorted(listed.items(), key=lambda item: item[1][2]):
            per_block, length = _block(kind, self.path, name)
            if min(shape) < 1 or shape[-1] % per_block:
                self.refuse(f"rows of {name!r} in whole blocks of {per_block}", f"the shape {shape}")
            if offset != next_offset:
                self.refuse(f"{name!r} at byte {next_offset} of the tensors", f"{offset}: it is damaged")
            bytes_ = math.prod(shape) // per_block * length
            if start + offset + bytes_ > self.size:
                self.refuse(
                    f"{name!r} to end at byte {start + offset + bytes_}", f"a file of {self.size}: it is cut or damaged"
                )
            table[name] = (shape, kind, start + offset, bytes_)
            next_offset = offset + bytes_ + -bytes_ % step
        return table


# --- tensors ---


def _quoted(text: str) -> str:
    """Text that may come from a damaged file, as part of a sentence."""
    whole = "".join(letter if letter.isprintable() else "?" for letter in text[:200])
    return whole if len(text) <= 200 else whole + "..."


def _block(kind: int, path: Path, name: str) -> tuple[int, int]:
    """(numbers, bytes) of a block of this type, after a look whether it can be read."""
    if kind in FLOATS:
        return 1, FLOATS[kind][1].itemsize
    gguf = _package(path)
    try:
        numbers, length = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
        gguf.dequantize(np.zeros((1, length), np.uint8), gguf.GGMLQuantizationType(kind))
    except (ValueError, KeyError, NotImplementedError) as error:
        raise ValueError(
            f"{path}: expected {_quoted(name)} in a type that the package gguf dequantises, found type {kind} "
            f"({error}); take the model in another quantisation, such as Q8_0 or F16"
        ) from error
    return int(numbers), int(length)


def _package(path: Path) -> Any:
    try:
        import gguf
    except ImportError as error:
        raise ImportError(f"{path} is quantised, which needs gguf: pip install 'ministeer[formats]'") from error
    return gguf


def _stored(header: _Header, name: str, change: Callable[[Tensor], Tensor] | None, shape: list[int]) -> Stored:
    stored, kind, start, length = header.table[name]

    def plain() -> Tensor:
        if kind in FLOATS:
            dtype = FLOATS[kind][1]
            return torch.frombuffer(header.data, dtype=dtype, count=math.prod(stored), offset=start).view(stored)
        gguf = _package(header.path)
        packed = np.frombuffer(header.data, np.uint8, length, start).reshape(*stored[:-1], -1)
        return torch.from_numpy(gguf.dequantize(packed, gguf.GGMLQuantizationType(kind))).view(stored)

    label = FLOATS[kind][0] if kind in FLOATS else _package(header.path).GGMLQuantizationType(kind).name
    return Stored(shape, label, plain if change is None else lambda: change(plain()))


def _halves(heads: int) -> Callable[[Tensor], Tensor]:
    """Rows of each head from pairs (0, 1), (2, 3), ... to halves, whose row j turns with row j + K / 2."""
    return lambda w: w.view(heads, -1, 2, *w.shape[1:]).transpose(1, 2).reshape(w.shape)


def _turned(w: Tensor) -> Tensor:
    return w.t()  # [out, in] -> [in, out], the same memory


# --- architectures ---

# of each tensor of the file: its name on the hub, its shape in the file, and what makes the one of the other
Wanted = dict[str, tuple[str, list[int], Callable[[Tensor], Tensor] | None]]


def _read(header: _Header) -> tuple[dict[str, Any], dict[str, Stored]]:
    meta, table, refuse = header.metadata, header.table, header.refuse
    arch = meta.get("general.architecture")
    if arch not in ARCHITECTURES:
        refuse(f"general.architecture {', '.join(ARCHITECTURES)}", repr(arch), "this architecture is not supported")
    if (kind := meta.get("general.type", "model")) != "model":
        refuse('general.type "model"', repr(kind), "take the file of the model itself")
    if (parts := meta.get("split.count", 1)) not in (0, 1):
        refuse("a whole model", f"one of {parts!r} parts", "join them with llama-gguf-split --merge")
    if (version := meta.get("general.quantization_version", 2)) != 2:
        refuse("general.quantization_version 2", repr(version), "take a newer file of the model")
    embedding = table.get("token_embd.weight")
    if embedding is None:
        refuse("a tensor token_embd.weight", "none", "is it a language model, and whole?")
    ask = _Ask(header, arch)
    config, wanted = (_gpt2 if arch == "gpt2" else _llama)(ask, embedding[0])
    ask.rest()
    tied = "output.weight" not in table or _same_bytes(header, "output.weight", "token_embd.weight")
    for name, (_, shape, _) in wanted.items():
        if name == "output.weight" and name not in table:
            continue
        if name not in table:
            refuse(f"a tensor {name} of shape {shape}", "none", "is the file whole?")
        if table[name][0] != shape:
            refuse(f"{name} of shape {shape}", str(table[name][0]), "do its tensors and its metadata belong together?")
    for name in table:
        if name not in wanted and (name != "rope_freqs.weight" or arch == "gpt2"):
            refuse(f"only tensors of a {arch} model", name, "this variant is not supported")
    if tied:
        del wanted["output.weight"]
    config["tie_word_embeddings"] = tied
    for word in ("bos", "eos"):
        number = meta.get(f"tokenizer.ggml.{word}_token_id")
        if type(number) is int and 0 <= number < embedding[0][0]:
            config[f"{word}_token_id"] = number
    return config, {
        hub: _stored(header, name, change, shape[::-1] if change is _turned else shape)
        for name, (hub, shape, change) in wanted.items()
    }


def _same_bytes(header: _Header, one: str, other: str) -> bool:
    """Whether two tensors are stored alike, as older converters write GPT-2's embedding twice."""
    (shape, kind, start, length), (shape_2, kind_2, start_2, _) = header.table[one], header.table[other]
    if (shape, kind) != (shape_2, kind_2):
        return False
    whole = torch.frombuffer(header.data, dtype=torch.uint8)
    return torch.equal(whole[start : start + length], whole[start_2 : start_2 + length])


class _Ask:
    """Metadata of one architecture, key by key. What nobody asked for may change what is computed, and is refused."""

    def __init__(self, header: _Header, arch: str) -> None:
        self.header, self.arch, self.asked = header, arch, set(IGNORED)

    def get(self, key: str) -> Any:
        self.asked.add(key)
        value = self.header.metadata.get(f"{self.arch}.{key}")
        if isinstance(value, list) and value and all(one == value[0] for one in value):
            return value[0]  # one per layer, all the same
        return value

    def size(self, key: str, default: int | None = None) -> int:
        value = self.get(key)
        value = default if value is None else value
        if type(value) is not int or not 1 <= value < 1 << 31:
            found = "none" if value is None else repr(value)
            self.header.refuse(f"{self.arch}.{key}, a number from 1, the same for all layers", found)
        return value

    def real(self, key: str, default: float | None = None) -> float:
        value = self.get(key)
        value = default if value is None else value
        if not isinstance(value, (int, float)) or not 1e-30 < value < 1e30:
            self.header.refuse(f"{self.arch}.{key}, a number above 0", "none" if value is None else repr(value))
        return float(str(np.float32(value)))  # 9.999999747378752e-06, a float32's widening, was 1e-05

    def layers(self) -> int:
        count, there = self.size("block_count"), len(self.header.table)
        if count > there:  # before anything is made for each
            self.header.refuse(f"tensors of {count} layers, as block_count says", f"{there} tensors in all")
        return count

    def rest(self) -> None:
        """Refuse what was not asked for, and what would be computed wrongly."""
        vocabulary = self.header.table["token_embd.weight"][0][0]
        if (stated := self.header.metadata.get(f"{self.arch}.vocab_size", vocabulary)) != vocabulary:
            self.header.refuse(f"{self.arch}.vocab_size {vocabulary}, the rows of token_embd.weight", repr(stated))
        for key, value in self.header.metadata.items():
            short = key.removeprefix(f"{self.arch}.")
            if short == key or short in self.asked:
                continue
            if value not in NEUTRAL.get(short, ()):
                why = f"{key} {' or '.join(map(repr, NEUTRAL[short]))}" if short in NEUTRAL else f"no {key}"
                self.header.refuse(why, repr(value), f"this variant of {self.arch} is not supported")


def _llama(ask: _Ask, embedding: list[int]) -> tuple[dict[str, Any], Wanted]:
    """llama and qwen2: what the hub's LlamaConfig or Qwen2Config would say, and the tensors that go with it."""
    header, table = ask.header, ask.header.table
    layers, width, inner = ask.layers(), ask.size("embedding_length"), ask.size("feed_forward_length")
    heads = ask.size("attention.head_count")
    groups = ask.size("attention.head_count_kv", heads)
    rotary = ask.size("rope.dimension_count", ask.size("attention.key_length", max(1, width // heads)))
    head = ask.size("attention.key_length", rotary)
    if not head == rotary == ask.size("attention.value_length", head) or head % 2:
        header.refuse(
            "an even rope.dimension_count, the same as attention.key_length and value_length",
            f"{rotary}, {head} and {ask.size('attention.value_length', head)}",
            "heads that turn in part are not supported",
        )
    context = ask.size("context_length")
    window = ask.get("attention.sliding_window")
    if window not in (None, 0) and (type(window) is not int or window < context):
        header.refuse(
            f"no {ask.arch}.attention.sliding_window below {context}", repr(window), "windows are not supported"
        )
    base = ask.real("rope.freq_base", 10000.0)
    config = {
        "architectures": ["LlamaForCausalLM" if ask.arch == "llama" else "Qwen2ForCausalLM"],
        "model_type": ask.arch,
        "vocab_size": embedding[0],
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "head_dim": head,
        "max_position_embeddings": context,
        "rms_norm_eps": ask.real("attention.layer_norm_rms_epsilon"),
        "rope_theta": base,
        "rope_scaling": _rope_scaling(ask, base, head),
        "hidden_act": "silu",
    }
    q, kv = heads * head, groups * head
    halves = (_halves(heads), _halves(groups)) if ask.arch == "llama" else (None, None)
    block: Wanted = {
        "attn_norm.weight": ("input_layernorm.weight", [width], None),
        "attn_q.weight": ("self_attn.q_proj.weight", [q, width], halves[0]),
        "attn_k.weight": ("self_attn.k_proj.weight", [kv, width], halves[1]),
        "attn_v.weight": ("self_attn.v_proj.weight", [kv, width], None),
        "attn_output.weight": ("self_attn.o_proj.weight", [width, q], None),
        "ffn_norm.weight": ("post_attention_layernorm.weight", [width], None),
        "ffn_gate.weight": ("mlp.gate_proj.weight", [inner, width], None),
        "ffn_up.weight": ("mlp.up_proj.weight", [inner, width], None),
        "ffn_down.weight": ("mlp.down_proj.weight", [width, inner], None),
    }
    biased = {"attn": ask.arch == "qwen2" or "blk.0.attn_q.bias" in table, "ffn": "blk.0.ffn_gate.bias" in table}
    for name, (hub, shape, change) in list(block.items()):
        without = len(shape) == 1 or (ask.arch, name) == ("qwen2", "attn_output.weight")
        if biased[name.split("_")[0]] and not without:
            block[name.replace("weight", "bias")] = (hub.replace("weight", "bias"), shape[:1], change)
    if ask.arch == "llama":
        config |= {"attention_bias": biased["attn"], "mlp_bias": biased["ffn"]}
    else:
        config["use_sliding_window"] = False
    wanted: Wanted = {
        "token_embd.weight": ("model.embed_tokens.weight", [embedding[0], width], None),
        "output_norm.weight": ("model.norm.weight", [width], None),
        "output.weight": ("lm_head.weight", [embedding[0], width], None),
    }
    return config, wanted | _blocks(block, layers, "model.layers")


def _gpt2(ask: _Ask, embedding: list[int]) -> tuple[dict[str, Any], Wanted]:
    """What the hub's GPT2Config would say, and the tensors that go with it."""
    layers, width, inner = ask.layers(), ask.size("embedding_length"), ask.size("feed_forward_length")
    context, heads = ask.size("context_length"), ask.size("attention.head_count")
    ask.get("rope.dimension_count")  # written by old converters, although nothing turns
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": embedding[0],
        "n_positions": context,
        "n_ctx": context,
        "n_embd": width,
        "n_layer": layers,
        "n_head": heads,
        "n_inner": inner,
        "layer_norm_epsilon": ask.real("attention.layer_norm_epsilon"),
        "activation_function": "gelu_new",
    }
    if ask.size("attention.head_count_kv", heads) != heads:
        ask.header.refuse("gpt2.attention.head_count_kv as many as heads", "others", "GPT-2 has no grouped queries")
    block: Wanted = {}
    for name, hub, shape in (
        ("attn_norm", "ln_1", [width]),
        ("attn_qkv", "attn.c_attn", [3 * width, width]),
        ("attn_output", "attn.c_proj", [width, width]),
        ("ffn_norm", "ln_2", [width]),
        ("ffn_up", "mlp.c_fc", [inner, width]),
        ("ffn_down", "mlp.c_proj", [width, inner]),
    ):
        block[f"{name}.weight"] = (f"{hub}.weight", shape, _turned if len(shape) == 2 else None)
        block[f"{name}.bias"] = (f"{hub}.bias", shape[:1], None)
    wanted: Wanted = {
        "token_embd.weight": ("wte.weight", [embedding[0], width], None),
        "position_embd.weight": ("wpe.weight", [context, width], None),
        "output_norm.weight": ("ln_f.weight", [width], None),
        "output_norm.bias": ("ln_f.bias", [width], None),
        "output.weight": ("lm_head.weight", [embedding[0], width], None),
    }
    return config, wanted | _blocks(block, layers, "h")


def _blocks(block: Wanted, layers: int, prefix: str) -> Wanted:
    """The tensors of every block, given those of one."""
    return {
        f"blk.{layer}.{name}": (f"{prefix}.{layer}.{hub}", shape, change)
        for layer in range(layers)
        for name, (hub, shape, change) in block.items()
    }


def _rope_scaling(ask: _Ask, base: float, head: int) -> dict[str, Any] | None:
    """The hub's rope_scaling for `rope_freqs.weight`, the factors by which Llama 3.1 and later divide frequencies.

    The file has the factors and not the rule's parameters. Every published model has low 1, high 4 and 8,192 original
    tokens, and its largest factor is the rule's; what this does not reproduce is refused.
    """
    header = ask.header
    if "rope_freqs.weight" not in header.table:
        return None
    shape, kind, start, _ = header.table["rope_freqs.weight"]
    if shape != [head // 2] or kind != 0:
        header.refuse(f"rope_freqs.weight of shape {[head // 2]} in F32", f"{shape} in type {kind}")
    found = torch.frombuffer(header.data, dtype=torch.float32, count=head // 2, offset=start).double()
    factor, low, high = float(found.max()), 1.0, 4.0
    original = header.metadata.get(f"{ask.arch}.rope.scaling.original_context_length", 8192)
    if factor == 1 and bool((found == 1).all()):
        return None
    if type(original) is int and original > 0:
        wavelength = 2 * math.pi * base ** (torch.arange(0, head, 2, dtype=torch.float64) / head)  # tokens a turn
        kept = ((original / wavelength - low) / (high - low)).clamp(0, 1)  # 1: as it is, 0: stretched by the factor
        if torch.allclose(found, 1 / ((1 - kept) / factor + kept), rtol=1e-4, atol=0):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": original,
            }
    header.refuse(
        "rope_freqs.weight as Llama 3's rule makes it (low 1, high 4)", "other factors", "this variant is not supported"
    )
