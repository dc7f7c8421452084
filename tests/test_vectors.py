"""Where a Steer steers, written out by hand; the algebra of vectors; files that survive accidents; fingerprints."""

import copy
import math
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import SHAPES, both, pair, random_tensor, writer
from torch import Tensor

from ministeer import vectors
from ministeer.provenance import Provenance, data_hash, fingerprint
from ministeer.steer import Steer, adds_at
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


# --- where a Steer steers -------------------------------------------------------------------------------------------

# one prompt of 4 tokens, one of 2, one of 1, padded to 4; then two tokens behind each
PROMPTS = torch.tensor([[0, 1, 2, 3], [0, 1, -1, -1], [0, -1, -1, -1]])
BEHIND = torch.tensor([[4, 5], [2, 3], [1, 2]])
LENGTHS = torch.tensor([4, 2, 1])
TOUCHED = {
    "all": (["xxxx", "xx..", "x..."], ["xx", "xx", "xx"]),
    "prompt": (["xxxx", "xx..", "x..."], ["..", "..", ".."]),
    "last": (["...x", ".x..", "x..."], ["xx", "xx", "xx"]),
    "generated": (["....", "....", "...."], ["xx", "xx", "xx"]),
    "front": (["xx..", "xx..", "x..."], ["..", "..", "x."]),  # `check` refuses it for the row of one token
    (0,): (["x...", "x...", "x..."], ["..", "..", ".."]),
    (1, 3): ([".x.x", ".x..", "...."], ["..", ".x", "x."]),  # likewise for the two short rows
}


def drawn(mask: Tensor) -> list[str]:
    return ["".join(".x"[int(on)] for on in row) for row in mask]


@pytest.mark.parametrize("where", TOUCHED, ids=str)
def test_which_positions_are_steered_drawn_by_hand(where: Any) -> None:
    steer = Steer(FRONT if where == "front" else V, ("pre", 1), where=where)
    assert drawn(steer.touches(PROMPTS, LENGTHS)) == TOUCHED[where][0]
    assert drawn(steer.touches(BEHIND, LENGTHS)) == TOUCHED[where][1]
    one_by_one = torch.cat([steer.touches(BEHIND[:, i : i + 1], LENGTHS) for i in range(2)], dim=1)
    assert drawn(one_by_one) == TOUCHED[where][1]


@pytest.mark.parametrize("where", ["all", "prompt", "last", "generated", [0], [0, 1]])
def test_the_first_steered_position_is_steered_and_the_one_before_is_not(where: Any) -> None:
    """Published: `>` written for `>=`. For prompts of 2 tokens in texts of 4."""
    first = {"all": 0, "prompt": 0, "last": 1, "generated": 2}.get(where, 0) if isinstance(where, str) else 0
    touched = Steer(V, ("pre", 1), where=where).touches(torch.arange(4)[None], torch.tensor([2]))[0].tolist()
    assert touched.index(True) == first


def test_a_one_token_prompt_is_not_taken_for_a_decoding_step() -> None:
    """Published. Its one position is the prompt's, though a call with one token looks like one that decodes."""
    position, length = torch.tensor([[0]]), torch.tensor([1])
    steered = [
        w for w in ("all", "prompt", "last", "generated") if Steer(V, ("pre", 1), where=w).touches(position, length)
    ]
    assert steered == ["all", "prompt", "last"]
    steered = [
        w for w in ("all", "prompt", "last", "generated") if Steer(V, ("pre", 1), where=w).touches(position + 1, length)
    ]
    assert steered == ["all", "last", "generated"]


@given(
    st.lists(st.integers(2, 6), min_size=1, max_size=4),
    st.sampled_from(["all", "prompt", "last", "generated", "front", (0,), (1, 0)]),
    st.integers(0, 3),
    st.integers(0, 99),
)
def test_what_is_added_is_the_coefficient_times_the_vector_there_and_zero_elsewhere(
    lengths: list[int], where: Any, behind: int, seed: int
) -> None:
    coeffs = random_tensor(len(lengths), seed=seed, scale=3.0).tolist()
    steer = Steer(FRONT if where == "front" else V, ("pre", 1), coeffs, where)
    rows = [[*range(n), *[-1] * (max(lengths) - n), *range(n, n + behind)] for n in lengths]
    delta = steer.add(torch.tensor(rows), torch.tensor(lengths))
    assert delta.shape == (len(rows), len(rows[0]), WIDTH)
    for row, (positions, n, c) in enumerate(zip(rows, lengths, coeffs, strict=True)):
        for column, p in enumerate(positions):
            at = {"all": True, "prompt": p < n, "last": p >= n - 1, "generated": p >= n, "front": p < 2}
            on = p >= 0 and (at[where] if isinstance(where, str) else p in where)
            expected = (FRONT[p] if where == "front" else V) * c if on else torch.zeros(WIDTH)
            torch.testing.assert_close(delta[row, column], expected)


def test_one_coefficient_serves_every_row_and_a_list_gives_each_its_own() -> None:
    positions, lengths = torch.arange(3).expand(2, 3), torch.tensor([3, 3])
    assert torch.equal(Steer(V, ("pre", 1), 2).add(positions, lengths), (2 * V).expand(2, 3, -1))
    swept = Steer(V, ("pre", 1), (2, -1.5)).add(positions, lengths)
    assert torch.equal(swept, torch.tensor([2, -1.5])[:, None, None] * V.expand(2, 3, -1))


def test_coefficients_may_lie_in_a_tensor_or_an_array() -> None:
    sweep = torch.linspace(-1, 1, 3)
    for coeff in (sweep, sweep.numpy()):
        assert Steer(V, ("pre", 1), coeff).coeffs == [-1.0, 0.0, 1.0]
    assert Steer(V, ("pre", 1), sweep[2]).coeffs == [1.0]


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


def test_a_coefficient_is_not_rounded_away() -> None:
    assert torch.equal(Steer(V, ("pre", 1), 0.1).add(torch.tensor([[0]]), torch.tensor([1]))[0, 0], 0.1 * V)


def test_interventions_at_one_site_are_summed_and_at_two_sites_kept_apart() -> None:
    w, site = random_tensor(WIDTH, seed=9), ("pre", 1)
    adds = adds_at([Steer(V, site, 2.0), Steer(w, site, -1.0, "last"), Steer(w, ("mid", 0))], PROMPTS, LENGTHS)
    assert list(adds) == [site, ("mid", 0)]
    expected = torch.zeros(3, 4, WIDTH)
    for row, n in enumerate(LENGTHS.tolist()):
        expected[row, :n] = 2.0 * V
        expected[row, n - 1] -= w
    torch.testing.assert_close(adds[site], expected)
    assert torch.equal(adds["mid", 0], (PROMPTS >= 0)[:, :, None] * w)


def test_an_intervention_that_touches_none_of_these_positions_is_left_out() -> None:
    steers = [
        Steer(FRONT, ("pre", 0), where="front"),
        Steer(V, ("pre", 1), where="prompt"),
        Steer(V, ("pre", 2), where=[1]),
    ]
    assert list(adds_at(steers, PROMPTS[:2], LENGTHS[:2])) == [("pre", 0), ("pre", 1), ("pre", 2)]
    assert adds_at(steers, torch.tensor([[4], [2]]), LENGTHS[:2]) == {}
    assert adds_at([], PROMPTS, LENGTHS) == {}


def test_a_steering_vector_gives_its_tensor_at_the_site() -> None:
    vector = some_vector()
    for site in vector.sites:
        assert Steer(vector, site).content is vector[site]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"where": "first"}, ["'all'", "'first'"]),
        ({"where": ""}, ["'all'", "''"]),
        ({"where": []}, ["counted from 0", "[]"]),
        ({"where": [-1]}, ["counted from 0", "[-1]", "where='last'"]),
        ({"where": [0, 1.0]}, ["counted from 0", "[0, 1.0]"]),
        ({"where": [True, False]}, ["counted from 0", "[True, False]"]),
        ({"where": 3}, ["list of prompt positions", "3"]),
        ({"where": None}, ["list of prompt positions", "None"]),
        ({"vector": FRONT}, ["(D,)", "(2, 16)", "'all'", "goes with where='front'"]),
        ({"where": "front"}, ["(P, D)", "(16,)", "'front'"]),
        ({"vector": FRONT[:0], "where": "front"}, ["(P, D)", "(0, 16)"]),
        ({"vector": torch.tensor(1.0)}, ["(D,)", "()"]),
        ({"vector": torch.arange(16)}, ["floating-point", "int64"]),
        ({"vector": [1.0, 2.0]}, ["floating-point", "list"]),
        ({"vector": V / 0.0}, ["finite values"]),
        ({"coeff": math.nan}, ["finite coefficients", "nan"]),
        ({"coeff": [1.0, math.inf]}, ["finite coefficients", "[1.0, inf]"]),
        ({"coeff": []}, ["list of one a row", "[]"]),
        ({"coeff": "10"}, ["list of one a row", "'10'"]),
        ({"coeff": torch.tensor([1.0, math.nan])}, ["finite coefficients", "nan"]),
        ({"coeff": "strong"}, ["list of one a row", "strong"]),
        ({"coeff": None}, ["list of one a row", "None"]),
        ({"site": ["pre", 1]}, ['("pre", i)', "['pre', 1]"]),
        ({"vector": some_vector()}, ["('pre', 0), ('mid', 1), ('pre', 3)", "got ('pre', 1)"]),
    ],
)
def test_a_steer_that_means_nothing_is_refused_as_it_is_made(change: dict, words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        Steer(**{"vector": V, "site": ("pre", 1), **change})
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("steer", "lengths", "new", "words"),
    [
        (Steer(FRONT, ("pre", 1), where="front"), [5, 1, 4], 3, ["at least 2 tokens", "one of 1", "end-of-text"]),
        (Steer(V, ("pre", 1), where="generated"), [5, 1, 4], 1, ["one new token", "where='last'"]),
        (Steer(V, ("pre", 1), where=[0, 4]), [5, 4, 9], 3, ["below 4", "[0, 4]"]),
        (Steer(V, ("pre", 1), [1.0, 2.0]), [5, 1, 4], 3, ["each of 3 rows", "got 2"]),
    ],
)
def test_a_run_in_which_less_would_be_steered_than_asked_for_is_refused(
    steer: Steer, lengths: list[int], new: int, words: list[str]
) -> None:
    with pytest.raises(ValueError) as caught:
        steer.check([[0] * n for n in lengths], new)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("steer", "lengths", "new"),
    [
        (Steer(FRONT, ("pre", 1), where="front"), [5, 2, 4], 1),
        (Steer(V, ("pre", 1), where="generated"), [5, 1, 4], 2),
        (Steer(V, ("pre", 1), where="last"), [5, 1, 4], 1),
        (Steer(V, ("pre", 1), where=[0, 3]), [5, 4, 9], 1),
        (Steer(V, ("pre", 1), [1.0, 2.0, 0.0]), [5, 1, 4], 1),
        (Steer(V, ("pre", 1), [1.0]), [5, 1, 4], 1),
    ],
)
def test_a_run_at_the_edge_of_what_can_be_steered_is_accepted(steer: Steer, lengths: list[int], new: int) -> None:
    steer.check([[0] * n for n in lengths], new)


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
