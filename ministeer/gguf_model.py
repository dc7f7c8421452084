"""A GGUF model file -> what the loader takes: the hub's config, and tensors by the hub's names, read when asked for.

config, tensors = read("model.Q4_1.gguf")
config["model_type"]                                      # "llama": what the hub's config.json would say
tensors["model.layers.0.self_attn.q_proj.weight"].read()  # [out, in] as on the hub, dequantised to float32
metadata("model.Q4_1.gguf")["tokenizer.ggml.tokens"]      # all that the header says, as plain Python values
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ministeer.gguf_file import GGUFFile

ARCHITECTURES = ("llama", "qwen2", "gpt2")
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
    return GGUFFile(Path(path)).metadata


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, Stored]]:
    """(config, tensors): the hub's config.json and the hub's tensors that a llama, qwen2 or gpt2 file holds.

    All of the header is checked here, no tensor is read yet. Rows of `attn_q` and `attn_k`, which llama files keep in
    the order of interleaved rotation, come in the hub's order; GPT-2's matrices come [in, out], as there.

    Raises `ValueError` for a damaged or cut file, another architecture, what would be computed wrongly (mixtures,
    windows, other rotary scalings) and quantisations that the package `gguf` does not know, `ImportError` where that
    package is needed and missing.
    """
    file = GGUFFile(Path(path))
    meta, table, refuse = file.metadata, file.table, file.refuse
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
    ask = _Ask(file, arch)
    config, wanted = (_gpt2 if arch == "gpt2" else _llama)(ask, embedding[0])
    ask.rest()
    tied = "output.weight" not in table or file.same_bytes("output.weight", "token_embd.weight")
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
        hub: _stored(file, name, change, shape[::-1] if change is _turned else shape)
        for name, (hub, shape, change) in wanted.items()
    }


def _stored(file: GGUFFile, name: str, change: Callable[[Tensor], Tensor] | None, shape: list[int]) -> Stored:
    return Stored(shape, file.kind(name), lambda: file.tensor(name) if change is None else change(file.tensor(name)))


def _halves(heads: int) -> Callable[[Tensor], Tensor]:
    """Rows of each head from pairs (0, 1), (2, 3), ... to halves, whose row j turns with row j + K / 2."""
    return lambda w: w.view(heads, -1, 2, *w.shape[1:]).transpose(1, 2).reshape(w.shape)


def _turned(w: Tensor) -> Tensor:
    return w.t()  # [out, in] -> [in, out], the same memory


# --- architectures ---

# of each tensor of the file: its name on the hub, its shape in the file, and what makes the one of the other
Wanted = dict[str, tuple[str, list[int], Callable[[Tensor], Tensor] | None]]


class _Ask:
    """Metadata of one architecture, key by key. What nobody asked for may change what is computed, and is refused."""

    def __init__(self, file: GGUFFile, arch: str) -> None:
        self.file, self.arch, self.asked = file, arch, set(IGNORED)

    def get(self, key: str) -> Any:
        self.asked.add(key)
        value = self.file.metadata.get(f"{self.arch}.{key}")
        if isinstance(value, list) and value and all(one == value[0] for one in value):
            return value[0]  # one per layer, all the same
        return value

    def size(self, key: str, default: int | None = None) -> int:
        value = self.get(key)
        value = default if value is None else value
        if type(value) is not int or not 1 <= value < 1 << 31:
            found = "none" if value is None else repr(value)
            self.file.refuse(f"{self.arch}.{key}, a number from 1, the same for all layers", found)
        return value

    def real(self, key: str, default: float | None = None) -> float:
        value = self.get(key)
        value = default if value is None else value
        if not isinstance(value, (int, float)) or not 1e-30 < value < 1e30:
            self.file.refuse(f"{self.arch}.{key}, a number above 0", "none" if value is None else repr(value))
        return float(str(np.float32(value)))  # 9.999999747378752e-06, a float32's widening, was 1e-05

    def layers(self) -> int:
        count, there = self.size("block_count"), len(self.file.table)
        if count > there:  # before anything is made for each
            self.file.refuse(f"tensors of {count} layers, as block_count says", f"{there} tensors in all")
        return count

    def rest(self) -> None:
        """Refuse what was not asked for, and what would be computed wrongly."""
        vocabulary = self.file.table["token_embd.weight"][0][0]
        if (stated := self.file.metadata.get(f"{self.arch}.vocab_size", vocabulary)) != vocabulary:
            self.file.refuse(f"{self.arch}.vocab_size {vocabulary}, the rows of token_embd.weight", repr(stated))
        for key, value in self.file.metadata.items():
            short = key.removeprefix(f"{self.arch}.")
            if short == key or short in self.asked:
                continue
            if value not in NEUTRAL.get(short, ()):
                why = f"{key} {' or '.join(map(repr, NEUTRAL[short]))}" if short in NEUTRAL else f"no {key}"
                self.file.refuse(why, repr(value), f"this variant of {self.arch} is not supported")


def _llama(ask: _Ask, embedding: list[int]) -> tuple[dict[str, Any], Wanted]:
    """llama and qwen2: what the hub's LlamaConfig or Qwen2Config would say, and the tensors that go with it."""
    file, table = ask.file, ask.file.table
    layers, width, inner = ask.layers(), ask.size("embedding_length"), ask.size("feed_forward_length")
    heads = ask.size("attention.head_count")
    groups = ask.size("attention.head_count_kv", heads)
    rotary = ask.size("rope.dimension_count", ask.size("attention.key_length", max(1, width // heads)))
    head = ask.size("attention.key_length", rotary)
    if not head == rotary == ask.size("attention.value_length", head) or head % 2:
        file.refuse(
            "an even rope.dimension_count, the same as attention.key_length and value_length",
            f"{rotary}, {head} and {ask.size('attention.value_length', head)}",
            "heads that turn in part are not supported",
        )
    context = ask.size("context_length")
    window = ask.get("attention.sliding_window")
    if window not in (None, 0) and (type(window) is not int or window < context):
        file.refuse(
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
        ask.file.refuse("gpt2.attention.head_count_kv as many as heads", "others", "GPT-2 has no grouped queries")
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
    file = ask.file
    if "rope_freqs.weight" not in file.table:
        return None
    shape, kind = file.table["rope_freqs.weight"][0], file.kind("rope_freqs.weight")
    if (shape, kind) != ([head // 2], "F32"):
        file.refuse(f"rope_freqs.weight of shape {[head // 2]} in F32", f"{shape} in {kind}")
    found = file.tensor("rope_freqs.weight").double()
    factor, low, high = float(found.max()), 1.0, 4.0
    original = file.metadata.get(f"{ask.arch}.rope.scaling.original_context_length", 8192)
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
    file.refuse(
        "rope_freqs.weight as Llama 3's rule makes it (low 1, high 4)", "other factors", "this variant is not supported"
    )
