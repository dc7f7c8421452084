"""Vectors read from texts: against the slow way on transformers, and where the answer is known beforehand."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference import SHAPES, TOLERANCE, both, parts, random_tensor, reference_run, relative, residual_sites
from torch import Tensor

from ministeer.extract import activation_addition, contrastive, pair_streams, probe, random_like, streams
from ministeer.generate import generate
from ministeer.model import Block, Transformer
from ministeer.provenance import Provenance, data_hash, fingerprint
from ministeer.steer import Steer, resolve
from ministeer.tokenizer import Tokenizer
from ministeer.vectors import SteeringVector

BOTH = both(3, 257, 48, 48, 3, 4)
MODEL, THEIRS = BOTH["gpt2"]
BYTES = Tokenizer({bytes([byte]): byte for byte in range(256)}, eot=256)  # a token a byte: positions can be counted
SITES = residual_sites(3)
PAIRS = [
    ("it was (A", "it was (B"),
    ("no: yes", "no: not at all, no"),
    ("x", "y"),
    ("<|endoftext|>so A!", "<|endoftext|>so B?"),
]
DIFFER = [9, 5, 1, 4]  # where the two texts of each pair part, counted from the token that begins them


def states(text: list[int]) -> dict[tuple[str, int], Tensor]:
    """Transformers' stream at each site for one text by itself, `(T, D)`."""
    return {site: x[0] for site, x in reference_run(THEIRS, torch.tensor([text]))[1].items()}


def close_to(vector: SteeringVector, expected: dict[tuple[str, int], Tensor]) -> bool:
    return list(vector.tensors) == list(expected) and all(
        relative(vector[site], x) < TOLERANCE for site, x in expected.items()
    )


@pytest.fixture
def no_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("logits were computed")

    monkeypatch.setattr(Transformer, "unembed", refuse)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of every block that is run, in order; not by a hook, under which texts are read otherwise."""
    seen: list[int] = []
    run = Block.forward

    def counted(block: Block, *given: Any) -> Tensor:
        seen.append(block.layer)
        return run(block, *given)

    monkeypatch.setattr(Block, "forward", counted)
    return seen


# --- contrastive ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["answer", "last"])
def test_contrastive_is_the_mean_difference_of_transformers_states(token: str) -> None:
    expected = {site: torch.zeros(48) for site in SITES}
    for (positive, negative), at in zip(PAIRS, DIFFER, strict=True):
        plus, minus = (BYTES.prompt(text) for text in (positive, negative))
        assert plus[:at] == minus[:at]
        assert plus[at] != minus[at]
        i, j = (at, at) if token == "answer" else (len(plus) - 1, len(minus) - 1)
        for site in SITES:
            expected[site] += (states(plus)[site][i] - states(minus)[site][j]) / len(PAIRS)
    assert close_to(contrastive(MODEL, BYTES, PAIRS, SITES, token=token), expected)


def test_by_default_every_stream_between_blocks_is_read_from_the_embedding_to_the_last() -> None:
    vector = contrastive(MODEL, BYTES, PAIRS)
    assert vector.sites == [("pre", 0), ("pre", 1), ("pre", 2), ("pre", 3)]
    full = contrastive(MODEL, BYTES, PAIRS, SITES)
    assert all(torch.equal(vector[site], full[site]) for site in vector.sites)


def test_the_output_of_block_i_is_the_stream_before_block_i_plus_one() -> None:
    """In transformers' hidden states, of which the last is after the final norm: published as a bug, so ours is not."""
    text = BYTES.encode("which of them")
    hidden = THEIRS(input_ids=torch.tensor([text]), output_hidden_states=True).hidden_states
    found = streams(MODEL, [text], [4], [("pre", i) for i in range(4)])
    for i in range(3):
        assert relative(found["pre", i][0], hidden[i][0, 4]) < TOLERANCE
    assert relative(found["pre", 3][0], hidden[3][0, 4]) > 0.1
    assert relative(parts(THEIRS).last_norm(found["pre", 3][0]), hidden[3][0, 4]) < TOLERANCE


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 7, 100])
def test_the_batch_size_changes_nothing_beyond_rounding(batch_size: int) -> None:
    expected = contrastive(MODEL, BYTES, PAIRS, SITES)
    found = contrastive(MODEL, BYTES, PAIRS, SITES, batch_size=batch_size)
    assert all(relative(found[site], expected[site]) < 1e-5 for site in SITES)
    assert found.provenance == expected.provenance


def test_padding_is_never_read() -> None:
    """Whatever the padding's token looks like, the vector is the same."""
    other = copy.deepcopy(MODEL)
    other.wte.weight[0] = 1e3
    assert not any(0 in BYTES.prompt(text) for texts in PAIRS for text in texts)
    for token in ("answer", "last"):
        vectors = [contrastive(model, BYTES, PAIRS, SITES, token=token, batch_size=8) for model in (MODEL, other)]
        assert all(torch.equal(vectors[0][site], vectors[1][site]) for site in SITES)


def test_a_site_named_twice_is_read_once() -> None:
    once = contrastive(MODEL, BYTES, PAIRS, [("pre", 1), ("pre", 2)])
    twice = contrastive(MODEL, BYTES, PAIRS, [("pre", 1), ("pre", 2), ("pre", 1)], batch_size=3)
    assert twice.sites == once.sites
    assert all(relative(twice[site], once[site]) < 1e-5 for site in once.sites)


def test_a_layer_can_be_a_numpy_integer() -> None:
    plain = contrastive(MODEL, BYTES, PAIRS, [("pre", 1), ("mid", 1)])
    found = contrastive(MODEL, BYTES, PAIRS, [("pre", np.int64(1)), ("mid", np.int64(1))])
    assert torch.equal(found["pre", 1], plain["pre", 1]) and torch.equal(found["mid", 1], plain["mid", 1])


def test_one_site_may_come_alone() -> None:
    assert contrastive(MODEL, BYTES, PAIRS, ("mid", 1)).sites == [("mid", 1)]


@pytest.mark.parametrize("planted", [0.0, 2.0])
def test_a_planted_difference_is_found_and_a_planted_zero_too(planted: float) -> None:
    """The embeddings of "A" and "B" differ by a known vector, so the streams into block 0 differ by it and nothing else."""
    shift = planted * random_tensor(48, seed=4)
    model = copy.deepcopy(MODEL)
    model.wte.weight[ord("A")] = model.wte.weight[ord("B")] + shift
    pairs = [("it was (A", "it was (B"), ("A", "B"), ("well, A then", "well, B but")]
    if not planted:
        with pytest.raises(ValueError, match="a vector of zeros at all of them"):
            contrastive(model, BYTES, pairs)
        return
    found = contrastive(model, BYTES, pairs)
    torch.testing.assert_close(found["pre", 0], shift, atol=1e-6, rtol=0)
    assert all(found.norm()["pre", i] > 0.05 for i in range(4))
    turned = contrastive(model, BYTES, [(b, a) for a, b in pairs])
    for site in found.sites:
        torch.testing.assert_close(turned[site], -found[site], atol=1e-6, rtol=0)


def test_the_mean_is_over_pairs() -> None:
    shift = random_tensor(48, seed=4)
    model = copy.deepcopy(MODEL)
    for letter, times in ("A", 1.0), ("B", 2.0), ("C", 6.0):
        model.wte.weight[ord(letter)] = model.wte.weight[ord("z")] + times * shift
    found = contrastive(model, BYTES, [("A", "z"), ("oh B", "oh z"), ("a C", "a z")], ("pre", 0))
    torch.testing.assert_close(found["pre", 0], 3.0 * shift, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("site", SITES)
def test_a_vector_belongs_where_it_was_read(site: tuple[str, int]) -> None:
    """Added there, at that token, it makes the negative text end as the positive one: what comes next is the same.

    Published: a vector read at a block's output and added at its input.
    """
    positive, negative = (BYTES.prompt(text) for text in ("it was (A", "it was (B"))
    vector = contrastive(MODEL, BYTES, [("it was (A", "it was (B")], SITES)
    add = resolve(MODEL, Steer(vector, site, where="last"), [negative]).adds(torch.arange(10)[None])[site]
    wanted = MODEL(torch.tensor([positive]))[0, -1]
    assert relative(MODEL(torch.tensor([negative]), adds={site: add})[0, -1], wanted) < 1e-5
    for wrong in SITES:
        add = resolve(MODEL, Steer(vector, wrong, where="last"), [negative]).adds(torch.arange(10)[None])[wrong]
        if wrong != site:
            assert relative(MODEL(torch.tensor([negative]), adds={site: add})[0, -1], wanted) > 1e-3


def test_only_the_blocks_below_the_highest_site_are_run_and_no_logits_computed(
    no_logits: None, runs: list[int]
) -> None:
    for sites, blocks in (
        ([("pre", 0)], []),
        ([("mid", 0)], [0]),
        ([("pre", 1)], [0]),
        ([("mid", 1), ("pre", 0)], [0, 1]),
        ([("pre", 3), ("pre", 1)], [0, 1, 2]),
    ):
        runs.clear()
        vector = contrastive(MODEL, BYTES, PAIRS, sites, batch_size=8)
        assert sorted(set(runs)) == blocks
        assert vector.sites == sites
        runs.clear()
        activation_addition(MODEL, BYTES, "Love", "Hate", sites)
        assert runs == blocks


def test_progress_is_told_after_each_batch() -> None:
    heard: list[tuple[int, int]] = []
    contrastive(MODEL, BYTES, PAIRS, ("pre", 1), batch_size=3, on_batch=lambda done, of: heard.append((done, of)))
    assert heard == [(3, 4), (4, 4)]


def test_what_a_pair_shares_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 3 pairs that differ in the last of 21 tokens: 3 x 20 tokens and 6 x 1, not 6 x 21."""
    tokens: list[int] = []
    stream = Transformer.stream
    monkeypatch.setattr(
        Transformer, "stream", lambda self, ids, *a, **k: tokens.append(ids.numel()) or stream(self, ids, *a, **k)
    )
    pairs = [(f"{letter * 19}A", f"{letter * 19}B") for letter in "xyz"]
    shared = contrastive(MODEL, BYTES, pairs, SITES)
    assert tokens == [60, 6]
    rows = [BYTES.prompt(text) for texts in pairs for text in texts]
    apart = streams(MODEL, rows, [20] * 6, SITES)
    assert all(relative(shared[site], (x[0::2] - x[1::2]).mean(0)) < TOLERANCE for site, x in apart.items())


def test_provenance_names_weights_method_texts_token_and_dtype() -> None:
    texts = [text for texts in PAIRS for text in texts]
    expected = Provenance(fingerprint(MODEL), "contrastive", data_hash(texts), "last", "float32", None)
    assert contrastive(MODEL, BYTES, PAIRS, token="last").provenance == expected
    half = contrastive(copy.deepcopy(MODEL).bfloat16(), BYTES, PAIRS)
    assert half.provenance.dtype == "bfloat16"
    assert half.provenance.model == expected.model
    assert all(half[site].dtype == torch.float32 for site in half.sites)


def test_nothing_stays_changed_and_no_gradient_is_kept() -> None:
    model = copy.deepcopy(MODEL).requires_grad_(True)
    before = fingerprint(model)
    vectors = [contrastive(model, BYTES, PAIRS), activation_addition(model, BYTES, "Love", "Hate", ("pre", 1))]
    assert fingerprint(model) == before
    assert all(p.grad is None for p in model.parameters())
    assert not any(v[site].requires_grad for v in vectors for site in v.sites)


@pytest.mark.once
@pytest.mark.parametrize("l2", [0, -1.0, "1", None])
def test_a_probe_wants_a_penalty(l2: Any) -> None:
    with pytest.raises(ValueError, match="expected l2 above 0 and finite, got"):
        probe(MODEL, BYTES, [("a", "b")], ("pre", 1), l2=l2)


@pytest.mark.parametrize(
    ("pairs", "settings", "words"),
    [
        ([], {}, "at least one pair"),
        ([("a", "b"), ("so", "so")], {}, "same text twice in pair 1"),
        ([("a", "b"), ("so", "so")], {"token": "last"}, "same text twice in pair 1"),
        ([("a", "b"), ("c", "d"), ("so", "so it")], {}, "continues the other in pair 2; use token='last'"),
        ([("a", "")], {}, "continues the other in pair 0"),
        ([("a", "")], {"token": "last"}, "an empty one in pair 0"),
        ([("a", "b")], {"token": "first"}, "'answer' or 'last', got 'first'"),
        ([("a", "b")], {"sites": []}, "a list of them, got \\[\\]"),
        ([("a", "b")], {"sites": 1}, "a list of them, got 1"),
        ([("a", "b")], {"sites": [1]}, "site of the stream.*got 1"),
        ([("a", "b")], {"sites": "pre"}, "a list of them, got 'pre'"),
        ([("a", "b")], {"sites": [("pre", 0, 1)]}, "site of the stream"),
        ([("a", "b")], {"sites": ("post", 1)}, "\\('post', 1\\)"),
        ([("a", "b")], {"sites": [("pre", 0), ("pre", 4)]}, "i from 0 to 3 .*\\('pre', 4\\)"),
        ([("a", "b")], {"sites": ("mid", 3)}, "\\('mid', 3\\)"),
        ([("a", "b")], {"sites": ("pre", -1)}, "\\('pre', -1\\)"),
        ([("a", "b")], {"sites": ("head", 1)}, "site of the stream.*\\('head', 1\\)"),
        ([("a" * 48, "b")], {}, "48 tokens, the model's context, got 49"),
    ],
)
def test_pairs_sites_or_rules_that_mean_nothing_are_refused(pairs: list, settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        contrastive(MODEL, BYTES, pairs, **settings)


def test_a_text_that_continues_the_other_can_be_read_at_its_last_token() -> None:
    found = contrastive(MODEL, BYTES, [("so it", "so")], ("pre", 2), token="last")
    text = BYTES.prompt("so it")
    expected = states(text)["pre", 2][5] - states(text[:3])["pre", 2][2]
    assert relative(found["pre", 2], expected) < TOLERANCE


# --- streams --------------------------------------------------------------------------------------------------------


def test_streams_are_those_of_each_text_by_itself() -> None:
    rows = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10], [11, 12]]
    positions = [1, 0, 5, 0]
    found = streams(MODEL, rows, positions, SITES, batch_size=3)
    for n, (row, at) in enumerate(zip(rows, positions, strict=True)):
        for site, x in states(row).items():
            assert found[site].shape == (4, 48)
            assert relative(found[site][n], x[at]) < TOLERANCE


@pytest.mark.parametrize(("row", "position"), [(1, 1), (1, -1), (0, 3), (2, 6)])
def test_a_position_beyond_its_text_is_refused_and_not_read_from_the_padding(row: int, position: int) -> None:
    positions = [0, 0, 0]
    positions[row] = position
    with pytest.raises(ValueError, match=f"in row {row}, got {position}"):
        streams(MODEL, [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10]], positions, [("pre", 1)])


@pytest.mark.parametrize("position", [(1, 2), (-1, 0)])
def test_a_position_beyond_a_text_of_a_pair_is_refused(position: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="expected a position from 0 to 1 in row 0"):
        pair_streams(MODEL, [([1, 2], [1, 3])], [position], SITES)


def test_a_position_for_each_text() -> None:
    with pytest.raises(ValueError, match="expected one text or more, got none"):
        streams(MODEL, [], [], [("pre", 1)])
    with pytest.raises(ValueError, match="expected a position from 0 to 1 in row 0, got 0.5"):
        streams(MODEL, [[1, 2]], [0.5], [("pre", 1)])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="expected a position for each of"):
        streams(MODEL, [[1, 2], [3, 4]], [0], [("pre", 1)])


# --- activation addition --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("positive", "negative"), [("Love", "Hate"), ("weddings", ""), ("", "shipping"), ("ab", "abcd")]
)
def test_activation_addition_is_the_first_texts_stream_minus_the_seconds(positive: str, negative: str) -> None:
    """Behind end-of-text, the shorter filled with spaces on the right."""
    length = max(len(positive), len(negative))
    plus, minus = ([256, *text.ljust(length).encode()] for text in (positive, negative))
    expected = {site: states(plus)[site] - states(minus)[site] for site in SITES}
    found = activation_addition(MODEL, BYTES, positive, negative, SITES)
    assert found.sites == SITES
    for site in SITES:
        assert found[site].shape == (length + 1, 48)
        assert not found[site][0].any()  # both begin alike: exactly zero there
        torch.testing.assert_close(found[site], expected[site], atol=1e-5, rtol=1e-4)
        assert found[site].any()  # somewhere the texts differ


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "xl wide"])
def test_the_row_of_end_of_text_is_exactly_zero_in_models_of_any_shape(pairs: dict, name: str) -> None:
    model = pairs[name].ours
    tokenizer = Tokenizer({bytes([byte]): byte for byte in range(256)}, eot=256)
    tokenizer.bos = model.config.vocab_size - 1
    found = activation_addition(model, tokenizer, "(+*", "!0", ("pre", model.config.n_layer))
    assert found["pre", model.config.n_layer].shape == (4, model.config.width)
    assert not found["pre", model.config.n_layer][0].any()
    assert found["pre", model.config.n_layer][1:].any(-1).all()


def test_the_order_of_the_texts_is_the_sign() -> None:
    forward, back = (activation_addition(MODEL, BYTES, *texts, SITES) for texts in (("Love", "Hate"), ("Hate", "Love")))
    for site in SITES:
        torch.testing.assert_close(forward[site], -back[site], atol=1e-5, rtol=1e-4)


def test_the_filler_can_be_another_token() -> None:
    spaces = activation_addition(MODEL, BYTES, "Love", "Oh", ("pre", 1))
    dots = activation_addition(MODEL, BYTES, "Love", "Oh", ("pre", 1), filler=".")
    expected = states([256, *b"Love"])["pre", 1] - states([256, *b"Oh.."])["pre", 1]
    torch.testing.assert_close(dots["pre", 1], expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(dots["pre", 1][:3], spaces["pre", 1][:3])
    assert "'.'" in dots.provenance.token


@pytest.mark.parametrize("site", SITES)
def test_a_front_turns_the_negative_text_into_the_positive_one(site: tuple[str, int]) -> None:
    """Added at block 0's input, where nothing has mixed yet, it is the other text to the last logit;
    above, all that the blocks from there on see is the other text."""
    vector = activation_addition(MODEL, BYTES, "weddings", "shipping", SITES)
    plus, minus = ([256, *text.encode()] for text in ("weddings", "shipping"))
    steered = generate(MODEL, minus, max_new_tokens=1, temperature=0, steer=Steer(vector, site, where="front"))
    assert steered[-1] == generate(MODEL, plus, max_new_tokens=1, temperature=0)[-1]
    add = resolve(MODEL, Steer(vector, site, where="front"), [minus]).adds(torch.arange(9)[None])[site]
    assert relative(MODEL(torch.tensor([minus]), adds={site: add}), MODEL(torch.tensor([plus]))) < 1e-4


def test_at_block_zero_the_other_text_is_continued_to_the_end() -> None:
    vector = activation_addition(MODEL, BYTES, "weddings", "shipping", ("pre", 0))
    plus, minus = ([256, *text.encode()] for text in ("weddings", "shipping"))
    steered = generate(MODEL, minus, max_new_tokens=12, temperature=0, steer=Steer(vector, ("pre", 0), where="front"))
    assert steered[9:] == generate(MODEL, plus, max_new_tokens=12, temperature=0)[9:]
    assert steered[9:] != generate(MODEL, minus, max_new_tokens=12, temperature=0)[9:]


def test_the_health_of_an_activation_addition_leaves_out_what_its_texts_begin_with() -> None:
    """Of the first token, which is the same in both: in many models it is a hundred times as long as the others."""
    long = copy.deepcopy(MODEL)
    long.wte.weight.data[BYTES.bos] *= 1e4
    found = activation_addition(long, BYTES, "Love", "Hate", ("pre", 0))
    x = torch.stack([long.embed(torch.tensor([BYTES.prompt(text)]))[0] for text in ("Love", "Hate")])[
        :, 1:
    ]  # (2, P, D)
    differ = (x[0] - x[1]).norm(dim=-1) > 0
    wanted = (x[0] - x[1])[differ].norm(dim=-1).mean() / x[:, differ].norm(dim=-1).mean()
    assert found.health["pre", 0].relative_norm == pytest.approx(float(wanted), rel=1e-5)


def test_provenance_of_an_activation_addition() -> None:
    found = activation_addition(MODEL, BYTES, "Love", "Hate", ("pre", 1)).provenance
    assert found == Provenance(
        fingerprint(MODEL),
        "activation_addition",
        data_hash(["Love", "Hate"]),
        "every token, after tokenizer.bos, filler ' '",
        "float32",
    )


@pytest.mark.parametrize(
    ("positive", "negative", "settings", "words"),
    [
        ("Love", "Love", {}, "two texts that differ"),
        ("Love", "Love  ", {}, "two texts that differ, also once the shorter is filled"),
        ("", "", {}, "two texts that differ"),
        ("Love", "Hate!", {"filler": ".."}, "expected one token, got 2"),
        ("Love", "Hate", {"sites": []}, "a list of them, got \\[\\]"),
        ("Love", "Hate", {"sites": ("pre", 4)}, "\\('pre', 4\\)"),
        ("Love", "Hate", {"sites": ("head", 0)}, "\\('head', 0\\)"),
        ("Love" * 12, "Hate", {}, "at most 48 tokens"),
    ],
)
def test_texts_that_make_no_activation_addition_are_refused(
    positive: str, negative: str, settings: dict, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        activation_addition(MODEL, BYTES, positive, negative, **{"sites": ("pre", 1), **settings})


# --- the random control ---------------------------------------------------------------------------------------------


def test_the_random_control_has_the_vectors_norm_at_every_site_and_position() -> None:
    for vector in (contrastive(MODEL, BYTES, PAIRS, SITES), activation_addition(MODEL, BYTES, "Love", "Hate", SITES)):
        control = random_like(vector, seed=1)
        assert control.sites == vector.sites
        for site in SITES:
            torch.testing.assert_close(control[site].norm(dim=-1), vector[site].norm(dim=-1))
    assert not control["pre", 1][0].any()  # nothing at end-of-text, as in the activation addition itself


def test_a_random_control_of_the_streams_covariance_lies_where_the_streams_do() -> None:
    vector = contrastive(MODEL, BYTES, PAIRS, SITES)
    generator = torch.Generator().manual_seed(0)
    width = MODEL.config.width
    spans = {site: torch.randn(3, width, generator=generator) + 100 for site in SITES}
    made = random_like(vector, seed=0, streams=spans)
    for site in SITES:
        assert made[site].norm() == pytest.approx(float(vector[site].norm()), rel=1e-4)
        base = torch.linalg.qr(
            (spans[site] - spans[site].mean(0))[:2].T
        ).Q  # of three deviations from their mean two are free
        assert (base.T @ made[site]).norm() == pytest.approx(float(made[site].norm()), rel=1e-3)
    assert "covariance" in made.provenance.method
    with pytest.raises(ValueError, match=f"expected streams \\(N, {width}\\) of two texts or more at .*, got none"):
        random_like(vector, seed=0, streams={})


@pytest.mark.once
def test_a_random_control_of_nothing_is_nothing_where_nothing_varies() -> None:
    zero = SteeringVector({("pre", 0): torch.zeros(8)}, Provenance("m", "none", "0" * 16, "last", "float32"))
    same = {("pre", 0): torch.ones(3, 8)}
    assert not random_like(zero, seed=0, streams=same)["pre", 0].any()
    one = SteeringVector({("pre", 0): torch.ones(8)}, zero.provenance)
    with pytest.raises(ValueError, match="finite values"):
        random_like(one, seed=0, streams=same)


def test_the_random_control_comes_from_its_seed_and_says_so() -> None:
    vector = contrastive(MODEL, BYTES, PAIRS, SITES)
    state = torch.get_rng_state()
    first, again, other = (random_like(vector, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    for site in SITES:
        assert torch.equal(first[site], again[site])
        assert torch.cosine_similarity(first[site], other[site], dim=0) < 0.9
        assert torch.cosine_similarity(first[site], vector[site], dim=0).abs() < 0.9
    assert first.provenance.seed == 1
    assert first.provenance.method == "random, of the norm of (contrastive)"
    assert first.provenance.model == vector.provenance.model


def test_a_random_control_is_the_same_whichever_other_sites_there_are(tmp_path: Path) -> None:
    vector = contrastive(MODEL, BYTES, PAIRS, [("pre", 2), ("mid", 1)])
    vector.save(tmp_path / "kept.safetensors")  # a file has its sites in the stream's order
    generator = torch.Generator().manual_seed(0)
    spans = {site: torch.randn(5, MODEL.config.width, generator=generator) for site in vector.sites}
    for within in (None, spans):
        whole = random_like(vector, seed=3, streams=within)
        loaded = random_like(SteeringVector.load(tmp_path / "kept.safetensors"), seed=3, streams=within)
        for site in vector.sites:
            torch.testing.assert_close(whole[site], random_like(vector.only(site), seed=3, streams=within)[site])
            torch.testing.assert_close(whole[site], loaded[site])


@pytest.mark.once
def test_every_bit_of_a_seed_counts() -> None:
    """torch's generator drops all but 32."""
    vector = SteeringVector({("pre", 0): torch.ones(48)}, Provenance("m", "x", "d", "t", "float32"))
    seeds = (1, 1 + 2**32, 1 + 2**70, -1, 2**32 - 1)
    draws = torch.stack([random_like(vector, seed=seed)["pre", 0] for seed in seeds])
    alike = torch.corrcoef(draws)
    assert float((alike - torch.eye(len(seeds))).abs().max()) < 0.9
    with pytest.raises(ValueError, match="expected a seed, a whole number, got True"):
        random_like(vector, seed=True)


def test_the_random_control_has_no_preferred_direction() -> None:
    """The mean of 400 unit vectors of width 48 is about 1/20 long; one shared direction would make it longer."""
    vector = SteeringVector({("pre", 0): torch.ones(48) / 48**0.5}, Provenance("m", "x", "d", "t", "float32"))
    draws = torch.stack([random_like(vector, seed=seed)["pre", 0] for seed in range(400)])
    assert draws.mean(0).norm() < 0.08
