"""The algebra of vectors; files that survive accidents; fingerprints."""

import copy
import json
import math
import re
import warnings
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import SHAPES, both, pair, random_tensor, writer

from ministeer import vectors
from ministeer.checkpoint import load_model
from ministeer.provenance import Provenance, data_hash, fingerprint
from ministeer.steer import Steer
from ministeer.vectors import SteeringVector

MODELS = {name: some.ours for name, some in both(seed=1).items()}
MODEL = MODELS["gpt2"]
WIDTH = MODEL.config.width
V = random_tensor(WIDTH, seed=5)
FRONT = random_tensor(2, WIDTH, seed=6)
PROVENANCE = Provenance(fingerprint(MODEL), "contrastive", "0123456789abcdef", "answer", "float32", 7)


def some_vector(
    seed: int = 0, scale: float = 1.0, sites: tuple = (("pre", 0), ("mid", 1), ("pre", 3))
) -> SteeringVector:
    return SteeringVector(
        {site: random_tensor(WIDTH, seed=seed + n, scale=scale) for n, site in enumerate(sites)}, PROVENANCE
    )


def close(a: SteeringVector, b: SteeringVector, tolerance: float) -> bool:
    return a.sites == b.sites and all(bool(((a[s] - b[s]).abs() <= tolerance).all()) for s in a.sites)


def same(a: SteeringVector, b: SteeringVector) -> bool:
    """To the bit, dtype included."""
    return a.sites == b.sites and all(a[s].dtype == b[s].dtype and torch.equal(a[s], b[s]) for s in a.sites)


def test_vectors_and_interventions_can_be_compared_and_kept_in_a_set() -> None:
    """By identity: of tensors, Python's == makes no yes or no."""
    for one, twin in ((some_vector(1), some_vector(1)), (Steer(V, ("pre", 1)), Steer(V, ("pre", 1)))):
        assert one in [one] and one not in [twin]
        assert len({one, one, twin}) == 2


def test_a_vector_shows_what_it_is_and_not_its_numbers() -> None:
    assert re.fullmatch(r"SteeringVector\(\w+, width 16, sites \[.*\('mid', 1\).*\]\)", repr(some_vector(1)))


def test_a_number_close_to_another_leaves_another_provenance() -> None:
    vector = some_vector(1)
    assert (0.12345671 * vector).provenance != (0.12345672 * vector).provenance


# --- the algebra of vectors -----------------------------------------------------------------------------------------

seeds = st.integers(0, 2**20)
scales = st.sampled_from([1e-3, 1.0, 50.0])
numbers = st.floats(0.01, 100) | st.floats(-100, -0.01)


@given(seeds, seeds, scales, scales)
def test_adding_and_taking_away_again_leaves_the_vector(i: int, j: int, p: float, q: float) -> None:
    a, b = some_vector(i, p), some_vector(j, q)
    rounding = 1e-6 * max(float(v[s].abs().max()) for v in (a, b) for s in a.sites)
    assert close(a + b - b, a, rounding)
    assert same(a + b, b + a)
    assert same(a - b, a + (-b))
    assert same(a - b, -(b - a))


@given(seeds, scales, numbers)
def test_scaling_is_what_it_says(i: int, p: float, c: float) -> None:
    a = some_vector(i, p)
    largest = max(float(a[s].abs().max()) for s in a.sites)
    assert same(2 * a, a + a)
    back = -a
    assert same(-back, a)
    assert same(-a, -1 * a)
    assert same(a * c, c * a)
    assert same(a * 1, a)
    assert close((a * c) / c, a, 1e-6 * largest)
    assert close((a * 3 + a * c) / (3 + c) if abs(3 + c) > 0.1 else a, a, 1e-3 * largest)
    for site, norm in (c * a).norm().items():
        assert norm == pytest.approx(abs(c) * a.norm()[site], rel=1e-5)


def test_the_norm_is_euclidean_and_over_all_positions_of_a_per_position_vector() -> None:
    vector = SteeringVector(
        {("pre", 0): torch.tensor([[3.0, 0.0], [0.0, 4.0]]), ("mid", 0): torch.tensor([0.0, -2.0])}, PROVENANCE
    )
    assert vector.norm() == {("pre", 0): 5.0, ("mid", 0): 2.0}
    assert vector.width == 2
    assert vector.sites == [("pre", 0), ("mid", 0)]


def test_the_sum_of_vectors_is_their_sum() -> None:
    a, b, c = (some_vector(i) for i in range(3))
    assert same(sum([a, b, c]), a + b + c)


def test_arithmetic_changes_neither_operand() -> None:
    a, b = some_vector(1), some_vector(2)
    before = [copy.deepcopy(v.tensors) for v in (a, b)]
    _ = a + b, a - b, 3 * a, a / 2, -a
    for v, tensors in zip((a, b), before, strict=True):
        assert all(torch.equal(v[s], tensors[s]) for s in v.sites)
        assert v.provenance == PROVENANCE


def test_the_provenance_says_what_was_done() -> None:
    a, b = some_vector(1), SteeringVector(some_vector(2).tensors, replace(PROVENANCE, method="pca", data="other"))
    assert (2 * a).provenance == replace(PROVENANCE, method="2 * (contrastive)")
    assert (a / 4).provenance == replace(PROVENANCE, method="(contrastive) / 4")
    assert (-a).provenance == replace(PROVENANCE, method="-(contrastive)")
    assert (a + a).provenance == replace(PROVENANCE, method="(contrastive) + (contrastive)")
    assert (a - b).provenance == replace(PROVENANCE, method="(contrastive) - (pca)", data="0123456789abcdef - other")
    assert (-(a - b) * 0.5).provenance.method == "0.5 * (-((contrastive) - (pca)))"


def test_of_two_seeds_neither_is_lost() -> None:
    a, b = some_vector(1), SteeringVector(some_vector(2).tensors, replace(PROVENANCE, seed=8))
    assert (a + b).provenance.seed is None
    assert (a + b).provenance.method == "(contrastive, seed 7) + (contrastive, seed 8)"


def test_vectors_of_two_models_make_a_vector_of_neither() -> None:
    a, b = some_vector(1), SteeringVector(some_vector(2).tensors, replace(PROVENANCE, model="another"))
    assert (a - b).provenance.model == f"{PROVENANCE.model} - another"


@pytest.mark.parametrize(
    "other",
    [
        some_vector(sites=(("pre", 0), ("mid", 1))),
        some_vector(sites=(("pre", 0), ("mid", 1), ("pre", 2))),
        SteeringVector({site: torch.ones(WIDTH + 1) for site in some_vector().sites}, PROVENANCE),
        SteeringVector({site: torch.ones(1, WIDTH) for site in some_vector().sites}, PROVENANCE),
    ],
)
def test_vectors_of_other_sites_or_shapes_do_not_add(other: SteeringVector) -> None:
    for combine in (lambda: some_vector() + other, lambda: other - some_vector()):
        with pytest.raises(ValueError, match="same sites and shapes"):
            combine()


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({}, "at least one site"),
        ([torch.ones(3)], "a dictionary"),
        ({"pre5": torch.ones(3)}, "a site of the stream"),
        ({("pre", 0): [1.0, 2.0]}, "floating-point numbers at \\('pre', 0\\), got list"),
        ({("pre", 0): torch.ones(3).long()}, "got torch.int64"),
        ({("pre", 0): torch.ones(3).to(torch.float8_e4m3fn)}, "got torch.float8_e4m3fn.*; write vector.float"),
        ({("pre", 0): torch.ones(3).to_sparse()}, "got torch.float32, torch.sparse_coo"),
        ({("pre", 0): torch.ones(3, device="meta")}, "on meta"),
        ({("pre", True): torch.ones(3)}, r"got \('pre', True\)"),
        ({("pre", 0): torch.ones(0)}, "\\(D,\\) or \\(P, D\\)"),
        ({("pre", 0): torch.ones(3), ("pre", 1): torch.ones(4)}, "one width"),
        ({("pre", 0): torch.tensor(1.0)}, "\\(D,\\) or \\(P, D\\)"),
        ({("pre", 0): torch.ones(2, 3, 4)}, "\\(D,\\) or \\(P, D\\)"),
        ({("pre", 0): torch.tensor([1.0, math.nan])}, "finite values at \\('pre', 0\\)"),
        ({("pre", 0): torch.ones(2), ("mid", 0): torch.tensor([1.0, -math.inf])}, "finite values at \\('mid', 0\\)"),
    ],
)
def test_tensors_that_are_no_vector_are_refused(tensors: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SteeringVector(tensors, PROVENANCE)


@pytest.mark.parametrize("number", [0.0, math.nan, math.inf])
def test_scaling_to_nothing_finite_is_refused(number: float) -> None:
    with pytest.raises((ValueError, ZeroDivisionError)):
        some_vector() / number if number == 0 else some_vector() * number


def test_any_real_number_that_a_float_holds_scales() -> None:
    assert torch.equal((some_vector() * Fraction(1, 2))["pre", 0], (some_vector() / 2)["pre", 0])
    for number in (10**400, Fraction(10**400), "2", None, 1j):
        with pytest.raises(ValueError, match="expected a finite number to scale a vector by, got"):
            some_vector() * number  # type: ignore[operator]


def test_a_site_that_the_vector_has_not_is_refused_with_those_it_has() -> None:
    with pytest.raises(ValueError, match=re.escape("[('pre', 0), ('mid', 1), ('pre', 3)], got ('pre', 1)")):
        some_vector()["pre", 1]


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "v.safetensors"
    some_vector().save(path)
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_what_is_saved_comes_back_to_the_bit_with_its_provenance(tmp_path: Path, dtype: torch.dtype) -> None:
    sites = [(name, i) for i in range(12) for name in ("pre", "mid")] + [("pre", 12)]
    tensors = {site: random_tensor(WIDTH, seed=n).to(dtype) for n, site in enumerate(sites)}
    tensors["pre", 3] = random_tensor(5, WIDTH, seed=99).to(dtype)
    odd = Provenance("m", 'a "method" with ünïcödé\n', "d", "every token, filler ' '", "float32", None)
    for provenance in (PROVENANCE, odd):
        vector = SteeringVector(tensors, provenance)
        vector.save(tmp_path / "v.safetensors")
        back = SteeringVector.load(str(tmp_path / "v.safetensors"))
        assert same(back, vector)  # and the sites in the order in which the stream passes them
        assert back.provenance == provenance
    assert [p.name for p in tmp_path.iterdir()] == ["v.safetensors"]


def test_the_file_is_plain_safetensors_with_readable_metadata(saved: Path) -> None:
    with safetensors.safe_open(saved, framework="np") as file:
        assert sorted(file.keys()) == ["mid.1", "pre.0", "pre.3"]
        assert file.metadata()["format"] == "ministeer.vector"
        assert PROVENANCE.model in file.metadata()["provenance"]


def test_tensors_that_share_memory_or_are_slices_can_be_saved(tmp_path: Path) -> None:
    rows = random_tensor(WIDTH, 3, seed=1)
    vector = SteeringVector({("pre", 0): rows[:, 0], ("pre", 1): rows[:, 0], ("pre", 2): rows[:, 2]}, PROVENANCE)
    vector.save(tmp_path / "v.safetensors")
    assert same(SteeringVector.load(tmp_path / "v.safetensors"), vector)


def test_saving_again_replaces(saved: Path) -> None:
    some_vector(50).save(saved)
    assert same(SteeringVector.load(saved), some_vector(50))


@pytest.mark.parametrize("existed", [True, False])
@pytest.mark.parametrize("at", ["the write", "the rename"])
def test_an_interrupted_save_leaves_what_was_there_whole_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existed: bool, at: str
) -> None:
    path = tmp_path / "v.safetensors"
    if existed:
        some_vector(1).save(path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    real = safetensors.torch.save_file

    def half(tensors: Any, filename: Any, metadata: Any = None) -> None:
        real(tensors, filename, metadata)
        Path(filename).write_bytes(Path(filename).read_bytes()[:100])
        raise KeyboardInterrupt

    def refuse(*_: Any) -> None:
        raise OSError("no space")

    with monkeypatch.context() as patch:
        if at == "the write":
            patch.setattr(safetensors.torch, "save_file", half)
        else:
            patch.setattr(vectors.os, "replace", refuse)
        with pytest.raises((KeyboardInterrupt, OSError)):
            some_vector(2).save(path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["v.pt", "v", "v.safetensors.bin"])
def test_a_path_with_another_suffix_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"ends in .safetensors, got '{name}'"):
        some_vector().save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a folder that exists"):
        some_vector().save(tmp_path / "nowhere" / "v.safetensors")


def another_safetensors(path: Path) -> None:
    safetensors.torch.save_file({"wte.weight": torch.ones(3, 4)}, path)


SOUND = {"provenance": json.dumps(asdict(Provenance("m", "a", "d", "t", "float32"))), "health": "{}"}


def changed_by_hand(key: str, metadata: dict[str, str]) -> Any:
    return lambda path: safetensors.torch.save_file(
        {key: torch.ones(4)}, path, {"format": "ministeer.vector", **metadata}
    )


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-7]), "expected a safetensors file"),
        (lambda path: path.write_bytes(path.read_bytes()[:60]), "expected a safetensors file"),
        (lambda path: path.write_bytes(b""), "expected a safetensors file"),
        (lambda path: path.write_text("these are words, and many of them\n" * 20), "expected a safetensors file"),
        (lambda path: torch.save({"v": V}, path), "expected a safetensors file"),
        (another_safetensors, "written by SteeringVector.save"),
        (changed_by_hand("pre.0", {}), "the provenance"),
        (changed_by_hand("pre.0", {"provenance": "{}"}), "the provenance"),
        (changed_by_hand("pre.0", {"provenance": "not json"}), "the provenance"),
        (changed_by_hand("pre", {"provenance": "{}"}), "the sites"),
        (changed_by_hand("pre.x", {"provenance": "{}"}), "the sites"),
        (changed_by_hand("pre.01", SOUND), "the sites"),
        (changed_by_hand("pre.-1", SOUND), "the sites"),
        *[
            (changed_by_hand("pre.0", SOUND | {"provenance": said}), "the provenance")
            for said in (
                "[]",
                "7",
                "null",
                '"a text"',
                '{"model": "m"}',
                "[" * 100000,
                SOUND["provenance"].replace('"m"', "[1]"),
                SOUND["provenance"].replace("null", '"1"'),
            )
        ],
        *[
            (changed_by_hand("pre.0", SOUND | {"health": said}), "the provenance")
            for said in (
                "[]",
                "7",
                '{"pre.0": []}',
                '{"pre.0": null}',
                '{"pre.0": {"split_half": "1"}}',
                '{"pre.0": {"norm": 1}}',
                '{"x": {}}',
            )
        ],
        (
            lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n"),
            "a Git LFS pointer",
        ),
        (lambda path: path.write_text("\n<!DOCTYPE html><html>"), "a web page; download the file itself"),
    ],
)
def test_a_file_that_is_no_vector_is_refused_in_one_sentence_that_names_it(
    saved: Path, damage: Any, words: str
) -> None:
    damage(saved)
    with pytest.raises(ValueError, match=words) as caught:
        SteeringVector.load(saved)
    message = str(caught.value)
    assert message.startswith(f"{saved}: expected")
    assert "got" in message
    assert "\n" not in message


def test_a_file_that_is_not_there_is_the_usual_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=re.escape("v.safetensors")):
        SteeringVector.load(tmp_path / "v.safetensors")


def test_a_vector_is_not_loaded_onto_a_model_of_another_width(saved: Path) -> None:
    wider = pair(SHAPES["one head"]).ours
    with pytest.raises(ValueError, match=f"width 24, got {WIDTH}"):
        SteeringVector.load(saved, wider)


def test_a_vector_loaded_onto_other_weights_of_its_width_warns_with_both_hashes(saved: Path) -> None:
    other = pair(SHAPES["gpt2"], seed=2).ours
    with pytest.warns(UserWarning, match=PROVENANCE.model) as caught:
        vector = SteeringVector.load(saved, other)
    assert len(caught) == 1
    assert fingerprint(other) in str(caught[0].message)
    assert caught[0].filename == __file__  # it points at the caller's line
    assert same(vector, some_vector())


def test_a_vector_loaded_onto_its_own_weights_is_silent_in_float32_and_in_bf16(saved: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for model in (MODEL, copy.deepcopy(MODEL).bfloat16()):
            assert same(SteeringVector.load(saved, model), some_vector())


# --- fingerprints ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_a_fingerprint_is_of_the_weights_whatever_the_dtype_they_lie_in(name: str) -> None:
    model = MODELS[name]
    here = fingerprint(model)
    assert re.fullmatch("[0-9a-f]{16}", here)
    assert fingerprint(copy.deepcopy(model)) == fingerprint(copy.deepcopy(model).bfloat16()) == here
    assert fingerprint(copy.deepcopy(model).double()) == here
    assert fingerprint(pair(SHAPES[name], seed=2).ours) != here


@pytest.mark.parametrize(
    ("name", "weight"), [(name, weight) for name, m in MODELS.items() for weight in m.state_dict()]
)
def test_any_one_weight_changes_the_fingerprint_if_by_more_than_bf16s_rounding(name: str, weight: str) -> None:
    here, model = fingerprint(MODELS[name]), copy.deepcopy(MODELS[name])
    weights = model.state_dict()[weight].view(-1)
    for index in {0, len(weights) // 2, len(weights) - 1}:
        old = weights[index].item()
        exact = torch.tensor(old).bfloat16().item()
        weights[index] = exact * (1 + 2**-11)  # an eighth of the way to its bf16 neighbour
        assert fingerprint(model) == here
        weights[index] = exact * (1 + 2**-6)
        assert fingerprint(model) != here
        weights[index] = old
    assert fingerprint(model) == here


@pytest.mark.parametrize(
    ("name", "setting"),
    [("gpt2", {"layer_norm_epsilon": 0.05}), ("gpt2", {"activation": "relu"}), ("llama", {"rope_base": 10000})],
)
def test_settings_that_no_tensor_shows_change_the_fingerprint_where_they_are_not_the_default(
    name: str, setting: dict[str, Any], tmp_path: Path
) -> None:
    model = MODELS[name]
    other = type(model)(replace(model.config, **setting))
    other.load_state_dict(model.state_dict())
    assert fingerprint(other) != fingerprint(model)
    vector = SteeringVector({("pre", 1): V}, replace(PROVENANCE, model=fingerprint(model)))
    vector.save(tmp_path / "v.safetensors")
    with pytest.warns(UserWarning, match=fingerprint(other)):
        SteeringVector.load(tmp_path / "v.safetensors", other)


def test_a_model_with_the_default_settings_has_the_fingerprint_that_vectors_on_disk_name() -> None:
    assert fingerprint(load_model("nano")) == "938da8e04c74d47e"


@pytest.mark.parametrize("name", MODELS)
def test_two_weights_swapped_change_the_fingerprint(name: str) -> None:
    model = copy.deepcopy(MODELS[name])
    a, b = writer(model, 0).weight, writer(model, 1).weight
    a.data, b.data = b.data, a.data
    assert fingerprint(model) != fingerprint(MODELS[name])


@pytest.mark.parametrize("name", MODELS)
def test_a_square_matrix_transposed_changes_the_fingerprint(name: str) -> None:
    model = copy.deepcopy(MODELS[name])
    writer(model, 0).weight.data = writer(model, 0).weight.data.T
    assert fingerprint(model) != fingerprint(MODELS[name])


def test_a_data_hash_knows_the_texts_and_their_order() -> None:
    hashes = [data_hash(texts) for texts in (["a", "b"], ["b", "a"], ["ab"], ["a", "b", ""], ["é"], ["e"])]
    assert len(set(hashes)) == len(hashes)
    assert data_hash(("a", "b")) == hashes[0]
    assert all(re.fullmatch("[0-9a-f]{16}", h) for h in hashes)
