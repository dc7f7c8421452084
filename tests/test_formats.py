"""Files of other tools: read by their own readers where these can be installed, and written and read back."""

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from reference import TOLERANCE, both, parts, random_ids, random_tensor, relative
from torch import Tensor

from ministeer import formats
from ministeer.generate import prefill
from ministeer.provenance import Provenance
from ministeer.steer import Steer
from ministeer.vectors import SteeringVector

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")

BOTH = both(seed=9, families=("gpt2", "llama", "qwen2"))
MODEL, THEIRS = BOTH["gpt2"]
MADE = Provenance("0" * 16, "contrastive", "1" * 16, "answer", "float32")
RESIDUAL = [(name, i) for i in range(3) for name in ("pre", "mid")] + [("pre", 3)]


def vector(*sites: tuple[str, int]) -> SteeringVector:
    return SteeringVector({site: random_tensor(16, seed=i + 1) for i, site in enumerate(sites)}, MADE)


def write_gguf(path: Path, kind: str, name: str, tensor: Tensor | None, hint: str = "gpt2", **more: Any) -> None:
    """As repeng writes it: no layer count, no description. more: other entries, and other tensors."""
    writer = gguf.GGUFWriter(path, kind)
    writer.add_string("controlvector.model_hint", hint)
    if tensor is not None:
        writer.add_tensor(name, tensor.numpy())
    for key, value in more.items():
        if isinstance(value, Tensor):
            writer.add_tensor(key, value.numpy())
        else:
            writer.add_string(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# --- what others call our sites ---------------------------------------------------------------------------------------


@pytest.mark.once
def test_block_outputs_there_and_back() -> None:
    for layer in range(5):
        assert formats.to_block_output(formats.from_block_output(layer)) == layer
    assert formats.from_block_output(0) == ("pre", 1)
    for site, message in [(("pre", 0), "embeddings"), (("mid", 2), "inside a block")]:
        with pytest.raises(ValueError, match=message):
            formats.to_block_output(site)
    for wrong in (-1, 1.5):
        with pytest.raises(ValueError, match="0 or more"):
            formats.from_block_output(wrong)
    for convert in (formats.to_block_output, formats.module_name, formats.transformer_lens_name):
        for site in (("head", 0), ("pre", -1), "pre", ("mid", 0.5)):
            with pytest.raises(ValueError, match="expected a site of the stream"):
                convert(site)


@pytest.mark.parametrize("site", RESIDUAL)
def test_the_module_named_is_where_transformers_steers_as_we_do(site: tuple[str, int]) -> None:
    """A hook there, against our own add; every other module gives something else, but for none."""
    ids, steering = random_ids(MODEL, 2, 5), vector(site)
    wanted = MODEL(ids, adds={site: 2.5 * steering[site]})
    module = THEIRS.base_model.get_submodule(formats.module_name(site, THEIRS.config.model_type))
    handle = module.register_forward_hook(steering.hook(site, 2.5))
    found = THEIRS(input_ids=ids).logits
    handle.remove()
    assert relative(found, wanted) < TOLERANCE
    assert relative(THEIRS(input_ids=ids).logits, wanted) > 1e-4  # and it is gone


@pytest.mark.once
def test_modules_are_named_for_the_models_that_are_known() -> None:
    assert formats.module_name(("pre", 2)) == formats.module_name(("pre", 2), "gpt2") == "h.1"
    with pytest.raises(
        ValueError, match=r"model_type .* one of \['gpt2', 'llama', 'qwen2'\], got 'mistral'; of another"
    ):
        formats.module_name(("pre", 2), "mistral")


def test_a_hook_steers_cached_tokens_as_well() -> None:
    site, ids = ("pre", 2), random_ids(MODEL, 1, 6)
    steering = vector(site)
    handle = parts(THEIRS).blocks[1].register_forward_hook(steering.hook(site))
    first = THEIRS(input_ids=ids[:, :4], use_cache=True)
    second = THEIRS(input_ids=ids[:, 4:], past_key_values=first.past_key_values, use_cache=True)
    handle.remove()
    assert relative(second.logits, MODEL(ids, adds={site: steering[site]})[:, 4:]) < TOLERANCE


@pytest.mark.once
def test_a_hook_says_what_it_cannot_do() -> None:
    steering = vector(("pre", 1))
    with pytest.raises(ValueError, match="one of the vector's sites"):
        steering.hook(("pre", 2))
    with pytest.raises(ValueError, match="finite coefficient"):
        steering.hook(("pre", 1), float("nan"))
    with pytest.raises(ValueError, match=r"one per position, \(2, 16\)"):
        SteeringVector({("pre", 1): random_tensor(2, 16)}, MADE).hook(("pre", 1))
    with pytest.raises(ValueError, match="finite coefficient, got '2'"):
        steering.hook(("pre", 1), "2")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a product that float32 can hold, got 1e.39"):
        steering.hook(("pre", 1), 1e39)
    with pytest.raises(ValueError, match="an addition that torch.float16 can hold, got 1e"):
        steering.hook(("pre", 1), 1e6)(None, None, torch.zeros(1, 2, 16, dtype=torch.float16))
    hook = steering.hook(("pre", 1))
    for output in ({"stream": torch.zeros(1, 2, 16)}, torch.zeros(1, 2, 17), None):  # never a silent no-op
        with pytest.raises(ValueError, match="returns the stream"):
            hook(None, None, output)


def test_transformers_hidden_states_are_our_pre_sites() -> None:
    ids = random_ids(MODEL, 1, 5)
    hidden = THEIRS(input_ids=ids, output_hidden_states=True).hidden_states
    tape: dict[Any, Tensor] = {}
    MODEL(ids, tape=tape)
    for i in range(3):
        assert relative(hidden[i], tape["pre", i]) < TOLERANCE
    assert relative(hidden[3], tape["pre", 3]) > 0.1  # after the final norm: no site


@pytest.mark.once
def test_transformer_lens_names() -> None:
    named = [formats.transformer_lens_name(site) for site in RESIDUAL]
    assert named[:3] == ["blocks.0.hook_resid_pre", "blocks.0.hook_resid_mid", "blocks.0.hook_resid_post"]
    assert named[-1] == "blocks.2.hook_resid_post"
    assert len(set(named)) == len(named)


# --- GGUF -------------------------------------------------------------------------------------------------------------


@pytest.mark.once
def test_a_large_coefficient_of_a_vector_in_float16_stays_a_number(tmp_path: Path) -> None:
    half = SteeringVector({("pre", 2): torch.full((16,), 500.0, dtype=torch.float16)}, MADE)
    formats.save_gguf(half, tmp_path / "v.gguf", coeff=200.0)
    assert formats.load_gguf(tmp_path / "v.gguf")["pre", 2].tolist() == [1e5] * 16
    assert half.hook(("pre", 2), 200.0)(None, None, torch.zeros(1, 1, 16)).flatten().tolist() == [1e5] * 16


@pytest.mark.once
def test_gguf_there_and_back(tmp_path: Path) -> None:
    ours = vector(("pre", 2), ("pre", 3), ("pre", 48))
    formats.save_gguf(ours, tmp_path / "v.gguf", coeff=2.0)
    back = formats.load_gguf(tmp_path / "v.gguf")
    assert back.sites == ours.sites
    assert all(torch.equal(back[site], 2.0 * ours[site]) for site in ours.sites)
    assert back.provenance.method == "contrastive (gguf)"
    assert [p.name for p in tmp_path.iterdir()] == ["v.gguf"]


@pytest.mark.once
def test_what_gguf_cannot_express_can_be_left_out(tmp_path: Path) -> None:
    every = vector(*RESIDUAL)
    with pytest.raises(ValueError, match=r"vector\.only"):
        formats.save_gguf(every, tmp_path / "v.gguf")
    some = every.only([("pre", 2), ("pre", 3)])
    assert some.provenance == every.provenance
    formats.save_gguf(some, tmp_path / "v.gguf")
    assert formats.load_gguf(tmp_path / "v.gguf").sites == [("pre", 2), ("pre", 3)]
    with pytest.raises(ValueError, match="one of the vector's sites"):
        some.only([("pre", 1)])


def test_a_vector_saved_without_a_hint_claims_no_architecture(tmp_path: Path) -> None:
    formats.save_gguf(vector(("pre", 2)), tmp_path / "v.gguf")
    assert gguf.GGUFReader(tmp_path / "v.gguf").get_field("controlvector.model_hint").contents() == "unknown"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        formats.load_gguf(tmp_path / "v.gguf", MODEL)


def test_gguf_is_what_llama_cpp_reads(tmp_path: Path) -> None:
    """By the package that defines the format: names, kinds and numbers that llama.cpp's loader asks for."""
    kind = THEIRS.config.model_type
    formats.save_gguf(vector(("pre", 3), ("pre", 2)), tmp_path / "v.gguf", model_hint=kind)
    reader = gguf.GGUFReader(tmp_path / "v.gguf")
    assert reader.get_field("general.architecture").contents() == "controlvector"
    assert reader.get_field("controlvector.model_hint").contents() == kind
    assert reader.get_field("controlvector.layer_count").contents() == 2
    assert [t.name for t in reader.tensors] == ["direction.1", "direction.2"]
    for tensor, site in zip(reader.tensors, (("pre", 2), ("pre", 3)), strict=True):
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
        assert tensor.shape.tolist() == [16]
        assert torch.equal(torch.from_numpy(tensor.data.copy()), vector(("pre", 3), ("pre", 2))[site])


def test_gguf_of_others_is_read_and_steers_at_the_block_it_names(tmp_path: Path) -> None:
    """direction.1 belongs to block 1's output."""
    theirs = random_tensor(16, seed=5)
    write_gguf(tmp_path / "theirs.gguf", "controlvector", "direction.1", theirs)
    vector = formats.load_gguf(tmp_path / "theirs.gguf")
    ids = random_ids(MODEL, 1, 5)
    handle = parts(THEIRS).blocks[1].register_forward_hook(lambda _m, _a, out: out + theirs)
    wanted = THEIRS(input_ids=ids).logits[:, -1]
    handle.remove()
    assert vector.sites == [("pre", 2)]
    assert relative(prefill(MODEL, ids.tolist(), None, [Steer(vector, ("pre", 2))]), wanted) < TOLERANCE


@pytest.mark.once
@pytest.mark.parametrize(
    ("site", "message"),
    [(("pre", 1), "output of block 0"), (("pre", 0), "embeddings"), (("mid", 2), "inside a block")],
)
def test_what_gguf_cannot_express_is_refused_with_the_reason(
    site: tuple[str, int], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        formats.save_gguf(vector(("pre", 2), site), tmp_path / "v.gguf")
    with pytest.raises(ValueError, match="finite coefficient"):
        formats.save_gguf(vector(("pre", 2)), tmp_path / "v.gguf", coeff=float("inf"))
    with pytest.raises(ValueError, match="finite coefficient, got '2'"):
        formats.save_gguf(vector(("pre", 2)), tmp_path / "v.gguf", coeff="2")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a product that float32 can hold"):
        formats.save_gguf(vector(("pre", 2)), tmp_path / "v.gguf", coeff=1e39)
    with pytest.raises(ValueError, match="a product that float32 can hold"):
        formats.save_lm_eval(vector(("pre", 2)), ("pre", 2), tmp_path / "v.pt", coeff=1e39)
    with pytest.raises(ValueError, match="model_hint as a text, .*got 3"):
        formats.save_gguf(vector(("pre", 2)), tmp_path / "v.gguf", model_hint=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a folder that exists"):
        formats.save_gguf(vector(("pre", 2)), tmp_path / "none" / "v.gguf")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.once
def test_other_files_are_no_control_vectors(tmp_path: Path) -> None:
    path = tmp_path / "v.gguf"
    with pytest.raises(FileNotFoundError, match="found none"):
        formats.load_gguf(path)
    for content in (b"", b"not a gguf file at all"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"expected (a GGUF file|the magic GGUF), found .*; "):
            formats.load_gguf(path)
    write_gguf(path, "controlvector", "direction.1", random_tensor(16).half())
    with pytest.raises(
        ValueError, match=r"direction\.1 with one dimension in F32, as control vectors are, found \[16\] in F16"
    ):
        formats.load_gguf(path)
    for kind, name, message in [
        ("llama", "direction.1", "found the architecture 'llama'"),
        ("controlvector", "direction.0", "from 1"),
        ("controlvector", "layer.1", "found 'layer.1'"),
    ]:
        write_gguf(path, kind, name, random_tensor(16))
        with pytest.raises(ValueError, match=message):
            formats.load_gguf(path)


@pytest.mark.once
@pytest.mark.parametrize(
    ("tensor", "more", "message"),
    [
        (
            random_tensor(2, 16),
            {},
            r"direction\.1 with one dimension in F32, as control vectors are, found \[2, 16\] in F32",
        ),
        (random_tensor(16), {"direction.01": random_tensor(16)}, r"direction\.N with N from 1, found 'direction\.01'"),
        (None, {}, r"expected a tensor direction\.1 or a later one, found no tensors"),
        (random_tensor(16), {"controlvector.mode": "project"}, "only .*, found controlvector.mode 'project'; if it is"),
        (random_tensor(16), {"steering.operation": "ablate"}, "only .*, found steering.operation 'ablate'"),
    ],
)
def test_what_a_file_asks_for_beside_an_addition_is_refused(
    tensor: Tensor | None, more: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write_gguf(tmp_path / "v.gguf", "controlvector", "direction.1", tensor, **more)
    with pytest.raises(ValueError, match=message):
        formats.load_gguf(tmp_path / "v.gguf")


@pytest.mark.once
def test_what_llama_cpp_takes_and_what_says_nothing_of_the_sum_is_read(tmp_path: Path) -> None:
    row = random_tensor(1, 16)
    write_gguf(tmp_path / "v.gguf", "controlvector", "direction.1", row, **{"general.name": "kind"})
    assert torch.equal(formats.load_gguf(tmp_path / "v.gguf")["pre", 2], row[0])


def test_a_hint_of_another_architecture_is_said_and_kept(tmp_path: Path) -> None:
    kind = THEIRS.config.model_type
    for hint in ("gpt2", "llama", "qwen2", "mistral"):
        write_gguf(tmp_path / "v.gguf", "controlvector", "direction.1", random_tensor(16), hint)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            vector = formats.load_gguf(tmp_path / "v.gguf", MODEL)
        assert vector.provenance.model == f"unknown {hint}"
        assert [
            f"made for '{hint}', as its model_hint says, and the model is '{kind}'" in str(w.message) for w in said
        ] == ([] if hint == kind else [True])
    write_gguf(tmp_path / "v.gguf", "controlvector", "direction.1", random_tensor(8), kind)
    with pytest.raises(ValueError, match="a vector of the model's width 16, found 8"):
        formats.load_gguf(tmp_path / "v.gguf", MODEL)


# --- lm-evaluation-harness --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("site", [("pre", 0), ("pre", 2), ("pre", 3), ("mid", 1)])
def test_a_steer_file_steers_as_the_harness_applies_it(site: tuple[str, int], tmp_path: Path) -> None:
    """The harness's steps in short: hooks on `model.base_model`'s modules of these names, vector times coefficient added."""
    ours = vector(site)
    formats.save_lm_eval(ours, site, tmp_path / "steer.pt", coeff=-1.5, model_type=THEIRS.config.model_type)
    config = torch.load(tmp_path / "steer.pt", weights_only=True)
    ((name, entry),) = config.items()
    assert (entry["action"], entry["bias"], entry["head_index"]) == ("add", None, None)
    shift = entry["steering_vector"] * float(entry["steering_coefficient"])

    def hook(_m: Any, _a: Any, output: Any) -> Any:
        return (output[0] + shift, *output[1:]) if isinstance(output, tuple) else output + shift

    modules = dict(THEIRS.base_model.named_modules())
    handle = modules[name].register_forward_hook(hook)
    ids = random_ids(MODEL, 1, 5)
    found = THEIRS(input_ids=ids).logits
    handle.remove()
    assert relative(found, MODEL(ids, adds={site: -1.5 * ours[site]})) < TOLERANCE


@pytest.mark.once
def test_steer_files_that_cannot_be_written(tmp_path: Path) -> None:
    ours = vector(("pre", 1))
    with pytest.raises(ValueError, match=r"\.pt or \.pth"):
        formats.save_lm_eval(ours, ("pre", 1), tmp_path / "steer.csv")
    with pytest.raises(ValueError, match="one of the vector's sites"):
        formats.save_lm_eval(ours, ("pre", 2), tmp_path / "steer.pt")
    with pytest.raises(ValueError, match="finite coefficient"):
        formats.save_lm_eval(ours, ("pre", 1), tmp_path / "steer.pt", coeff=float("inf"))
    with pytest.raises(ValueError, match="one per position"):
        front = SteeringVector({("pre", 1): random_tensor(2, 16)}, MADE)
        formats.save_lm_eval(front, ("pre", 1), tmp_path / "steer.pt")
    assert list(tmp_path.iterdir()) == []


# --- steering-vectors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["decoder_block", "self_attn"])
def test_a_vector_of_the_package_steers_here_as_there(kind: str) -> None:
    theirs = pytest.importorskip("steering_vectors", reason="the package steering-vectors is not installed")
    layers = {0: random_tensor(16, seed=1), 2: random_tensor(16, seed=2)}
    vector = theirs.SteeringVector(layers, kind)
    ids = random_ids(MODEL, 2, 5)
    with vector.apply(THEIRS, multiplier=1.5):
        wanted = THEIRS(input_ids=ids).logits[:, -1]
    ours = formats.from_steering_vectors(vector)
    assert (
        relative(prefill(MODEL, ids.tolist(), None, [Steer(ours, site, 1.5) for site in ours.sites]), wanted)
        < TOLERANCE
    )
    assert relative(THEIRS(input_ids=ids).logits[:, -1], wanted) > 1e-4


@pytest.mark.once
def test_what_is_no_vector_of_the_package_is_refused() -> None:
    with pytest.raises(ValueError, match="with layers, got dict"):
        formats.from_steering_vectors({})
    with pytest.raises(ValueError, match="got 'mlp'"):
        formats.from_steering_vectors(SimpleNamespace(layer_activations={1: torch.ones(4)}, layer_type="mlp"))
    with pytest.raises(ValueError, match=r"one vector \(D,\) a layer"):
        formats.from_steering_vectors(
            SimpleNamespace(layer_activations={1: torch.ones(2, 4)}, layer_type="decoder_block")
        )
    with pytest.raises(ValueError, match=r"one vector \(D,\) a layer, a tensor, got \['list'\]"):
        formats.from_steering_vectors(SimpleNamespace(layer_activations={1: [1.0]}, layer_type="decoder_block"))
