"""How the hub writes a model down: `config.json` <-> our config, and the hub's names of weights <-> ours, family by family.

    config = read_config(json.loads(text), "my/config.json")     # GPT2Config or LlamaConfig, or a ValueError in one sentence
    LAYOUTS[type(config)].hub_name("blocks.3.attn.q.weight")     # "layers.3.self_attn.q_proj.weight"
    write_config(config)                                         # the dictionary that transformers reads

What a config asks for is either computed here as transformers computes it, or refused. To add a family: a reader in `MODEL_TYPES`,
a `Layout`, and what `write_config` says of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ministeer.llama import Llama, Llama3Scaling, LlamaConfig
from ministeer.model import ACTIVATIONS, GPT2, GPT2Config, Transformer

Config = GPT2Config | LlamaConfig
# No published model has more of anything. A damaged config that asks for more would cost memory before it is found out.
MOST = 1 << 20
HEAD = "lm_head.weight"
# transformers' other names of functions that we have, equal but for rounding
SAME = dict.fromkeys(("gelu_accurate", "gelu_python_tanh"), "gelu_new") | {
    "gelu_python": "gelu",
    "swish": "silu",
}
# heads of other tasks that lie beside a language model: double heads, classifiers, question answering, value heads
OTHER_HEADS = ("multiple_choice_head.", "score.", "classifier.", "qa_outputs.", "v_head.", "value_head.")
# what wrappers put before every name, and what to save instead
WRAPPERS = {
    "module.": "model.module, without DataParallel around it",
    "_orig_mod.": "model._orig_mod, without torch.compile around it",
    "base_model.model.": "model.merge_and_unload(), without peft around it",
}


@dataclass(frozen=True)
class Layout:
    """How the hub names and turns the weights of a family."""

    family: str  # as messages call it
    model: type[Transformer]
    prefix: str  # may stand before every name but the head's
    parts: dict[str, str]  # of a name between its dots: ours -> the hub's
    turned: tuple[str, ...] = ()  # matrices that the hub holds as [in, out]
    buffers: tuple[str, ...] = ()  # ends of names that are no weights

    def hub_name(self, name: str) -> str:
        """Our name of a weight -> the hub's, without the prefix."""
        return ".".join(self.parts.get(part, part) for part in name.split("."))

    def key(self, name: str, config: Config) -> str:
        """Our name of a weight -> the key by which it is saved. GPT-2's files of old have no prefix, but with an untied head,
        transformers wants the prefix."""
        hub_name = self.hub_name(name)
        return hub_name if hub_name == HEAD or (self.model is GPT2 and config.tied) else self.prefix + hub_name

    def is_turned(self, name: str) -> bool:
        """Whether the hub holds this weight as [in, out]: GPT-2's attn.c_proj too, which is square, so no shape would tell."""
        return name.endswith(self.turned)

    def bare(self, key: str) -> str:
        """A key of a file -> the hub's name without the prefix."""
        name = key.removeprefix(self.prefix)
        return HEAD if name == "lm_head.decoder.weight" else name  # as DialoGPT's first files have it


LAYOUTS: dict[type, Layout] = {
    GPT2Config: Layout(
        "GPT-2",
        GPT2,
        "transformer.",
        {"blocks": "h"},
        turned=("c_attn.weight", "c_proj.weight", "c_fc.weight"),
        buffers=(".attn.bias", ".attn.masked_bias"),  # the causal mask
    ),
    LlamaConfig: Layout(
        "Llama",
        Llama,
        "model.",
        {"wte": "embed_tokens", "blocks": "layers", "ln_1": "input_layernorm", "ln_2": "post_attention_layernorm"}
        | {"attn": "self_attn", "q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj"}
        | {"gate": "gate_proj", "up": "up_proj", "down": "down_proj", "ln_f": "norm"},
        buffers=(".rotary_emb.inv_freq",),
    ),
}


# --- from config.json ---


def read_config(found: dict[str, Any], where: str) -> Config:
    """The config that a `config.json` means; `where` begins the messages. Raises `ValueError` for what is not computed here."""
    try:
        kind = found.get("model_type")
        if not isinstance(kind, str) or kind not in MODEL_TYPES:
            supported = " or ".join(f'"{known}"' for known in MODEL_TYPES)
            raise _wrong_entry(f"model_type {supported}", repr(kind), "only these architectures are supported")
        if found.get("quantization_config") is not None:
            raise _wrong_entry("no quantization_config", "one", "take the unquantised safetensors, or a GGUF file")
        config = MODEL_TYPES[kind](found)
        for name in ("vocab_size", "context", "width", "inner", "n_layer", "n_head", "head_size"):
            if getattr(config, name) > MOST:
                raise _wrong_entry(f"{name} of at most {MOST}", getattr(config, name), "is it damaged?")
        return config
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _wrong_entry(expected: str, found: object, remedy: str) -> ValueError:
    return ValueError(f"expected {expected}, found {found}; {remedy}")


def _gpt2(found: dict[str, Any]) -> GPT2Config:
    if found.get("n_positions") is None:  # OpenAI's own name for it
        found = {**found, "n_positions": found.get("n_ctx")}
    sizes = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
    size = {name: _size(found, name) for name in sizes}
    context = size["n_positions"]
    if found.get("n_ctx") not in (None, context):
        raise _wrong_entry(f"n_ctx {context}, as n_positions", repr(found["n_ctx"])[:80], "keep the right one")
    _only(found, "GPT-2", add_cross_attention=(False,))
    activation = found.get("activation_function", "gelu_new")
    activation = SAME.get(str(activation), activation)
    if activation not in [*ACTIVATIONS]:
        raise _wrong_entry(
            f"activation_function {', '.join(ACTIVATIONS)}", repr(activation), "this variant of GPT-2 is not supported"
        )
    inner = None if found.get("n_inner") is None else _size(found, "n_inner")
    return GPT2Config(
        **size,
        layer_norm_epsilon=_real(found, "layer_norm_epsilon", 1e-5, below=1),
        n_inner=None if inner == 4 * size["n_embd"] else inner,
        activation=activation,
        scale_attn_weights=_flag(found, "scale_attn_weights", True),
        scale_attn_by_inverse_layer_idx=_flag(found, "scale_attn_by_inverse_layer_idx", False),
        reorder_and_upcast_attn=_flag(found, "reorder_and_upcast_attn", False),
        tied=_flag(found, "tie_word_embeddings", True),
    )


def _llama(found: dict[str, Any]) -> LlamaConfig:
    bias = _flag(found, "attention_bias", False)
    _only(found, "Llama", pretraining_tp=(1,))
    return _rotary(found, "Llama", qkv_bias=bias, o_bias=bias, mlp_bias=_flag(found, "mlp_bias", False))


def _qwen2(found: dict[str, Any]) -> LlamaConfig:
    if not _flag(found, "use_sliding_window", False):
        found = {**found, "sliding_window": None}  # a window that is stated and not used
    elif "sliding_window" not in found:
        found = {**found, "sliding_window": 4096}
    return _rotary(found, "Qwen2", qkv_bias=True, o_bias=False, mlp_bias=False)


def _rotary(found: dict[str, Any], family: str, **biases: bool) -> LlamaConfig:
    """What llama and qwen2 say in the same words."""
    width, heads = _size(found, "hidden_size"), _size(found, "num_attention_heads")
    context = _size(found, "max_position_embeddings")
    _only(found, family, hidden_act=("silu", "swish"), rope_interleaved=(False,), use_mrope=(False,))
    window, layers = found.get("sliding_window"), found.get("layer_types")
    reached = window is not None and not (type(window) is int and window >= context)
    kinds = ["full_attention"] + ["sliding_attention"] * (window is not None)
    if reached or (layers is not None and not (isinstance(layers, list) and all(layer in kinds for layer in layers))):
        got = f"sliding_window {window!r}, layer_types {layers!r}"[:120]
        raise _wrong_entry("full attention in every layer", got, "windows are not supported")
    groups, head = found.get("num_key_value_heads"), found.get("head_dim")
    if head is None and width % heads:
        raise _wrong_entry(f"a head_dim, or heads that divide hidden_size {width}", f"{heads} heads", "is it damaged?")
    base, scaling = _rope(found, family, context)
    return LlamaConfig(
        vocab_size=_size(found, "vocab_size"),
        context=context,
        width=width,
        inner=_size(found, "intermediate_size"),
        n_layer=_size(found, "num_hidden_layers"),
        n_head=heads,
        n_kv_head=heads if groups is None else _size(found, "num_key_value_heads"),
        head_size=width // heads if head is None else _size(found, "head_dim"),
        rms_norm_epsilon=_real(found, "rms_norm_eps", 1e-6, below=1),
        rope_base=base,
        rope_scaling=scaling,
        tied=_flag(found, "tie_word_embeddings", False),
        **biases,
    )


def _rope(found: dict[str, Any], family: str, context: int) -> tuple[float, Llama3Scaling | None]:
    """Base and scaling of the rotation, from `rope_theta` and `rope_scaling`, or from transformers 5's `rope_parameters`."""
    rope: dict[str, Any] = {}
    for name in ("rope_scaling", "rope_parameters"):
        part = found.get(name)
        if part is None:
            continue
        if not isinstance(part, dict) or any(isinstance(value, dict) for value in part.values()):
            raise _wrong_entry(
                f"{name} as one set of settings", repr(part)[:80], f"this variant of {family} is not supported"
            )
        part = {"rope_type" if key == "type" else key: value for key, value in part.items()}  # its older name
        if differs := [key for key in part if rope.get(key, part[key]) != part[key]]:
            raise _wrong_entry(f"one {differs[0]}", "two that differ", "keep rope_parameters or rope_scaling")
        rope |= part
    for name in ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings"):
        outside = found.get(name)
        if outside is not None and rope.setdefault(name, outside) != outside:
            raise _wrong_entry(f"one {name}", f"{outside!r} and {rope[name]!r}", "keep the one the model came with")
    _only(rope, family, partial_rotary_factor=(1,))
    base = _real(rope, "rope_theta", 10000.0)
    kind = rope.get("rope_type", "default")
    if kind == "default":
        return base, None
    if kind != "llama3":
        raise _wrong_entry('rope_type "default" or "llama3"', repr(kind), "this scaling of positions is not supported")
    original = _size({"original_max_position_embeddings": context, **rope}, "original_max_position_embeddings")
    scaling = Llama3Scaling(
        _real(rope, "factor"), _real(rope, "low_freq_factor"), _real(rope, "high_freq_factor"), original
    )
    if scaling.high <= scaling.low:
        raise _wrong_entry(
            "high_freq_factor above low_freq_factor", f"{scaling.high} and {scaling.low}", "is it damaged?"
        )
    return base, scaling


MODEL_TYPES: dict[str, Callable[[dict[str, Any]], Config]] = {"gpt2": _gpt2, "llama": _llama, "qwen2": _qwen2}


def _only(found: dict[str, Any], family: str, **neutral: tuple[Any, ...]) -> None:
    """Refuse an entry with a value that changes what is computed."""
    for name, values in neutral.items():
        if found.get(name) is not None and found[name] not in values:
            raise _wrong_entry(
                f"{name} {values[0]!r}", repr(found[name])[:80], f"this variant of {family} is not supported"
            )


def _size(found: dict[str, Any], name: str) -> int:
    value = found.get(name)
    if value is None:
        raise _wrong_entry(name, "no such entry", "take the config.json the model came with")
    if type(value) is not int or value < 1:
        raise _wrong_entry(f"{name} to be a whole number above 0", repr(value)[:80], "is it damaged?")
    return value


def _real(found: dict[str, Any], name: str, default: float | None = None, below: float = 1e30) -> float:
    value = found.get(name)
    value = default if value is None else value
    if not isinstance(value, int | float) or isinstance(value, bool) or not 1e-30 < value < below:
        limits = "above 0" if below == 1e30 else f"between 0 and {below}"
        raise _wrong_entry(f"{name} {limits}", "no such entry" if value is None else repr(value)[:80], "is it damaged?")
    return float(value)


def _flag(found: dict[str, Any], name: str, default: bool) -> bool:
    value = found.get(name, default)
    if not isinstance(value, bool):
        raise _wrong_entry(f"{name} true or false", repr(value)[:80], "take the config.json the model came with")
    return value


# --- to config.json ---


def write_config(config: Config) -> dict[str, Any]:
    """The `config.json` entries from which transformers builds the same model."""
    return _write_gpt2(config) if isinstance(config, GPT2Config) else _write_llama(config)


def _write_gpt2(config: GPT2Config) -> dict[str, Any]:
    variants = ("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn")
    plain = GPT2Config()
    end = min(config.vocab_size, plain.vocab_size) - 1  # a longer table is GPT-2's with rows added
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        **{name: getattr(config, name) for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")},
        "n_ctx": config.n_positions,
        "n_inner": config.n_inner,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "activation_function": config.activation,
        **{name: getattr(config, name) for name in variants if getattr(config, name) != getattr(plain, name)},
        "tie_word_embeddings": config.tied,
        "initializer_range": 0.02,
        **dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0),
        **dict.fromkeys(("bos_token_id", "eos_token_id"), end),
    }


def _write_llama(config: LlamaConfig) -> dict[str, Any]:
    qwen2, scaling = config.qkv_bias and not config.o_bias, config.rope_scaling
    if (config.o_bias and not config.qkv_bias) or (qwen2 and config.mlp_bias):
        raise ValueError(
            "expected biases as llama (attention_bias, mlp_bias) or qwen2 has them, got "
            f"qkv_bias={config.qkv_bias}, o_bias={config.o_bias}, mlp_bias={config.mlp_bias}; no model_type says this"
        )
    stretched = scaling and {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low,
        "high_freq_factor": scaling.high,
        "original_max_position_embeddings": scaling.original_context,
    }
    biases = {"attention_bias": config.o_bias, "mlp_bias": config.mlp_bias}
    return {
        "architectures": ["Qwen2ForCausalLM" if qwen2 else "LlamaForCausalLM"],
        "model_type": "qwen2" if qwen2 else "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.inner,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.n_kv_head,
        "head_dim": config.head_size,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.rms_norm_epsilon,
        "hidden_act": "silu",
        "rope_theta": config.rope_base,
        "rope_scaling": stretched,
        **({"use_sliding_window": False} if qwen2 else biases),
        "tie_word_embeddings": config.tied,
        "initializer_range": 0.02,
        "attention_dropout": 0.0,
        **dict.fromkeys(("bos_token_id", "eos_token_id")),
    }
