"""A GPT-2 of transformers that is in memory already, taken over without a copy."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from reference import TOLERANCE, converted, reference_model, relative

from ministeer import checkpoint
from ministeer.generate import generate
from ministeer.model import GPT2Config

SHAPE = {"vocab_size": 300, "n_positions": 32, "n_embd": 48, "n_layer": 2, "n_head": 3}
CONFIG = GPT2Config(**SHAPE)
IDS = torch.tensor([[5, 299, 0, 17, 42, 17], [1, 2, 3, 4, 5, 6]])


def test_from_transformers_gives_its_logits_from_its_own_memory() -> None:
    theirs = reference_model(SHAPE, seed=8)
    for model in (theirs, theirs.transformer):
        ours = checkpoint.from_transformers(model)
        assert ours.config == CONFIG
        assert relative(ours(IDS), theirs(input_ids=IDS).logits) < TOLERANCE
        assert not ours.training
        assert not any(p.requires_grad for p in ours.parameters())
    theirs.transformer.h[1].attn.c_proj.weight.mul_(3.0)  # one memory: what changes there changes here
    theirs.transformer.wpe.weight.mul_(2.0)
    assert relative(ours(IDS), theirs(input_ids=IDS).logits) < TOLERANCE
    mine = {p.untyped_storage().data_ptr() for p in ours.parameters()}
    assert mine == {p.untyped_storage().data_ptr() for p in theirs.parameters()}


def test_hooks_stay_behind_and_a_warning_says_so() -> None:
    theirs = reference_model(SHAPE, seed=8)
    theirs.transformer.h[1].register_forward_hook(lambda *_: None)
    with pytest.warns(UserWarning, match=r"found one on .*h\.1, which is left behind"):
        checkpoint.from_transformers(theirs)


def test_a_model_from_transformers_decodes_one_token_and_shows_its_heads() -> None:
    """What needs the matrices in another order: strips of them for one token, and c_proj by head."""
    theirs = reference_model(SHAPE, seed=8)
    ours, loaded = checkpoint.from_transformers(theirs), converted(theirs)
    for model in (ours, loaded):
        assert generate(model, [5, 3], max_new_tokens=4, temperature=0) == generate(
            loaded, [5, 3], max_new_tokens=4, temperature=0
        )
    tapes = [{("head", 1): None}, {("head", 1): None}]
    for model, tape in zip((ours, loaded), tapes, strict=True):
        model(IDS, tape=tape)
    assert relative(tapes[0]["head", 1], tapes[1]["head", 1]) < TOLERANCE


def test_from_transformers_in_another_dtype_copies() -> None:
    theirs = reference_model(SHAPE, seed=8)
    ours = checkpoint.from_transformers(theirs, dtype="bfloat16")
    assert all(p.dtype == torch.bfloat16 for p in ours.parameters())
    assert torch.equal(ours.wte.weight, theirs.transformer.wte.weight.bfloat16())


def test_from_transformers_of_several_dtypes_is_of_one() -> None:
    theirs = reference_model(SHAPE, seed=8).half()
    theirs.transformer.wte.float()
    with pytest.warns(UserWarning, match="of one dtype, found F16 beside the embedding's torch.float32, to which they"):
        ours = checkpoint.from_transformers(theirs)
    assert {p.dtype for p in ours.parameters()} == {torch.float32}
    assert torch.isfinite(ours(IDS)).all()


def test_from_transformers_saves_and_loads_as_the_same_model(tmp_path: Path) -> None:
    theirs = reference_model(SHAPE, seed=8)
    checkpoint.save_model(checkpoint.from_transformers(theirs), tmp_path)
    assert relative(checkpoint.load_model(tmp_path)(IDS), theirs(input_ids=IDS).logits) < TOLERANCE


def test_models_that_are_not_this_gpt2_are_refused() -> None:
    def changed(**settings: Any) -> Any:
        model = reference_model(SHAPE, seed=8)
        for name, value in settings.items():
            setattr(model.config, name, value)
        return model

    untied = reference_model(SHAPE, seed=8)
    untied.lm_head.weight = torch.nn.Parameter(untied.lm_head.weight + 1, requires_grad=False)
    longer = reference_model(SHAPE, seed=8)
    longer.resize_token_embeddings(SHAPE["vocab_size"] + 3)
    longer.config.vocab_size = SHAPE["vocab_size"]
    broken = reference_model(SHAPE, seed=8)
    broken.transformer.ln_f.bias[0] = float("nan")
    llama = transformers.LlamaModel(
        transformers.LlamaConfig(
            vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
        )
    )
    gpt_neo = transformers.GPTNeoModel(
        transformers.GPTNeoConfig(
            vocab_size=9, hidden_size=8, num_layers=1, num_heads=2, attention_types=[[["global"], 1]]
        )
    )
    adapted = reference_model(SHAPE, seed=8)
    adapted.extra = torch.nn.Linear(2, 1, bias=False)
    for model, message in [
        (
            torch.nn.Linear(2, 2),
            "expected a GPT-2, Llama or Qwen2 of transformers, got Linear; for a name or a path use load_model",
        ),
        ("gpt2", "got str"),
        (
            llama,
            "LlamaModel: expected lm_head.weight, as tie_word_embeddings is false, found none; take the whole model",
        ),
        (gpt_neo, 'GPTNeoModel: expected model_type "gpt2" or "llama" or "qwen2", found \'gpt_neo\''),
        (changed(add_cross_attention=True), "this variant of GPT-2 is not supported"),
        (changed(n_layer=5), "expected a tensor h.2.ln_1.weight of shape [48], found none; is it a model as it came"),
        (untied, "tied head"),
        (reference_model(SHAPE, seed=8).double(), "wte.weight in F32, BF16, F16, found torch.float64"),
        (reference_model(SHAPE, seed=8).to("meta"), "on the meta device"),
        (converted(reference_model(SHAPE, seed=8)), "expected a GPT-2, Llama or Qwen2 of transformers, got GPT2;"),
        (adapted, "GPT2LMHeadModel: expected only GPT-2's tensors, found extra.weight of shape [1, 2]"),
        (longer, "embeddings added"),
        (broken, "finite numbers in transformer.ln_f.bias, found NaN"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            checkpoint.from_transformers(model)
