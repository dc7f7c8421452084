"""Every number against its formula in plain loops, and where the truth is known beforehand."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from reference import SHAPES, pair, random_ids, random_tensor

from ministeer import metrics
from ministeer.metrics import bootstrap, group_means, kl, log_odds, logit_difference, perplexity, steerability

seeds = st.integers(0, 2**16)


# --- log-odds and differences ---------------------------------------------------------------------------------------


@given(seeds, st.lists(st.integers(0, 5), min_size=1, max_size=4), st.lists(st.integers(3, 8), min_size=1, max_size=4))
def test_log_odds_is_the_log_ratio_of_the_probabilities_of_two_sets(
    seed: int, positive: list[int], negative: list[int]
) -> None:
    """A token named twice is in the set once."""
    assume(not {*positive} & {*negative})
    logits = random_tensor(3, 9, seed=seed, scale=2.0)
    expected = []
    for row in logits.double().softmax(-1).tolist():
        expected.append(math.log(sum(row[i] for i in set(positive))) - math.log(sum(row[i] for i in set(negative))))
    found = log_odds(logits, positive, negative)
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=1e-5)


def test_log_odds_of_single_tokens_is_the_difference_of_their_logits_and_turns_with_the_sides() -> None:
    logits = random_tensor(4, 9, seed=1)
    torch.testing.assert_close(log_odds(logits, [2], [7]), logits[:, 2] - logits[:, 7])
    assert torch.equal(log_odds(logits, [2, 3], [7]), -log_odds(logits, [7], [2, 3]))


def test_log_odds_is_not_moved_by_what_all_logits_share_nor_overflows() -> None:
    logits = torch.tensor([[1000.0, 998.0, -1000.0], [-1e4, -1e4, -1e4]])
    assert log_odds(logits, [0], [1, 2]).tolist() == pytest.approx([2.0, -math.log(2)], abs=1e-3)


@pytest.mark.parametrize(("positive", "negative", "name"), [([], [1], "positive"), ([1], [], "negative")])
def test_log_odds_wants_tokens_on_both_sides(positive: list[int], negative: list[int], name: str) -> None:
    with pytest.raises(ValueError, match=f"at least one {name} token"):
        log_odds(torch.zeros(1, 3), positive, negative)


@pytest.mark.parametrize("measure", [log_odds, logit_difference])
def test_logits_are_those_of_one_position_and_tokens_are_in_the_vocabulary(measure: Callable[..., object]) -> None:
    """Otherwise a position, or a token from behind, would be taken for a token and a number come out."""
    with pytest.raises(ValueError, match=r"\(B, V\), got \(2, 5, 9\).*logits\[:, -1\]"):
        measure(torch.zeros(2, 5, 9), [1, 2], [3, 0])
    for ids in ([9, 1], [-1, 1]):
        with pytest.raises(ValueError, match="token ids from 0 to 8"):
            measure(torch.zeros(2, 9), ids, [3, 0])


def test_logit_difference_takes_each_rows_own_tokens() -> None:
    logits = random_tensor(3, 9, seed=2)
    found = logit_difference(logits, [0, 4, 8], [1, 1, 3])
    expected = [logits[0, 0] - logits[0, 1], logits[1, 4] - logits[1, 1], logits[2, 8] - logits[2, 3]]
    assert torch.equal(found, torch.stack(expected))


def test_logit_difference_is_taken_in_float32() -> None:
    logits = torch.tensor([[101.0, 0.3]]).bfloat16()
    found = logit_difference(logits, [0], [1])
    assert found.dtype == torch.float32
    assert found.item() == logits[0, 0].item() - logits[0, 1].item()


@pytest.mark.parametrize(("positive", "negative"), [([1], [1, 2]), ([1, 2], [1]), ([1, 2, 3], [1, 2, 3]), ([], [])])
def test_logit_difference_wants_a_token_a_row_on_both_sides(positive: list[int], negative: list[int]) -> None:
    with pytest.raises(ValueError, match=f"each of 2 rows, got {len(positive)} and {len(negative)}"):
        logit_difference(torch.zeros(2, 5), positive, negative)


# --- divergence -----------------------------------------------------------------------------------------------------


@given(seeds, st.sampled_from([0.1, 1.0, 10.0]))
def test_kl_is_the_sum_over_tokens_from_the_reference_to_the_logits(seed: int, scale: float) -> None:
    logits, reference = (
        random_tensor(2, 3, 7, seed=seed, scale=scale),
        random_tensor(2, 3, 7, seed=seed + 1, scale=scale),
    )
    found = kl(logits, reference)
    assert found.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            p, q = (x[i, j].double().softmax(-1).tolist() for x in (reference, logits))
            expected = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
            assert found[i, j].item() == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_kl_is_zero_on_itself_whatever_all_logits_share_and_positive_elsewhere() -> None:
    logits = random_tensor(5, 40, seed=1, scale=3.0)
    assert torch.equal(kl(logits, logits), torch.zeros(5))
    torch.testing.assert_close(kl(logits + 7.0, logits), torch.zeros(5), atol=1e-5, rtol=0)
    assert (kl(logits.roll(1, 0), logits) > 0.1).all()


def test_kl_has_a_direction() -> None:
    sharp, flat = torch.tensor([[4.0, 0.0, 0.0]]), torch.zeros(1, 3)
    p = torch.tensor([4.0, 0.0, 0.0]).double().softmax(-1)
    assert kl(sharp, flat).item() == pytest.approx(-math.log(3) - p.log().mean().item(), rel=1e-5)
    assert kl(flat, sharp).item() == pytest.approx(math.log(3) + (p * p.log()).sum().item(), rel=1e-5)


def test_a_token_that_the_reference_rules_out_adds_nothing_and_one_that_only_the_logits_rule_out_is_infinite() -> None:
    whole, without = torch.tensor([0.0, 0.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 0.0, -math.inf])
    assert kl(whole, without).item() == pytest.approx(math.log(4 / 3))
    assert kl(without, without).item() == 0.0
    assert kl(without, whole).item() == math.inf
    nearly = torch.tensor([0.0, 0.0, 0.0, -200.0])  # its probability is 0 in float32
    assert kl(without, nearly).item() == pytest.approx(0.0, abs=1e-6)


# --- perplexity -----------------------------------------------------------------------------------------------------


def slow_perplexity(logits: torch.Tensor, ids: list[int], counted: list[bool]) -> float:
    """Of one text, logits `(T, V)`: the logits at t - 1 are about token t; the first token is about nothing."""
    nll = [-logits[t - 1].double().log_softmax(-1)[ids[t]].item() for t in range(1, len(ids)) if counted[t]]
    return math.exp(sum(nll) / len(nll))


@given(seeds, st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=3))
def test_perplexity_is_the_loop_over_counted_tokens(seed: int, counted: list[list[bool]]) -> None:
    counted = [[*row[:5], True] for row in counted]
    logits = random_tensor(len(counted), 6, 11, seed=seed, scale=2.0)
    ids = torch.randint(11, (len(counted), 6), generator=torch.Generator().manual_seed(seed))
    expected = [slow_perplexity(*row) for row in zip(logits, ids.tolist(), counted, strict=True)]
    assert perplexity(logits, ids, torch.tensor(counted)).tolist() == pytest.approx(expected, rel=1e-5)
    assert perplexity(logits, ids, torch.tensor(counted).long()).tolist() == pytest.approx(expected, rel=1e-5)
    expected = [slow_perplexity(*row, [True] * 6) for row in zip(logits, ids.tolist(), strict=True)]
    assert perplexity(logits, ids).tolist() == pytest.approx(expected, rel=1e-5)


def test_the_perplexity_of_a_model_that_knows_nothing_is_the_size_of_its_vocabulary() -> None:
    assert perplexity(torch.zeros(2, 5, 37), torch.ones(2, 5, dtype=torch.int64)).tolist() == pytest.approx([37, 37])


def test_perplexity_is_the_exponential_of_transformers_loss() -> None:
    ours, theirs = pair(SHAPES["gpt2"], seed=1)
    ids = random_ids(ours, 1, 12)
    assert perplexity(ours(ids), ids).item() == pytest.approx(math.exp(theirs(ids, labels=ids).loss.item()), rel=1e-4)


@pytest.mark.parametrize("junk", [1e6, math.inf, -math.inf, math.nan])
def test_what_is_not_counted_is_not_read(junk: float) -> None:
    """Published: a perplexity that counts the positions at which the vector was injected. Token t is about logits t - 1."""
    logits, ids = random_tensor(2, 8, 11, seed=3), torch.arange(16).view(2, 8) % 11
    counted = torch.ones(2, 8, dtype=torch.bool)
    counted[0, :3] = False  # the front, where a vector was added
    counted[1, 6:] = False  # padding
    clean = perplexity(logits, ids, counted)
    logits[0, :2], ids[0, :3] = junk, 10
    logits[1, 5:], ids[1, 6:] = junk, 10
    assert torch.equal(perplexity(logits, ids, counted), clean)
    assert clean.tolist() == pytest.approx(
        [
            slow_perplexity(logits[0, 2:], ids[0, 2:].tolist(), [True] * 6),
            slow_perplexity(logits[1, :6], ids[1, :6].tolist(), [True] * 6),
        ]
    )


@pytest.mark.parametrize("unknown", [-100, 11])
def test_an_id_outside_the_vocabulary_is_refused(unknown: int) -> None:
    """-100 is what trainers write for a label that does not count."""
    with pytest.raises(ValueError, match=f"ids from 0 to 10, got {unknown}; .* leave it out by `counted`"):
        perplexity(torch.zeros(1, 3, 11), torch.tensor([[1, 2, unknown]]))


def test_the_first_token_is_never_counted_as_nothing_predicts_it() -> None:
    logits, ids = random_tensor(1, 4, 5, seed=1), torch.tensor([[1, 2, 3, 4]])
    without = torch.tensor([[False, True, True, True]])
    assert torch.equal(perplexity(logits, ids), perplexity(logits, ids, without))


@pytest.mark.parametrize(
    ("tokens", "counted"), [(1, None), (3, [[True, False, False], [True, True, True]]), (3, [[False] * 3] * 2)]
)
def test_a_row_with_nothing_to_count_is_refused(tokens: int, counted: list | None) -> None:
    with pytest.raises(ValueError, match="counted token"):
        perplexity(
            torch.zeros(2, tokens, 5), torch.zeros(2, tokens, dtype=torch.int64), counted and torch.tensor(counted)
        )


# --- steerability ---------------------------------------------------------------------------------------------------

MULTIPLIERS = [-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5]


@given(seeds, st.sampled_from([MULTIPLIERS, [0.0, 1.0], [3.0, 1.0, 2.0, 10.0]]))
def test_planted_slopes_are_recovered_whatever_the_intercepts(seed: int, multipliers: list[float]) -> None:
    rng = np.random.default_rng(seed)
    slopes, intercepts = rng.normal(size=(2, 9))
    found = steerability(multipliers, slopes[:, None] * np.array(multipliers) + 10 * intercepts[:, None])
    np.testing.assert_allclose(found, slopes, atol=1e-10)
    assert ((found < 0) == (slopes < 0)).all()


@given(seeds)
def test_steerability_is_the_line_of_least_squares(seed: int) -> None:
    differences = np.random.default_rng(seed).normal(size=(5, 7))
    np.testing.assert_allclose(
        steerability(MULTIPLIERS, differences), [np.polyfit(MULTIPLIERS, row, 1)[0] for row in differences], atol=1e-10
    )
    tensor = torch.tensor(differences)
    np.testing.assert_array_equal(steerability(MULTIPLIERS, tensor), steerability(MULTIPLIERS, differences))
    stacked = np.stack([differences, 2 * differences])  # (2, N, M)
    np.testing.assert_allclose(steerability(MULTIPLIERS, stacked)[1], 2 * steerability(MULTIPLIERS, differences))


def test_what_curves_evenly_has_no_slope() -> None:
    np.testing.assert_allclose(steerability(MULTIPLIERS, [np.square(MULTIPLIERS), np.ones(7)]), [0, 0], atol=1e-12)


@pytest.mark.parametrize(
    ("multipliers", "differences"),
    [
        ([1.0], [[1.0]]),
        ([1.0, 1.0], [[1.0, 2.0]]),
        ([0.0, 1.0], [[1.0, 2.0, 3.0]]),
        ([0.0, 1.0], [1.0, 2.0]),
        ([], [[]]),
    ],
)
def test_a_slope_wants_two_multipliers_and_a_difference_for_each(multipliers: list, differences: list) -> None:
    with pytest.raises(ValueError, match="two or more multipliers"):
        steerability(multipliers, differences)


# --- intervals ------------------------------------------------------------------------------------------------------


def test_the_interval_holds_the_true_mean_about_as_often_as_its_level_says() -> None:
    """Normal numbers, 400 samples each of 50 and of 7. A share of 400 has a standard deviation of 0.012: 0.91 to 0.98 lets
    a right one pass. Plain percentiles of 7 hold the mean 0.87 of the times, and do not."""
    rng = np.random.default_rng(0)
    for size, level, least, most in ((50, 0.95, 0.92, 0.98), (50, 0.8, 0.75, 0.85), (7, 0.95, 0.91, 0.98)):
        samples = rng.normal(3.0, 2.0, size=(400, size))
        intervals = [bootstrap(row, seed=i, level=level, draws=1000) for i, row in enumerate(samples)]
        assert least < np.mean([low <= 3.0 <= high for _, low, high in intervals]) < most
        below, above = (
            np.mean([3.0 < low for _, low, _ in intervals]),
            np.mean([3.0 > high for _, _, high in intervals]),
        )
        assert min(below, above) > (1 - level) / 6  # it misses on both sides


def test_the_interval_is_as_wide_as_the_standard_error_makes_it() -> None:
    sample = np.random.default_rng(1).normal(size=400)
    mean, low, high = bootstrap(sample, seed=2, draws=5000)
    error = sample.std() / math.sqrt(400)
    assert mean == pytest.approx(sample.mean())
    assert (high - low) == pytest.approx(2 * 1.96 * error, rel=0.05)
    assert low < mean < high


@pytest.mark.parametrize("free", [1, 2, 3, 4, 11, 41, 400])
@pytest.mark.parametrize("level", [0.5, 0.95, 0.9964, 0.9999])
def test_students_quantile_is_exact_at_few_degrees_of_freedom(free: int, level: float) -> None:
    """A series in 1 / degrees of freedom gave 11.7 for 14.1 at two, and verdicts are at such levels."""
    special = pytest.importorskip("scipy.special")
    assert metrics._student((1 + level) / 2, free) == pytest.approx(special.stdtrit(free, (1 + level) / 2), rel=1e-9)


def test_the_interval_is_the_seeds_alone() -> None:
    sample = np.random.default_rng(1).normal(size=30)
    np.random.seed(0)
    first = bootstrap(sample, seed=5)
    np.random.seed(1)
    assert bootstrap(sample, seed=5) == bootstrap(sample.tolist(), seed=5) == first
    assert bootstrap(sample, seed=6) != first
    assert bootstrap(sample, seed=6)[0] == first[0]


def test_items_of_a_group_are_one_item() -> None:
    values, groups = [1.0, 3.0, 10.0, 5.0, 6.0, 7.0], ["b", "b", "a", "c", "c", "c"]
    assert bootstrap(values, seed=0, groups=groups) == bootstrap([10.0, 2.0, 6.0], seed=0)
    with pytest.raises(ValueError, match=r"a group for each item, got 5 for \(6,\)"):
        bootstrap(values, seed=0, groups=groups[1:])
    with pytest.raises(ValueError, match="two items or more"):
        bootstrap(values, seed=0, groups=["a"] * 6)


def test_equal_items_leave_no_doubt() -> None:
    assert bootstrap([2.5] * 10, seed=0) == bootstrap([2.5] * 2, seed=0) == (2.5, 2.5, 2.5)


@pytest.mark.parametrize("values", [[], [2.5], [[1.0, 2.0]], 3.0])
def test_intervals_want_a_value_an_item(values: object) -> None:
    with pytest.raises(ValueError, match="one value an item"):
        bootstrap(values, seed=0)


def test_words_for_token_ids_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected token ids, got words \[' kind'\]; write tok.single"):
        logit_difference(torch.zeros(1, 9), [" kind"], [3])


@pytest.mark.parametrize("kind", [torch.tensor, np.array, lambda ids: [*map(torch.tensor, ids)], tuple, iter])
def test_token_ids_are_numbers_in_whatever_they_come(kind: Any) -> None:
    """Tensors hash by identity, so a token that is there twice was counted twice."""
    logits = torch.tensor([[1.0, 2.0, 0.0]])
    assert log_odds(logits, kind([1, 1]), kind([0])).item() == pytest.approx(1.0)
    assert logit_difference(logits, kind([1]), kind([2])).item() == 2.0


@pytest.mark.parametrize(
    "ids", [1, None, [1.0], [[1]], torch.tensor(1), torch.tensor([1.0]), torch.tensor([True, False])]
)
def test_what_is_no_list_of_ids_is_refused(ids: Any) -> None:
    for measure in (log_odds, logit_difference):
        with pytest.raises(ValueError, match="expected token ids, a list of whole numbers, got "):
            measure(torch.zeros(1, 3), ids, [0])


def test_a_reference_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"of one shape, got \(4, 9\) and \(4, 1, 9\); write reference.expand_as"):
        kl(torch.zeros(4, 9), torch.zeros(4, 1, 9))
    one = random_tensor(1, 9)
    assert kl(one.expand(4, 9), one.expand(4, 9)).tolist() == [0.0] * 4


@pytest.mark.parametrize("shape", [(1, 5), (4, 3), (5,), (4, 5, 1)])
def test_perplexity_wants_an_id_for_each_of_its_logits(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"logits \(B, T, V\) and ids \(B, T\) of the same texts, got "):
        perplexity(torch.zeros(4, 5, 9), torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize("counted", [torch.tensor([[0, 1, 2, -1]]), torch.tensor([True, True, True, False])])
def test_perplexity_wants_a_mask(counted: torch.Tensor) -> None:
    """Positions, with -1 for padding, would count the padding."""
    with pytest.raises(ValueError, match=r"true or false for each of \(1, 4\) tokens, got .*; of positions write"):
        perplexity(torch.zeros(1, 4, 9), torch.zeros(1, 4, dtype=torch.int64), counted)


def test_groups_are_what_is_equal_to_python() -> None:
    means = {
        "text and number": ([1, 1, "1", "2"], [1.5, 3.0, 5.0]),
        "neighbours beyond 53 bits": ([2**53, 2**53 + 1, 0.5, 0.5], [4.0, 1.0, 2.0]),
        "tuples": ([("b", 1), ("a", 2), ("a", 2), ("b", 1)], [2.5, 3.0]),
        "none": (["b", None, "b", "a"], [2.0, 5.0, 2.0]),
        "a zero byte": (["a\0", "a", "b", "b"], [2.0, 1.0, 4.0]),
        "an array": (np.array([2, 1, 2, 1]), [3.5, 2.0]),
        "a tensor": (torch.tensor([2, 1, 2, 1]), [3.5, 2.0]),
        "a generator": ((label for label in "baba"), [3.5, 2.0]),
    }
    for name, (groups, wanted) in means.items():
        assert group_means([1.0, 2.0, 3.0, 5.0], groups).tolist() == wanted, name
    for label in (math.nan, np.float32("nan"), [1], {}):
        with pytest.raises(ValueError, match="expected groups as texts, numbers, tuples of them or None, got"):
            group_means([1.0, 2.0], ["a", label])


def test_numbers_may_lie_in_any_tensor_and_settings_have_bounds() -> None:
    items = torch.tensor([1.0, 2.0, 4.0])
    wanted = bootstrap(items.tolist(), seed=0)
    assert bootstrap(items.bfloat16(), seed=0) == bootstrap(items.requires_grad_(), seed=0) == wanted
    assert steerability(torch.tensor([0.0, 1.0]), torch.eye(2).bfloat16()).tolist() == [-1.0, 1.0]
    for settings in ({"draws": 0}, {"level": 95}, {"level": 0}):
        with pytest.raises(ValueError, match="expected a level between 0 and 1 and one draw or more"):
            bootstrap([1.0, 2.0], seed=0, **settings)  # type: ignore[arg-type]


def test_groups_that_have_no_order_do_not_depend_on_how_they_come() -> None:
    labels, values = [None, "a", ("b", None), 3, ("b", 1)], [1.0, 2.0, 3.0, 4.0, 5.0]
    found = group_means(values, labels).tolist()
    assert sorted(found) == values
    assert group_means(values[::-1], labels[::-1]).tolist() == found


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, ids: metrics.kl(x.numpy(), x), r"expected logits as a tensor, got ndarray; write torch.as_tensor"),
        (lambda x, ids: metrics.kl(x, x.numpy()), "expected reference as a tensor, got ndarray"),
        (lambda x, ids: metrics.perplexity(x, ids.tolist()), "expected ids as a tensor, got list; write torch.as_t"),
        (lambda x, ids: metrics.perplexity(x.numpy(), ids), "expected logits as a tensor, got ndarray"),
        (lambda x, ids: metrics.perplexity(x, ids, [[True] * 3]), "expected counted as a tensor, got list"),
        (lambda x, ids: metrics.log_odds(x[:, 0].numpy(), [1], [2]), "expected logits as a tensor, got ndarray"),
    ],
)  # fmt: skip
def test_what_is_no_tensor_is_refused_in_one_sentence(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(1, 3, 5), torch.zeros(1, 3, dtype=torch.long))


def test_a_small_divergence_is_right_in_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(3, 5000, generator=generator, dtype=torch.float64)
    p = reference.softmax(-1)
    for size in (1e-2, 1e-4):
        moved = reference + size * torch.randn(3, 5000, generator=generator, dtype=torch.float64)
        found = metrics.kl(moved, reference)
        assert found.dtype == torch.float64
        exact = (
            size**2
            / 2
            * ((p * ((moved - reference) / size) ** 2).sum(-1) - (p * (moved - reference) / size).sum(-1) ** 2)
        )
        assert torch.allclose(found, exact, rtol=3 * size, atol=0)


def test_the_same_tokens_on_both_sides_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"two sets of tokens that share none, got \[3\] in both; .* sweep's candidate answers"
    ):
        log_odds(torch.randn(2, 9), [3, 4], [5, 3])


def test_probabilities_in_place_of_logits_are_refused_and_their_logarithms_are_logits() -> None:
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    p, ids = logits.softmax(-1), torch.zeros(1, 4, dtype=torch.long)
    for call, name in (
        (lambda x: kl(x, logits), "logits"),
        (lambda x: kl(logits, x), "reference"),
        (lambda x: log_odds(x, [1], [2]), "logits"),
        (lambda x: logit_difference(x, [1] * 4, [2] * 4), "logits"),
        (lambda x: perplexity(x[None], ids), "logits"),
    ):
        for wrong in (p, p.half()):
            with pytest.raises(
                ValueError, match=rf"expected {name}, got numbers that sum to 1.*; write {name}.log\(\)"
            ):
                call(wrong)
        assert torch.allclose(call(p.log()), call(logits), atol=1e-6)


def test_numbers_that_are_masked_out_are_not_counted_in_silence() -> None:
    values = np.ma.masked_array([1.0, 2.0, 99.0], mask=[False, False, True])
    with pytest.raises(ValueError, match=r"some of them masked; write values.compressed\(\)"):
        bootstrap(values, seed=0)
    assert bootstrap(values[:2], seed=0) == bootstrap([1.0, 2.0], seed=0)
