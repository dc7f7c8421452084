"""Every family of models as the hub has it, through the loader: transformers' numbers, both ways, and what is refused instead."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import TOLERANCE, relative
from safetensors.torch import load_file, save_file

import ministeer
from ministeer import checkpoint, layouts
from ministeer.llama import Llama, Llama3Scaling, LlamaConfig
from ministeer.model import GPT2Config

transformers = pytest.importorskip("transformers")

IDS = torch.tensor([[5, 299, 0, 17, 42, 17, 8, 9, 9, 200], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]])
GPT2 = {"model_type": "gpt2", "vocab_size": 300, "n_positions": 32, "n_embd": 48, "n_layer": 2, "n_head": 3}
GPT2 |= dict.fromkeys(("bos_token_id", "eos_token_id"), 299)
LLAMA = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
QWEN2 = LLAMA | {"model_type": "qwen2", "rope_theta": 1000000.0}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
# config.json by hand, so that old forms of it are among them
MODELS = {
    "gpt2": GPT2,
    "gpt2: n_inner": GPT2 | {"n_inner": 100},
    "gpt2: gelu": GPT2 | {"activation_function": "gelu"},
    "gpt2: gelu_pytorch_tanh": GPT2 | {"activation_function": "gelu_pytorch_tanh"},
    "gpt2: relu": GPT2 | {"activation_function": "relu"},
    "gpt2: silu": GPT2 | {"activation_function": "silu"},
    "gpt2: scores not scaled": GPT2 | {"scale_attn_weights": False},
    "gpt2: scores scaled by layer": GPT2 | {"scale_attn_by_inverse_layer_idx": True},
    "gpt2: Stanford's": GPT2 | {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True, "n_ctx": 32},
    "gpt2: epsilon": GPT2 | {"layer_norm_epsilon": 0.3},
    "gpt2: untied": GPT2 | {"tie_word_embeddings": False},
    "llama": LLAMA,
    "llama: tied": LLAMA | {"tie_word_embeddings": True},
    "llama: heads not grouped": LLAMA | {"num_key_value_heads": None},
    "llama: head_dim": LLAMA | {"head_dim": 16},
    "llama: biases": LLAMA | {"attention_bias": True, "mlp_bias": True},
    "llama: MLP biases": LLAMA | {"mlp_bias": True},
    "llama: base": LLAMA | {"rope_theta": 100},
    "llama: epsilon": LLAMA | {"rms_norm_eps": 0.1},
    "llama: old rope": LLAMA | {"rope_theta": 500.0, "rope_scaling": LLAMA3 | {"rope_type": "llama3"}},
    "llama: older rope": LLAMA | {"rope_theta": 500.0, "rope_scaling": {"type": "default"}},
    "llama: new rope": LLAMA | {"rope_parameters": LLAMA3 | {"rope_type": "llama3", "rope_theta": 500.0}},
    "llama: new rope, default": LLAMA | {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}},
    "qwen2": QWEN2,
    "qwen2: tied": QWEN2 | {"tie_word_embeddings": True},
    "qwen2: window stated": QWEN2 | {"use_sliding_window": False, "sliding_window": 4, "max_window_layers": 1},
    "qwen2: window never reached": QWEN2 | {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 0},
}


class Peer:
    """A random model of transformers, and its folder with the `config.json` as it was written by hand."""

    def __init__(self, settings: dict[str, Any], folder: Path, seed: int = 0) -> None:
        given = {name: value for name, value in settings.items() if name != "model_type"}
        config = transformers.AutoConfig.for_model(settings["model_type"], **json.loads(json.dumps(given)))
        config._attn_implementation = "eager"  # the one way that upcasts where the config asks for it
        self.model = transformers.AutoModelForCausalLM.from_config(config).float().eval().requires_grad_(False)
        generator = torch.Generator().manual_seed(seed)
        for name, weight in self.model.named_parameters():
            x = torch.randn(weight.shape, generator=generator)
            flat = name.endswith("norm.weight") or "ln_" in name
            weight.copy_(1 + 0.3 * x if flat and name.endswith("weight") else x * (0.3 if x.ndim == 1 else 0.2))
        self.folder = folder
        self.model.save_pretrained(folder)
        (folder / "config.json").write_text(json.dumps(settings))
        self.logits = self.model(IDS).logits


@pytest.fixture(scope="module")
def peers(tmp_path_factory):
    made: dict[str, Peer] = {}

    def get(name: str) -> Peer:
        if name not in made:
            made[name] = Peer(MODELS[name], tmp_path_factory.mktemp("peer"))
        return made[name]

    return get


@pytest.fixture(params=["gpt2", "gpt2: untied", "llama", "llama: tied", "qwen2"])
def folder(request, peers, tmp_path) -> Path:
    """A folder of its own, as transformers saves each family: the test may damage it."""
    peers(request.param).model.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(MODELS[request.param]))
    return tmp_path


def configure(folder: Path, **entries: object) -> None:
    config = json.loads((folder / "config.json").read_text()) | entries
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v != "absent"}))


def refused(name: Path, *parts: str) -> None:
    """Refused in one line that names the file and says all of `parts`."""
    with pytest.raises(ValueError) as caught:
        checkpoint.load_model(name)
    message = str(caught.value)
    assert "\n" not in message
    for part in (str(name), "expected", *parts):
        assert part in message, message


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


# --- numbers ---


@pytest.mark.parametrize("name", MODELS)
def test_the_logits_of_transformers(name, peers):
    peer = peers(name)
    ours = checkpoint.load_model(peer.folder)
    assert relative(ours(IDS), peer.logits) < TOLERANCE
    half, theirs = checkpoint.load_model(peer.folder, dtype="bfloat16"), copy.deepcopy(peer.model).to(torch.bfloat16)
    error = relative(theirs(IDS).logits, peer.logits)
    assert relative(half(IDS), peer.logits) < 2 * error


def test_each_variant_computes_something_else(peers):
    """With the same weights, where they have the same shapes: a setting that is read and not used would not show above."""
    for plain in ("gpt2", "llama", "qwen2"):
        expected = checkpoint.load_model(peers(plain).folder)(IDS)
        for name in MODELS:
            same = {
                "gpt2: gelu_pytorch_tanh",
                "llama: older rope",
                "qwen2: window stated",
                "qwen2: window never reached",
            }
            if name.startswith(plain + ": ") and name not in same:
                assert relative(checkpoint.load_model(peers(name).folder)(IDS), expected) > 10 * TOLERANCE, name


@pytest.mark.parametrize("name", layouts.SAME)
def test_another_name_of_a_function_is_the_function_but_for_rounding(name):
    from transformers.activations import ACT2FN

    own = layouts.SAME[name]
    x = torch.linspace(-12, 12, 10001)
    assert relative(ACT2FN[name](x), ACT2FN[own](x)) < 1e-6
    assert layouts.read_config(GPT2 | {"activation_function": name}, "") == layouts.read_config(
        GPT2 | {"activation_function": own}, ""
    )
    if own == "silu":
        assert layouts.read_config(LLAMA | {"hidden_act": name}, "") == layouts.read_config(LLAMA, "")


@pytest.mark.parametrize("name", MODELS)
def test_saved_it_loads_as_the_same_model_here_and_in_transformers(name, peers, tmp_path):
    peer = peers(name)
    model = checkpoint.load_model(peer.folder)
    for folder in ("a", "b"):
        checkpoint.save_model(model, tmp_path / folder)
    again = checkpoint.load_model(tmp_path / "a")
    assert again.config == model.config
    assert type(again) is type(model)
    for (mine, weight), (other, loaded) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert mine == other
        assert torch.equal(weight, loaded)
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    keys = set(tensors(peer.folder))  # transformers' own, which GPT-2's first files had without a prefix
    old = name.startswith("gpt2") and "lm_head.weight" not in keys
    assert set(tensors(tmp_path / "a")) == ({key.removeprefix("transformer.") for key in keys} if old else keys)
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "a", dtype=torch.float32, output_loading_info=True, attn_implementation="eager"
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert relative(theirs.eval()(IDS).logits, peer.logits) < TOLERANCE


@pytest.mark.parametrize("name", MODELS)
def test_from_transformers_reads_the_same_memory(name, peers):
    peer = peers(name)
    ours = ministeer.from_transformers(peer.model)
    assert ours.config == checkpoint.load_model(peer.folder).config
    assert relative(ours(IDS), peer.logits) < TOLERANCE
    mine = {p.untyped_storage().data_ptr() for p in ours.parameters()}
    assert mine == {p.untyped_storage().data_ptr() for p in peer.model.parameters()}


@pytest.mark.parametrize("name", ["gpt2", "llama: tied", "qwen2: tied"])
def test_from_transformers_takes_the_model_without_a_head_where_it_is_tied(name, peers):
    peer = peers(name)
    assert relative(ministeer.from_transformers(peer.model.base_model)(IDS), peer.logits) < TOLERANCE
    with pytest.raises(ValueError, match="LlamaModel: expected lm_head.weight, as tie_word_embeddings is false"):
        ministeer.from_transformers(peers("llama").model.base_model)


def test_float32_is_mapped_and_not_copied(folder):
    """All weights lie in one mapping of the file, in order, and changing one changes nothing else."""
    model = checkpoint.load_model(folder)
    size = (folder / "model.safetensors").stat().st_size
    places = [weight.data_ptr() for weight in model.parameters()]
    assert max(places) - min(places) < size
    content = (folder / "model.safetensors").read_bytes()
    for weight in model.parameters():
        weight.zero_()
    assert (folder / "model.safetensors").read_bytes() == content


def test_shards_prefixes_and_buffers(folder, peers):
    before = checkpoint.load_model(folder)(IDS)
    whole = tensors(folder)
    base = "transformer." if any(".h." in name for name in whole) else "model."
    bare = {name.removeprefix(base): tensor for name, tensor in whole.items()}
    bare["layers.0.self_attn.rotary_emb.inv_freq" if base == "model." else "h.0.attn.masked_bias"] = torch.ones(4)
    save_file(bare, folder / "model.safetensors")
    assert torch.equal(checkpoint.load_model(folder)(IDS), before)
    names = sorted(whole)
    parts = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for file, some in parts.items():
        save_file({name: whole[name] for name in some}, folder / file)
    index = {"weight_map": {name: file for file, some in parts.items() for name in some}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    assert torch.equal(checkpoint.load_model(folder)(IDS), before)


# --- heads ---


@pytest.mark.parametrize(
    "head", ["multiple_choice_head.summary.weight", "score.weight", "v_head.summary.bias", "qa_outputs.weight"]
)
def test_heads_of_other_tasks_are_named_and_left_out(head, folder):
    before = checkpoint.load_model(folder)(IDS)
    save_file(tensors(folder) | {head: torch.ones(2, 48)}, folder / "model.safetensors")
    with pytest.warns(UserWarning, match=f"{head} left out: the head of another task") as said:
        assert torch.equal(checkpoint.load_model(folder)(IDS), before)
    assert [warning.filename for warning in said] == [__file__]


def test_a_classifier_of_transformers_is_its_backbone_and_says_so(tmp_path, peers):
    peer = peers("gpt2")
    double = transformers.GPT2DoubleHeadsModel(peer.model.config)
    double.transformer.load_state_dict(peer.model.transformer.state_dict())
    double.save_pretrained(tmp_path)
    for load in (lambda: checkpoint.load_model(tmp_path), lambda: ministeer.from_transformers(double)):
        with pytest.warns(UserWarning, match="multiple_choice_head.summary.*left out") as said:
            assert relative(load()(IDS), peer.logits) < TOLERANCE
        assert [warning.filename for warning in said] == [__file__]


def test_the_tied_head_by_its_second_name(folder):
    whole = tensors(folder)
    if "lm_head.weight" in whole:
        pytest.skip("an untied head")
    before = checkpoint.load_model(folder)(IDS)
    embedding = next(whole[name] for name in whole if name.endswith(("wte.weight", "embed_tokens.weight")))
    save_file(whole | {"lm_head.decoder.weight": embedding.clone()}, folder / "model.safetensors")
    assert torch.equal(checkpoint.load_model(folder)(IDS), before)
    save_file(whole | {"lm_head.weight": embedding + 1e-3}, folder / "model.safetensors")
    refused(folder, "lm_head.weight equal to", "found a head of its own; if it is the model's, say false in its config")
    configure(folder, tie_word_embeddings=False)
    assert not torch.equal(checkpoint.load_model(folder)(IDS), before)


def test_an_untied_model_without_a_head_is_not_tied_without_a_word(folder):
    configure(folder, tie_word_embeddings=False)
    save_file({k: v for k, v in tensors(folder).items() if k != "lm_head.weight"}, folder / "model.safetensors")
    refused(folder, "expected lm_head.weight, as tie_word_embeddings is false, found none; take the whole model")


# --- published configs ---

PUBLISHED = {
    "SmolLM2-135M-Instruct": (
        {
            "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
            "hidden_act": "silu", "hidden_size": 576, "initializer_range": 0.041666666666666664,
            "intermediate_size": 1536, "is_llama_config": True, "max_position_embeddings": 8192, "mlp_bias": False,
            "model_type": "llama", "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3,
            "pad_token_id": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_interleaved": False,
            "rope_scaling": None, "rope_theta": 100000, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
            "use_cache": True, "vocab_size": 49152,
        },
        LlamaConfig(),
    ),
    "TinyLlama-1.1B": (
        {
            "attention_bias": False, "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 5632,
            "max_position_embeddings": 2048, "model_type": "llama", "num_attention_heads": 32,
            "num_hidden_layers": 22, "num_key_value_heads": 4, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
            "rope_scaling": None, "rope_theta": 10000.0, "tie_word_embeddings": False, "vocab_size": 32000,
        },
        LlamaConfig(32000, 2048, 2048, 5632, 22, 32, 4, 64, rope_base=10000.0, tied=False),
    ),
    "Llama-2-7b": (
        {
            "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 11008, "max_position_embeddings": 4096,
            "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32,
            "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": None, "tie_word_embeddings": False,
            "vocab_size": 32000,
        },
        LlamaConfig(32000, 4096, 4096, 11008, 32, 32, 32, 128, rope_base=10000.0, tied=False),
    ),
    "Llama-3-8B": (
        {
            "attention_bias": False, "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
            "max_position_embeddings": 8192, "model_type": "llama", "num_attention_heads": 32,
            "num_hidden_layers": 32, "num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
            "rope_scaling": None, "rope_theta": 500000.0, "tie_word_embeddings": False, "vocab_size": 128256,
        },
        LlamaConfig(128256, 8192, 4096, 14336, 32, 32, 8, 128, rope_base=500000.0, tied=False),
    ),
    "Llama-3.2-1B": (
        {
            "attention_bias": False, "eos_token_id": [128001, 128008, 128009], "head_dim": 64, "hidden_act": "silu",
            "hidden_size": 2048, "intermediate_size": 8192, "max_position_embeddings": 131072, "mlp_bias": False,
            "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8,
            "pretraining_tp": 1, "rms_norm_eps": 1e-05,
            "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192, "rope_type": "llama3"},
            "rope_theta": 500000.0, "tie_word_embeddings": True, "vocab_size": 128256,
        },
        LlamaConfig(
            128256, 131072, 2048, 8192, 16, 32, 8, 64, rope_base=500000.0,
            rope_scaling=Llama3Scaling(32.0, 1.0, 4.0, 8192),
        ),
    ),
    "Qwen2.5-0.5B-Instruct": (
        {
            "attention_dropout": 0.0, "hidden_act": "silu", "hidden_size": 896, "intermediate_size": 4864,
            "max_position_embeddings": 32768, "max_window_layers": 21, "model_type": "qwen2",
            "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
            "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": True,
            "use_sliding_window": False, "vocab_size": 151936,
        },
        LlamaConfig(
            151936, 32768, 896, 4864, 24, 14, 2, 64, rms_norm_epsilon=1e-6, rope_base=1000000.0, qkv_bias=True
        ),
    ),
    "DeepSeek-R1-Distill-Qwen-1.5B": (
        {
            "attention_dropout": 0.0, "hidden_act": "silu", "hidden_size": 1536, "intermediate_size": 8960,
            "max_position_embeddings": 131072, "max_window_layers": 21, "model_type": "qwen2",
            "num_attention_heads": 12, "num_hidden_layers": 28, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
            "rope_theta": 10000, "sliding_window": 4096, "tie_word_embeddings": False, "use_mrope": False,
            "use_sliding_window": False, "vocab_size": 151936,
        },
        LlamaConfig(
            151936, 131072, 1536, 8960, 28, 12, 2, 128, rms_norm_epsilon=1e-6, rope_base=10000.0, qkv_bias=True,
            tied=False,
        ),
    ),
    "alias-gpt2-small-x21": (
        {
            "activation_function": "gelu_new", "attn_pdrop": 0.1, "layer_norm_epsilon": 1e-05, "model_type": "gpt2",
            "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_inner": None, "n_layer": 12, "n_positions": 1024,
            "reorder_and_upcast_attn": True, "scale_attn_by_inverse_layer_idx": True, "scale_attn_weights": True,
            "vocab_size": 50257,
        },
        GPT2Config(
            n_embd=768, n_layer=12, n_head=12, scale_attn_by_inverse_layer_idx=True, reorder_and_upcast_attn=True
        ),
    ),
}  # fmt: skip
SMALLER = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 300, "n_layer": 2}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_are_understood_and_load_at_a_smaller_size(name, tmp_path):
    published, config = PUBLISHED[name]
    assert layouts.read_config(published, name) == config
    smaller = {key: value for key, value in SMALLER.items() if key in published}
    smaller |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    if "hidden_size" in published and published.get("head_dim") is None:
        smaller["hidden_size"] = 4 * published["num_attention_heads"]
    peer = Peer(published | smaller, tmp_path)
    ours = checkpoint.load_model(tmp_path)
    assert relative(ours(IDS), peer.logits) < TOLERANCE
    checkpoint.save_model(ours, tmp_path / "again")
    assert checkpoint.load_model(tmp_path / "again").config == ours.config


# --- what is refused ---


@pytest.mark.parametrize(
    ("name", "entries", "message"),
    [
        ("llama", {"model_type": "mistral"}, 'model_type "gpt2" or "llama" or "qwen2", found \'mistral\''),
        ("llama", {"model_type": "mixtral"}, "only these architectures are supported"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act 'silu', found 'gelu'; this variant of Llama is not supported"),
        ("llama", {"pretraining_tp": 2}, "pretraining_tp 1, found 2"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor 1, found 0.5"),
        ("llama", {"rope_interleaved": True}, "rope_interleaved False, found True"),
        ("llama", {"sliding_window": 8}, "full attention in every layer, found sliding_window 8"),
        ("llama", {"quantization_config": {"quant_method": "awq"}}, "no quantization_config, found one"),
        ("llama", {"hidden_size": "absent"}, "expected hidden_size, found no such entry; take the config.json"),
        ("llama", {"hidden_size": 40}, "a head_dim, or heads that divide hidden_size 40, found 6 heads"),
        ("llama", {"head_dim": 7}, "an even head_size"),
        ("llama", {"num_key_value_heads": 4}, "heads of keys that divide the heads, got n_kv_head=4 for n_head=6"),
        ("llama", {"num_key_value_heads": 0}, "num_key_value_heads to be a whole number above 0, found 0"),
        ("llama", {"num_hidden_layers": 1000}, "expected tensors of 1000 layers, found 21 tensors in all"),
        ("llama", {"max_position_embeddings": 2**40}, "context of at most 1048576, found 1099511627776; is it damaged?"),
        ("llama", {"attention_bias": True}, "expected a tensor layers.0.self_attn.q_proj.bias of shape [48], found none"),
        ("llama", {"attention_bias": 1}, "attention_bias true or false, found 1"),
        ("llama", {"rms_norm_eps": "small"}, "rms_norm_eps between 0 and 1, found 'small'"),
        ("llama", {"rope_theta": -1}, "rope_theta above 0, found -1"),
        ("llama", {"rope_theta": 10**400}, "rope_theta above 0, found 1000"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type \"default\" or \"llama3\", found 'linear'"),
        ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "found 'dynamic'"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "found 'yarn'; this scaling of positions"),
        ("qwen2", {"rope_scaling": {"type": "longrope"}}, "found 'longrope'"),
        ("llama", {"rope_scaling": {"rope_type": ["llama3"]}}, "found ['llama3']"),
        ("llama", {"rope_scaling": "linear"}, "rope_scaling as one set of settings, found 'linear'"),
        ("llama", {"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "rope_parameters as one set"),
        ("llama", {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}}, "one rope_theta, found 10000.0 and 500000.0"),
        ("llama", {"rope_scaling": {"factor": 2}, "rope_parameters": {"factor": 4}}, "one factor, found two that differ"),
        *(("llama", {"rope_scaling": {"type": kind, "factor": 2.0}, "rope_parameters": {"rope_type": "default"}}, "one rope_type, found two that differ")
          for kind in ("linear", "llama3")),
        ("llama", {"rope_scaling": {"rope_type": "llama3"}}, "expected factor above 0, found no such entry"),
        ("llama", {"rope_scaling": LLAMA3 | {"type": "llama3", "high_freq_factor": 1}}, "high_freq_factor above low_freq"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8}, "full attention in every layer, found sliding_window 8"),
        ("qwen2", {"use_sliding_window": True, "max_position_embeddings": 8192}, "found sliding_window 4096"),
        ("qwen2", {"layer_types": ["full_attention", "sliding_attention"]}, "full attention in every layer"),
        ("qwen2", {"use_mrope": True}, "use_mrope False, found True; this variant of Qwen2"),
    ],
)  # fmt: skip
def test_what_would_be_computed_wrongly_is_refused(name, entries, message, peers, tmp_path):
    peers(name).model.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(MODELS[name]))
    checkpoint.load_model(tmp_path)
    configure(tmp_path, **entries)
    refused(tmp_path, message)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_quantised_tensors_are_refused(dtype, folder):
    whole = tensors(folder)
    name = next(name for name in whole if whole[name].ndim == 2 and ".1." in name)
    save_file(whole | {name: whole[name].to(dtype)}, folder / "model.safetensors")
    refused(folder, f"expected {name} in F32, BF16, F16, found", "convert it to one of them")


def test_a_tensor_missing_twice_unknown_or_of_another_shape(folder):
    whole = tensors(folder)
    base = "transformer." if any(".h." in name for name in whole) else "model."
    name = next(name for name in whole if ".1." in name and whole[name].ndim == 2)
    short = name.removeprefix(base)
    for changed, message in [
        ({k: v for k, v in whole.items() if k != name}, f"expected a tensor {short} of shape ["),
        (whole | {short: whole[name].clone()}, f"each tensor once, found {short} twice"),
        (whole | {base + "extra.weight": torch.ones(2)}, f"tensors, found {base}extra.weight of shape [2]"),
        (whole | {name: whole[name][:-1].clone()}, f"expected {name} of shape ["),
        (whole | {name: whole[name] / 0}, f"finite numbers in {name}, found NaN or infinity"),
    ]:
        save_file(changed, folder / "model.safetensors")
        refused(folder, message)


@pytest.mark.parametrize("wrapper", layouts.WRAPPERS)
def test_a_wrappers_prefix_is_named(wrapper, folder):
    save_file({wrapper + name: tensor for name, tensor in tensors(folder).items()}, folder / "model.safetensors")
    refused(folder, f"a wrapper put {wrapper} there; save {layouts.WRAPPERS[wrapper]}")


@pytest.mark.parametrize(("size", "end"), [(4409, 4408), (50257, 50256), (50304, 50256)])
def test_the_token_that_ends_a_text_is_gpt2s_also_in_a_padded_table(size, end):
    said = layouts.write_config(GPT2Config(vocab_size=size))
    assert (said["bos_token_id"], said["eos_token_id"]) == (end, end)


def test_biases_that_no_model_type_has_are_not_saved(tmp_path):
    for biases in ({"o_bias": True}, {"qkv_bias": True, "mlp_bias": True}):
        model = Llama(LlamaConfig(30, 8, 8, 8, 1, 2, 1, 4, **biases))
        with pytest.raises(ValueError, match="expected biases as llama .* no model_type says this"):
            checkpoint.save_model(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()


# --- damage ---

ANY = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=4),
    st.lists(st.integers(0, 3), max_size=2), st.dictionaries(st.sampled_from(["rope_type", "factor", "type"]), st.integers()),
)  # fmt: skip


@given(name=st.sampled_from(["gpt2", "llama", "qwen2"]), data=st.data())
@settings(max_examples=300)
def test_any_value_of_any_entry_is_a_config_or_one_sentence(name, data):
    """And what is accepted is written so that it is read again as the same."""
    known = MODELS[name] | dict.fromkeys(
        (
            "n_inner",
            "n_ctx",
            "activation_function",
            "layer_norm_epsilon",
            "tie_word_embeddings",
            "head_dim",
            "rope_theta",
        )
        + ("rope_scaling", "rope_parameters", "sliding_window", "use_sliding_window", "layer_types", "attention_bias")
        + ("scale_attn_weights", "rms_norm_eps", "partial_rotary_factor", "original_max_position_embeddings")
    )
    changed = MODELS[name] | {data.draw(st.sampled_from(sorted(known))): data.draw(ANY) for _ in range(2)}
    try:
        config = layouts.read_config(changed, "here")
    except ValueError as error:
        assert re.fullmatch(r"here: expected [^\n]+, (found|got) [^\n]+", str(error))
    else:
        assert layouts.read_config(json.loads(json.dumps(layouts.write_config(config))), "there") == config


@given(place=st.integers(0, 6000), byte=st.integers(0, 255))
@settings(max_examples=100)
def test_any_other_byte_in_the_header_is_loaded_or_refused(tmp_path_factory, place, byte):
    folder = tmp_path_factory.getbasetemp() / "flipped-llama"
    if not folder.exists():
        checkpoint.save_model(Llama(LlamaConfig(16, 8, 8, 8, 1, 2, 1, 4, tied=False)), folder)
        (folder / "whole").write_bytes((folder / "model.safetensors").read_bytes())
    data = bytearray((folder / "whole").read_bytes())
    data[place % len(data)] = byte
    (folder / "model.safetensors").write_bytes(data)
    try:
        checkpoint.load_model(folder)
    except ValueError as error:
        assert str(folder) in str(error)
