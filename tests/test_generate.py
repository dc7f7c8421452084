"""Sampling as a pure function; generation that is cached, batched, streamed and steered, against loops without any of it."""

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import assume, given
from hypothesis import strategies as st
from reference import both, parts, random_tensor, relative
from torch import Tensor

from ministeer.calibrate import calibrate
from ministeer.generate import decode, generate, penalize, prefill, sample
from ministeer.interventions import Gate
from ministeer.model import Cache, Transformer
from ministeer.provenance import Provenance
from ministeer.steer import Steer, resolve
from ministeer.sweep import sweep
from ministeer.vectors import SteeringVector

BOTH = both(seed=1)
MODEL, THEIRS = BOTH["gpt2"]
CONTEXT, WIDTH, VOCAB = MODEL.config.context, MODEL.config.width, MODEL.config.vocab_size
RAGGED = [[3, 14, 15], [9, 2, 6, 5, 35, 8, 9], [1, 4, 1, 4]]
V = random_tensor(WIDTH, seed=5, scale=0.3)
FRONT = random_tensor(2, WIDTH, seed=6, scale=0.3)
PLACES: list[Any] = ["all", "prompt", "last", "generated", "front", [0, 2]]
COEFFS = [1.0, 0.0, -2.5]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def greedy(ids: Any, new: int = 8, **settings: Any) -> list[Any]:
    return generate(MODEL, ids, **{"max_new_tokens": new, "temperature": 0} | settings)


def steered_positions(where: Any, prompt: int, length: int) -> list[int]:
    """Which of the positions 0 to `length - 1` are steered behind a prompt of `prompt` tokens, said once more."""
    if not isinstance(where, str):
        return list(where)
    return {
        "all": list(range(length)),
        "prompt": list(range(prompt)),
        "last": list(range(prompt - 1, length)),
        "generated": list(range(prompt, length)),
        "front": list(range(len(FRONT))),
    }[where]


def added(where: Any, coeff: float, prompt: int, length: int) -> Tensor:
    """What a Steer of V (FRONT for "front") adds to the first `length` positions, `(1, length, D)`."""
    add = torch.zeros(1, length, WIDTH)
    for p in steered_positions(where, prompt, length):
        add[0, p] = coeff * (FRONT[p] if where == "front" else V)
    return add


def steer(where: Any, site: tuple[str, int], coeff: float | list[float]) -> Steer:
    return Steer(FRONT if where == "front" else V, site, coeff, where)


def by_hand(
    prompt: Sequence[int],
    new: int,
    adds: Callable[[int, int], dict[tuple[str, int], Tensor]] = lambda prompt, length: {},
    adjust: Callable[[Tensor, list[int]], Tensor] = lambda logits, ids: logits,
) -> list[int]:
    """Greedy generation with no cache and no batch: the whole text is read again for each token."""
    ids = list(prompt)
    for _ in range(new):
        logits = MODEL(torch.tensor([ids]), adds=adds(len(prompt), len(ids)))[0, -1]
        ids.append(int(adjust(logits, ids).argmax()))
    return ids


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model falls over as soon as it computes."""

    def refuse(*_: Any) -> None:
        raise AssertionError("the model was run")

    monkeypatch.setattr(type(MODEL), "embed", refuse)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[tuple[str, int], Tensor]]:
    """The adds of every run of the model, in order."""
    seen: list[dict[tuple[str, int], Tensor]] = []
    real = Transformer.stream

    def spy(self: Transformer, ids: Tensor, adds: Any = None, *args: Any, **kwargs: Any) -> Tensor:
        seen.append(dict(adds or {}))
        return real(self, ids, adds, *args, **kwargs)

    monkeypatch.setattr(Transformer, "stream", spy)
    return seen


# --- generation without steering ------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 5])
def test_greedy_is_transformers_generate_token_for_token(length: int) -> None:
    prompt = torch.randint(VOCAB, (length,), generator=seeded(length)).tolist()
    expected = THEIRS.generate(torch.tensor([prompt]), max_new_tokens=16, do_sample=False, pad_token_id=0)
    assert greedy(prompt, 16) == expected[0].tolist()


@pytest.mark.parametrize("prompts", [RAGGED, [[7], *RAGGED], [[7], [8]], [[5, 5, 5, 5, 5], [5]]])
def test_each_row_of_a_ragged_batch_is_what_it_is_alone(prompts: list[list[int]]) -> None:
    assert greedy(prompts) == [greedy(prompt) for prompt in prompts]


@pytest.mark.parametrize("settings", [{}, {"top_p": 0.6}, {"top_k": 5}, {"frequency_penalty": 1.0, "temperature": 0.5}])
def test_each_row_of_a_sampled_batch_with_its_own_generator_is_what_it_is_alone(settings: dict) -> None:
    together = generate(MODEL, RAGGED, max_new_tokens=9, generator=[seeded(s) for s in (1, 2, 3)], **settings)
    alone = [generate(MODEL, p, max_new_tokens=9, generator=[seeded(s)], **settings) for p, s in zip(RAGGED, (1, 2, 3))]
    assert together == alone
    assert together != greedy(RAGGED, 9)


def test_a_cached_run_is_the_loop_that_reads_everything_again() -> None:
    assert greedy(RAGGED) == [by_hand(prompt, 8) for prompt in RAGGED]
    assert greedy([9], 12) == by_hand([9], 12)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([3, 14, 15], "one"),
        ((3, 14, 15), "one"),
        (torch.tensor([3, 14, 15]), "one"),
        ([[3, 14, 15]], "several"),
        (((3, 14, 15),), "several"),
        (torch.tensor([[3, 14, 15]]), "several"),
        ([torch.tensor([3, 14, 15])], "several"),
    ],
)
def test_one_list_gives_one_list_and_several_give_several(ids: Any, expected: str) -> None:
    out = greedy(ids, 4)
    alone = by_hand([3, 14, 15], 4)
    assert out == (alone if expected == "one" else [alone])
    assert all(type(token) is int for token in (out if expected == "one" else out[0]))


def test_a_tensor_of_rows_is_a_list_of_lists() -> None:
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    assert greedy(ids, 5) == greedy(ids.tolist(), 5) == [by_hand([1, 2, 3], 5), by_hand([4, 5, 6], 5)]


def test_the_prompts_given_are_left_as_they_were() -> None:
    prompts = [list(row) for row in RAGGED]
    greedy(prompts, 3)
    assert prompts == RAGGED


def test_the_context_can_be_filled_to_the_last_position_and_the_token_after_it_predicted() -> None:
    prompt = list(range(4))
    assert greedy(prompt, CONTEXT + 1 - 4) == by_hand(prompt, CONTEXT + 1 - 4)
    full = list(range(CONTEXT))
    assert greedy(full, 1) == by_hand(full, 1)


@pytest.mark.parametrize(("length", "new"), [(4, CONTEXT + 2 - 4), (CONTEXT, 2), (CONTEXT + 1, 1)])
def test_one_token_more_than_the_context_is_refused_before_anything_is_computed(
    nothing_runs: None, length: int, new: int
) -> None:
    for prompts in ([1] * length, [[1], [1] * length]):
        with pytest.raises(ValueError, match=f"context of {CONTEXT}, got {length} \\+ {new}"):
            greedy(prompts, new)


def test_the_same_seed_gives_the_same_text_and_another_seed_another() -> None:
    texts = [generate(MODEL, RAGGED, max_new_tokens=8, generator=seeded(seed)) for seed in (1, 1, 2)]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_a_generator_given_leaves_the_global_one_alone_and_the_global_one_serves_where_none_is_given() -> None:
    state = torch.get_rng_state()
    generate(MODEL, RAGGED, max_new_tokens=4, generator=seeded(1))
    greedy(RAGGED, 4)
    assert torch.equal(torch.get_rng_state(), state)
    texts = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        texts.append(generate(MODEL, RAGGED, max_new_tokens=8))
    torch.set_rng_state(state)
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_a_row_ends_with_its_first_stop_token_and_the_others_go_on() -> None:
    free = greedy(RAGGED, 10)
    stop = {free[0][5], free[2][8]}
    expected = []
    for prompt, row in zip(RAGGED, free, strict=True):
        end = next((i for i in range(len(prompt), len(row)) if row[i] in stop), len(row))
        expected.append(row[: end + 1])
    assert greedy(RAGGED, 10, stop=tuple(stop)) == expected
    assert len({len(row) - len(p) for row, p in zip(expected, RAGGED, strict=True)}) > 1  # they end at different times


def test_a_stop_token_in_the_prompt_does_not_stop() -> None:
    free = greedy([3, 14, 15], 6)
    absent = next(i for i in range(VOCAB) if i not in free[3:])
    assert greedy([absent, 14, 15], 6, stop=[absent])[3:] == by_hand([absent, 14, 15], 6)[3:]


def test_nothing_more_is_computed_once_every_row_has_stopped(calls: list) -> None:
    free = greedy(RAGGED, 3)
    calls.clear()
    out = greedy(RAGGED, 20 - 7, stop=[row[len(p) + 1] for row, p in zip(free, RAGGED, strict=True)])
    assert max(len(row) - len(p) for row, p in zip(out, RAGGED, strict=True)) == len(calls)
    assert len(calls) <= 2


def test_the_last_token_is_never_read(calls: list) -> None:
    greedy(RAGGED, 5)
    assert len(calls) == 5  # the prompt, and four of the five tokens behind it


@pytest.mark.parametrize("stop", [(), (24, 41)])
def test_on_token_streams_exactly_the_new_tokens_in_their_order(stop: tuple[int, ...]) -> None:
    heard: list[tuple[int, int]] = []
    out = greedy(RAGGED, 9, stop=stop, on_token=lambda row, token: heard.append((row, token)))
    for number, (prompt, row) in enumerate(zip(RAGGED, out, strict=True)):
        assert [token for r, token in heard if r == number] == row[len(prompt) :]
    assert heard[:3] == [
        (number, row[len(prompt)]) for number, (prompt, row) in enumerate(zip(RAGGED, out, strict=True))
    ]
    assert len(heard) == sum(map(len, out)) - sum(map(len, RAGGED))


def test_a_token_is_streamed_before_the_next_is_computed(calls: list) -> None:
    computed: list[int] = []
    greedy([1, 2], 4, on_token=lambda row, token: computed.append(len(calls)))
    assert computed == [1, 2, 3, 4]


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_stays_changed_in_the_model(fails: bool) -> None:
    def state() -> tuple[Any, ...]:
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in MODEL.modules()]
        attributes = [sorted(vars(m)) for m in MODEL.modules()]
        flags = [(p.requires_grad, p.grad is None, p.dtype) for p in MODEL.parameters()]
        return hooks, attributes, flags, MODEL.training, torch.is_grad_enabled()

    before, weights = state(), {name: t.clone() for name, t in MODEL.state_dict().items()}
    ids = torch.tensor([RAGGED[0]])
    logits = MODEL(ids)

    def interrupt(row: int, token: int) -> None:
        if fails:
            raise KeyboardInterrupt

    try:
        generate(MODEL, RAGGED, max_new_tokens=5, steer=Steer(V, ("mid", 1), 3.0), on_token=interrupt)
    except KeyboardInterrupt:
        assert fails
    assert state() == before
    assert all(torch.equal(t, weights[name]) for name, t in MODEL.state_dict().items())
    assert torch.equal(MODEL(ids), logits)


def test_what_comes_out_carries_no_gradient() -> None:
    wants_gradient = copy.deepcopy(MODEL).requires_grad_(True)
    assert generate(wants_gradient, RAGGED, max_new_tokens=3, temperature=0) == greedy(RAGGED, 3)
    assert all(p.grad is None for p in wants_gradient.parameters())


@pytest.mark.parametrize("prompts", [[], [[]], [[1, 2], []], torch.zeros(0, 3, dtype=torch.int64)])
def test_an_empty_prompt_is_refused(nothing_runs: None, prompts: Any) -> None:
    with pytest.raises(ValueError, match="at least one token in every prompt"):
        greedy(prompts, 2)


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ([1, VOCAB], f"got {VOCAB}"),
        ([[1], [2, -1]], "got -1"),
        ([1.0, 2.0], "whole numbers"),
        ([[0.5]], "whole numbers"),
    ],
)
def test_ids_that_are_none_of_the_vocabulary_are_refused(nothing_runs: None, prompts: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        greedy(prompts, 2)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0),
        ("max_new_tokens", -1),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_p", math.nan),
        ("top_k", 0),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", math.inf),
        ("frequency_penalty", math.nan),
        ("frequency_penalty", math.inf),
        ("frequency_penalty", "1"),
        ("repetition_penalty", None),
    ],
)
def test_a_setting_out_of_its_range_is_refused_by_its_name(nothing_runs: None, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"expected {name} .*got {value!r}"):
        generate(MODEL, [1, 2], **{"max_new_tokens": 2, name: value})


@pytest.mark.parametrize("count", [0, 1, 3])
def test_one_generator_a_row_or_one_for_all(nothing_runs: None, count: int) -> None:
    with pytest.raises(ValueError, match=f"one for each of 2 rows, got {count}"):
        generate(MODEL, [[1], [2]], max_new_tokens=2, generator=[seeded(i) for i in range(count)])


# --- sampling -------------------------------------------------------------------------------------------------------


def draws(logits: Tensor, count: int, seed: int = 0, **settings: Any) -> Tensor:
    """How often each token came, `(V,)`, in `count` draws from logits `(V,)`."""
    picks = sample(logits.expand(count, -1), generator=seeded(seed), **settings)
    return torch.bincount(picks, minlength=len(logits))


def chi_square(counts: Tensor, p: Tensor) -> float:
    expected = p.double() * counts.sum()
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, math.inf])
def test_tokens_come_as_often_as_softmax_says(temperature: float) -> None:
    logits = torch.tensor([0.3, -1.0, 2.0, 0.0, 1.5, -0.2, 0.3, 1.0])
    counts = draws(logits, 40_000, temperature=temperature)
    # 7 degrees of freedom: a right sampler passes 24.3 once in 1000 seeds; the seed is fixed
    assert chi_square(counts, (logits.double() / temperature).softmax(-1)) < 24.3


@pytest.mark.parametrize(("settings", "kept"), [({"top_k": 3}, [2, 4, 7]), ({"top_p": 0.7}, [2, 4, 7])])
def test_what_is_kept_comes_in_its_old_proportions(settings: dict, kept: list[int]) -> None:
    logits = torch.tensor([0.3, -1.0, 2.0, 0.0, 1.5, -0.2, 0.3, 1.0])
    counts = draws(logits, 40_000, **settings)
    assert counts.nonzero()[:, 0].tolist() == kept
    assert chi_square(counts[kept], logits[kept].softmax(-1)) < 13.8  # 2 degrees of freedom, once in 1000 seeds


def test_temperature_zero_is_argmax_and_draws_nothing() -> None:
    logits = random_tensor(50, 31, seed=3)
    generator = seeded(1)
    before = generator.get_state()
    assert torch.equal(sample(logits, temperature=0, generator=generator), logits.argmax(-1))
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("temperature", [1e-3, 1e-20, 1e-38])
@pytest.mark.parametrize("scale", [1.0, 1e9])
def test_a_temperature_near_zero_is_argmax(temperature: float, scale: float) -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0, -1.0], [5.0, -4.0, 4.0, 1.0]]) * scale
    assert sample(logits, temperature=temperature, generator=seeded(1)).tolist() == [2, 0]


def kept_tokens(logits: list[float], top_k: int | None, top_p: float) -> tuple[set[int], float]:
    """The tokens to keep, and how far a running sum is from top_p at the closest; ties: the lower id is likelier."""
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))[:top_k]
    weights = [math.exp(logits[i]) for i in order]
    sums = [sum(weights[: n + 1]) / sum(weights) for n in range(len(weights))]
    count = next((n + 1 for n, total in enumerate(sums) if total >= top_p), len(order))
    return set(order[:count]), min(abs(total - top_p) for total in sums)


@given(
    st.lists(st.integers(-2, 2).map(float), min_size=1, max_size=7),
    st.none() | st.integers(1, 8),
    st.just(1.0) | st.floats(0.001, 0.999),
    st.integers(0, 5),
)
def test_top_k_and_then_top_p_keep_exactly_what_their_definition_says(
    logits: list[float], top_k: int | None, top_p: float, seed: int
) -> None:
    kept, margin = kept_tokens(logits, top_k, top_p)
    assume(margin > 1e-6 or top_p == 1.0)  # nearer than that, float32 may round either way
    # no kept token is rarer than 1 in 400: one is missed by 12,000 draws less than once in 10^12 runs
    counts = draws(torch.tensor(logits), 12_000, seed, top_k=top_k, top_p=top_p)
    assert set(counts.nonzero()[:, 0].tolist()) == kept


@pytest.mark.parametrize(("top_p", "kept"), [(0.25, [0]), (0.5, [0, 1]), (0.75, [0, 1, 2]), (1.0, [0, 1, 2, 3])])
def test_the_nucleus_ends_with_the_token_that_reaches_top_p_exactly(top_p: float, kept: list[int]) -> None:
    assert draws(torch.zeros(4), 5000, top_p=top_p).nonzero()[:, 0].tolist() == kept


def test_a_tiny_top_p_and_a_top_k_of_one_leave_the_likeliest_token() -> None:
    logits = random_tensor(200, 31, seed=3)
    for settings in ({"top_p": 1e-9}, {"top_k": 1}):
        assert torch.equal(sample(logits, generator=seeded(1), **settings), logits.argmax(-1))


def test_a_top_k_larger_than_the_vocabulary_keeps_everything() -> None:
    logits = random_tensor(200, 31, seed=3)
    assert torch.equal(sample(logits, top_k=99, generator=seeded(1)), sample(logits, generator=seeded(1)))


def test_a_rows_draw_depends_on_its_own_generator_alone() -> None:
    logits = random_tensor(6, 31, seed=3, scale=1.0)
    together = sample(logits, generator=[seeded(s) for s in range(6)])
    assert together.tolist() == [int(sample(row[None], generator=seeded(s))) for s, row in enumerate(logits)]


def test_sampling_changes_neither_the_logits_nor_their_meaning_in_bf16() -> None:
    logits = random_tensor(6, 31, seed=3)
    before = logits.clone()
    sample(logits, top_k=3, top_p=0.5, temperature=0.7, generator=seeded(1))
    assert torch.equal(logits, before)
    half = logits.bfloat16()
    assert torch.equal(sample(half, generator=seeded(1)), sample(half.float(), generator=seeded(1)))


# --- penalties ------------------------------------------------------------------------------------------------------


def slow_penalty(logits: Tensor, ids: Sequence[int], frequency: float, repetition: float) -> Tensor:
    out = logits.clone()
    for token in range(len(out)):
        if token in ids:
            out[token] = out[token] / repetition if out[token] > 0 else out[token] * repetition
        out[token] = out[token] - frequency * list(ids).count(token)
    return out


@given(st.integers(0, 99), st.floats(-2, 2), st.floats(0.2, 5), st.lists(st.integers(0, 8), max_size=12))
def test_penalties_are_the_loop_over_tokens(seed: int, frequency: float, repetition: float, ids: list[int]) -> None:
    logits = random_tensor(2, 9, seed=seed, scale=3.0)
    logits[0, 4] = 0.0
    counts = torch.stack([torch.bincount(torch.tensor(row, dtype=torch.int64), minlength=9) for row in (ids, ids[:3])])
    before = logits.clone()
    out = penalize(logits, counts.float(), frequency_penalty=frequency, repetition_penalty=repetition)
    expected = [
        slow_penalty(row, seen, frequency, repetition) for row, seen in zip(logits, (ids, ids[:3]), strict=True)
    ]
    torch.testing.assert_close(out, torch.stack(expected))
    assert torch.equal(logits, before)


@pytest.mark.parametrize("penalty", [0.5, 1.3, 4.0])
def test_the_repetition_penalty_is_that_of_transformers(penalty: float) -> None:
    logits = random_tensor(3, VOCAB, seed=2, scale=2.0)
    ids = torch.randint(VOCAB, (3, 20), generator=seeded(4))
    expected = transformers.RepetitionPenaltyLogitsProcessor(penalty)(ids, logits.clone())
    counts = torch.stack([torch.bincount(row, minlength=VOCAB) for row in ids]).float()
    torch.testing.assert_close(penalize(logits, counts, frequency_penalty=0.0, repetition_penalty=penalty), expected)
    run = THEIRS.generate(ids[:1, :5], max_new_tokens=15, do_sample=False, repetition_penalty=penalty, pad_token_id=0)
    assert greedy(ids[0, :5].tolist(), 15, repetition_penalty=penalty) == run[0].tolist()


@pytest.mark.parametrize(("frequency", "repetition"), [(0.05, 1.0), (0.0, 1.5), (-0.1, 1.0), (0.03, 1.2)])
def test_penalties_count_the_prompt_and_every_new_token_of_the_own_row(frequency: float, repetition: float) -> None:
    expected = [
        by_hand(prompt, 12, adjust=lambda logits, ids: slow_penalty(logits, ids, frequency, repetition))
        for prompt in RAGGED
    ]
    assert greedy(RAGGED, 12, frequency_penalty=frequency, repetition_penalty=repetition) == expected
    assert expected != greedy(RAGGED, 12)


def test_the_prompt_counts_towards_the_first_token() -> None:
    likeliest = greedy([3, 14, 15], 1)[-1]
    prompt = [likeliest, 14, 15]
    likeliest = greedy(prompt, 1)[-1]
    assert greedy([*prompt[:-1], likeliest], 1, frequency_penalty=100.0)[-1] not in (*prompt[:-1], likeliest)


# --- steered generation ---------------------------------------------------------------------------------------------


SITES = (("pre", 0), ("mid", 1), ("pre", 3))
WHERE_AND_SITE = [
    pytest.param(w, site, id=f"{w}-{site[0]}{site[1]}")
    for w in PLACES
    for site in SITES
    if site != ("pre", 3) or w in ("all", "prompt", "last", "generated")  # elsewhere nobody hears it: refused
]


@pytest.mark.parametrize(("where", "site"), WHERE_AND_SITE)
def test_steering_with_a_cache_is_steering_in_the_loop_without(where: Any, site: tuple[str, int]) -> None:
    expected = [
        by_hand(prompt, 8, lambda p, t, c=c: {site: added(where, c, p, t)})
        for prompt, c in zip(RAGGED, COEFFS, strict=True)
    ]
    assert greedy(RAGGED, steer=steer(where, site, COEFFS)) == expected
    alone = [greedy(prompt, steer=steer(where, site, c)) for prompt, c in zip(RAGGED, COEFFS, strict=True)]
    assert alone == expected
    unsteered = greedy(RAGGED)
    assert expected[1] == unsteered[1]  # its coefficient is 0
    assert expected[0] != unsteered[0] or expected[2] != unsteered[2]


@pytest.mark.parametrize(("where", "site"), WHERE_AND_SITE)
def test_the_logits_of_every_step_are_those_of_the_loop_without_a_cache(where: Any, site: tuple[str, int]) -> None:
    """Tokens can hide a difference that logits show: the same tokens are fed to both."""
    behind = [[5, 6, 7, 8], [11, 12, 13, 14], [20, 21, 22, 23]]
    lengths = torch.tensor([len(p) for p in RAGGED])
    cache = Cache(MODEL, 3, int(lengths.max()) + 4)
    plan = resolve(MODEL, steer(where, site, COEFFS), RAGGED, 5)
    steps = [prefill(MODEL, RAGGED, cache, plan)]
    steps += [decode(MODEL, torch.tensor(ids), cache, plan) for ids in zip(*behind, strict=True)]
    for row, (prompt, more, c) in enumerate(zip(RAGGED, behind, COEFFS, strict=True)):
        text = [*prompt, *more]
        full = MODEL(torch.tensor([text]), adds={site: added(where, c, len(prompt), len(text))})[0, len(prompt) - 1 :]
        assert relative(torch.stack([step[row] for step in steps]), full) < 1e-5


@pytest.mark.parametrize("where", [where for where in PLACES if where != "generated"])
def test_prompts_read_without_a_cache_give_the_same_logits(where: Any) -> None:
    steers = [steer(where, ("pre", 1), COEFFS)]
    assert torch.equal(prefill(MODEL, RAGGED, steer=steers), prefill(MODEL, RAGGED, Cache(MODEL, 3, 7), steers))


@pytest.mark.parametrize("where", ["all", "prompt", "last", "generated", [0]])
def test_a_prompt_of_one_token_is_a_prompt(where: Any) -> None:
    """Published: code that takes every call with one token for a decoding step steers a one-token prompt wrongly."""
    site = ("pre", 1)
    assert greedy([9], steer=steer(where, site, 1.0)) == by_hand([9], 8, lambda p, t: {site: added(where, 1.0, p, t)})
    assert greedy([[9], RAGGED[0]], steer=steer(where, site, 1.0))[0] == greedy([9], steer=steer(where, site, 1.0))


def test_a_front_of_one_position_on_a_prompt_of_one_token() -> None:
    front = Steer(FRONT[:1], ("pre", 1), 2.0, "front")
    assert greedy([9], steer=front) == greedy([9], steer=Steer(FRONT[0], ("pre", 1), 2.0, [0])) != greedy([9])


@pytest.mark.parametrize("where", PLACES)
def test_steering_is_what_hooks_on_transformers_generate_do(where: Any) -> None:
    """Its own cached generation, with a hook that counts the positions it has seen."""
    coeff, layer = 1.5, 1
    for prompt in RAGGED:
        seen = 0

        def hook(_module: Any, args: tuple[Any, ...], prompt: list[int] = prompt) -> tuple[Any, ...]:
            nonlocal seen
            tokens = args[0].shape[1]
            add = added(where, coeff, len(prompt), max(len(prompt), seen + tokens))[:, seen : seen + tokens]
            seen += tokens
            return (args[0] + add, *args[1:])

        handle = parts(THEIRS).blocks[layer].register_forward_pre_hook(hook)
        try:
            out = THEIRS.generate(torch.tensor([prompt]), max_new_tokens=9, do_sample=False, pad_token_id=0)
        finally:
            handle.remove()
        assert seen == len(prompt) + 8  # the hook ran in every step, and the cache was in use
        assert greedy(prompt, 9, steer=steer(where, ("pre", layer), coeff)) == out[0].tolist()


@pytest.mark.parametrize("where", ["front", "prompt", [0, 2]])
def test_what_belongs_to_the_prompt_is_added_once_as_it_is_read(calls: list, where: Any) -> None:
    """Later tokens feel it through the cache only."""
    steered = greedy([3, 14, 15], 6, steer=steer(where, ("pre", 1), 2.0))
    torch.testing.assert_close(calls[0]["pre", 1].expand(1, 3, -1), added(where, 2.0, 3, 3))
    assert calls[1:] == [{}] * 5
    assert steered != greedy([3, 14, 15], 6)


def test_the_vector_is_added_once_to_each_token_and_never_to_padding(calls: list) -> None:
    greedy(RAGGED, 4, steer=steer("all", ("pre", 2), [1.0, 2.0, 3.0]))
    first, *later = [adds[("pre", 2)] for adds in calls]
    assert first.shape == (3, 7, WIDTH)
    for row, prompt in enumerate(RAGGED):
        torch.testing.assert_close(first[row, : len(prompt)], (row + 1) * V.expand(len(prompt), -1))
        assert not first[row, len(prompt) :].any()
    for add in later:
        torch.testing.assert_close(add, torch.tensor([1.0, 2.0, 3.0])[:, None, None] * V)


@pytest.mark.parametrize("where", ["all", "last", "generated", "front"])
def test_a_sweep_of_coefficients_in_one_batch_is_a_run_for_each(where: str) -> None:
    coeffs = [-3.0, -1.0, 0.0, 0.5, 4.0]
    together = greedy([RAGGED[0]] * 5, steer=steer(where, ("mid", 1), coeffs))
    assert together == [greedy(RAGGED[0], steer=steer(where, ("mid", 1), c)) for c in coeffs]
    assert len({tuple(row) for row in together}) > 1


def test_several_interventions_add_up() -> None:
    w = random_tensor(WIDTH, seed=8, scale=0.3)
    site = ("pre", 1)
    sum_of_both = greedy(RAGGED, steer=Steer(2.0 * V - w, site))
    assert greedy(RAGGED, steer=[Steer(V, site, 2.0), Steer(w, site, -1.0)]) == sum_of_both
    assert greedy(RAGGED, steer=[Steer(V, site, 2.0), Steer(V, site, -2.0)]) == greedy(RAGGED)
    assert greedy(RAGGED, steer=[]) == greedy(RAGGED)
    two_sites = [Steer(V, ("pre", 1), 2.0), Steer(w, ("mid", 2), 1.0, "last")]
    expected = by_hand(
        RAGGED[1], 8, lambda p, t: {("pre", 1): 2.0 * V, ("mid", 2): (torch.arange(t) >= p - 1)[None, :, None] * w}
    )
    assert greedy(RAGGED[1], steer=two_sites) == expected


def test_a_steering_vector_steers_with_its_tensor_at_the_site() -> None:
    tensors = {("pre", i): random_tensor(WIDTH, seed=i, scale=0.5) for i in range(3)}
    vector = SteeringVector(tensors, Provenance("model", "method", "data", "token", "float32"))
    runs = [greedy([3, 14, 15], steer=Steer(vector, site, 2.0)) for site in tensors]
    assert runs == [greedy([3, 14, 15], steer=Steer(tensor, site, 2.0)) for site, tensor in tensors.items()]


LONG_FRONT = random_tensor(4, WIDTH)


@pytest.mark.parametrize(
    ("wrong", "new", "words"),
    [
        (Steer(LONG_FRONT, ("pre", 1), where="front"), 4, ["at least 4 tokens", "one of 3"]),
        (Steer(V, ("pre", 1), where="generated"), 1, ["one new token", "where='last'"]),
        (Steer(V, ("pre", 1), where=[0, 3]), 4, ["below 3", "[0, 3]"]),
        (
            Steer(V, ("pre", 3), where=[0, 2]),
            4,
            ["last token of every prompt", "[0, 2] of a prompt of [7]", "where='last'"],
        ),
        (Steer(V, ("mid", 2), where=[1]), 4, ["at ('mid', 2) to reach", "a block below"]),
        (Steer(LONG_FRONT[:3], ("pre", 3), where="front"), 4, ["[0, 1, 2] of a prompt of [7] tokens"]),
        (Steer(V, ("pre", 1), [1.0, 2.0]), 4, ["each of 3 rows", "got 2"]),
        (V, 4, ["expected a Steer", "Tensor"]),
        (Steer(V, ("pre", 4)), 4, ["from 0 to 3", "('pre', 4)"]),
        (Steer(V, ("mid", 3), where="generated"), 4, ["from 0 to 2", "('mid', 3)"]),
        (Steer(V, ("post", 1), where="generated"), 4, ["('post', 1)"]),
        (Steer(V, ("head", 1)), 4, ["('head', 1)"]),
        (Steer(V[:-1], ("pre", 1)), 4, [f"({WIDTH},)", "read from this model"]),
        (Steer(V[:-1], ("pre", 1), where="generated"), 4, [f"({WIDTH},)", "read from this model"]),
        (Steer(V[:1], ("pre", 1)), 4, [f"({WIDTH},)", "read from this model"]),
    ],
)
def test_an_intervention_that_cannot_be_made_is_refused_before_anything_is_computed(
    nothing_runs: None, wrong: Steer, new: int, words: list[str]
) -> None:
    for steers in (wrong, [Steer(V, ("pre", 1)), wrong]):
        with pytest.raises(ValueError) as caught:
            greedy(RAGGED, new, steer=steers)
        assert all(word in str(caught.value) for word in words), caught.value
    if new > 1:  # prompts that are read on their own are checked as well
        with pytest.raises(ValueError):
            prefill(MODEL, RAGGED, None, [wrong])


def test_prompts_are_read_into_an_empty_cache_only() -> None:
    cache = Cache(MODEL, 1, 8)
    prefill(MODEL, [[1, 2, 3]], cache)
    with pytest.raises(ValueError, match=r"an empty cache.*\[3\] tokens"):
        prefill(MODEL, [[4, 5]], cache)


def test_nothing_is_generated_by_reading_prompts_alone() -> None:
    with pytest.raises(ValueError, match="touches no position"):
        prefill(MODEL, RAGGED, None, [Steer(V, ("pre", 1), where="generated")])


def test_logits_that_are_no_numbers_are_not_sampled() -> None:
    most = V / V.abs().max() * 3e38
    huge = [Steer(most, site, where="generated") for site in (("pre", 1), ("mid", 1))]  # together they are infinite
    with pytest.raises(ValueError, match="a stream that is finite.*too large for torch.float32"):
        greedy(RAGGED, 4, steer=huge)
    with pytest.raises(ValueError, match="a stream that is finite.*too large for torch.float32"):
        prefill(MODEL, RAGGED, steer=[Steer(most, ("pre", 1)), Steer(most, ("mid", 1))])


@pytest.mark.parametrize("where", ["prompt", "generated"])
def test_a_stream_whose_square_is_infinite_is_told(where: Any) -> None:
    """Each of its numbers is finite. Llama's norm makes zeros of it, and logits that are finite too, the same for every text."""
    far = Steer(V / V.norm() * 1e20, ("pre", 1), where=where)
    with pytest.raises(ValueError, match="numbers beyond 1e19"):
        greedy(RAGGED, 4, steer=far)


@pytest.mark.parametrize(
    ("ids", "settings", "words"),
    [
        ("hello", {}, r"got a text; write tok.prompt\(text\), .*ministeer.say takes a text"),
        (["hello", "you"], {}, r"got a text; write tok.prompt\(text\)"),
        ([1], {"stop": 3}, r"expected stop to be a list of ids, got 3; write \[3\]"),
        ([1], {"stop": "<|endoftext|>"}, r"expected stop to be a list of ids, got '<|endoftext|>'; write tok.stop"),
        ([1], {"generator": 0}, "expected a torch.Generator or a list of them, got 0"),
        ([1], {"temperature": "1"}, "expected temperature 0 .argmax. or more, got '1'"),
        (torch.tensor(3), {}, "expected ids, a list of whole numbers or a list of such lists, got tensor.3."),
        ([1, [2]], {}, "expected ids, a list of whole numbers or a list of such lists, got .1, .2.."),
        ([1], {"top_k": 2.0}, "top_k a whole number of at least 1, or None, got 2.0"),
        ([1], {"new": 2.0}, "max_new_tokens to be a whole number, got 2.0"),
    ],
)
def test_what_newcomers_type_is_answered(nothing_runs: None, ids: Any, settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        greedy(ids, **settings)


def test_ids_may_lie_in_an_array_of_numpy() -> None:
    plain, array = [1, 2, 3], np.array([1, 2, 3])
    assert greedy(array) == greedy(plain)
    assert greedy(array[None]) == greedy([array]) == [greedy(plain)]
    assert all(type(i) is int for i in greedy(array))


def test_the_frequency_penalty_goes_on_counting_in_bfloat16() -> None:
    """Beyond 256, which bfloat16's eight bits cannot count past."""
    counts = torch.tensor([[300.0, 299.0]])
    found = penalize(torch.zeros(1, 2, dtype=torch.bfloat16), counts, frequency_penalty=1.0, repetition_penalty=1.0)
    assert found.tolist() == [[-300.0, -299.0]]


@pytest.mark.once
def test_a_small_model_runs_a_few_tokens_on_one_thread_and_leaves_the_setting_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a busy machine it would wait for the others at each product."""
    before, seen, stream = torch.get_num_threads(), [], Transformer.stream
    monkeypatch.setattr(Transformer, "stream", lambda *a, **k: seen.append(torch.get_num_threads()) or stream(*a, **k))
    try:
        torch.set_num_threads(2)
        generate(MODEL, [1, 2, 3], max_new_tokens=3)
        prefill(MODEL, [[1, 2, 3]] * 6)
        with pytest.raises(ValueError, match="finite"):
            generate(MODEL, [1, 2], max_new_tokens=1, steer=Steer(lambda x, c: x / 0, ("pre", 1)))
        assert seen[:3] == [1, 1, 1] and seen[3] == 2 and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("top_p", [1e-45, 1e-46, 1e-300])
def test_the_likeliest_token_is_kept_however_small_top_p_is(top_p: float) -> None:
    assert sample(torch.tensor([[1.0, 5.0, 0.0, -9.0]]), top_p=top_p).tolist() == [1]


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_padding_of_a_tensor_is_told(side, recwarn):
    """As transformers pads a batch, to the longest row or to a length that none has: it would be read as text."""
    for rows in (
        [[1, 2, 3, 4], [5, 0, 0, 0]],
        [[1, 2, 3, 0, 0], [5, 6, 0, 0, 0]],
        [[1, 2, 0, 0, 0, 0], [5, 6, 0, 0, 0, 0]],
    ):
        turned = rows if side == "right" else [row[::-1] for row in rows]
        times = max(row.count(0) for row in rows)
        for ids in (torch.tensor(turned), turned):
            with pytest.warns(
                UserWarning, match=f"one with {times} times the token 0 at an end: padding is read as text"
            ):
                generate(MODEL, ids, max_new_tokens=1)
        with pytest.warns(UserWarning, match="padding is read as text"):
            prefill(MODEL, torch.tensor(turned))
    once = [[9, 1, 2, 9], [9, 3, 4, 5]]  # where one token begins texts, ends them and pads them, as GPT-2's
    with pytest.warns(UserWarning, match="one with 1 times the token 9 at an end"):
        generate(MODEL, torch.tensor(once), max_new_tokens=1)
    recwarn.clear()
    for fine in (
        [[1, 2, 3, 4], [5, 6, 0, 0]],  # a list, whose rows may be of any length
        [[1, 2, 3, 4], [0, 0, 0]],
        torch.tensor([[1, 2, 3, 0], [5, 6, 7, 0]]),
        torch.tensor([[0, 0, 1, 2], [0, 0, 3, 4]]),
        torch.tensor([[1, 1]]),
        once,
        torch.tensor([[9, 1, 9], [9, 2, 9]]),
        torch.tensor([[9, 1, 2], [1, 2, 9]]),
        torch.tensor([[9], [9]]),
    ):
        generate(MODEL, fine, max_new_tokens=1)
    assert not [w for w in recwarn if "padding" in str(w.message)]


def test_padding_is_told_wherever_prompts_come_in():
    rows = [[1, 2, 3, 4, 5, 6], [5, 6, 0, 0, 0, 0], [7, 8, 9, 10, 11, 12]]
    v = random_tensor(MODEL.config.width, seed=1, scale=1.0)
    for call in (
        lambda: prefill(MODEL, rows),
        lambda: sweep(MODEL, rows, [[[1], [2]]] * 3, {"v": v}, [1], [1.0]),
        lambda: calibrate(MODEL, rows, Steer(v, ("pre", 1)), kl=1e-3),
        lambda: Gate(v, ("pre", 1), 0.0).cosines(MODEL, rows),
        lambda: Gate(v, ("pre", 1), 0.0).cosines(MODEL, torch.tensor(rows)),
    ):
        with pytest.warns(UserWarning, match="one with 4 times the token 0 at an end: padding is read as text"):
            call()
    with pytest.warns(UserWarning, match="padding is read as text") as seen:
        generate(MODEL, rows, max_new_tokens=1)
    assert len(seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prefill(MODEL, [rows[0], rows[1][:2], rows[2]])


def test_a_hook_that_would_not_run_is_refused() -> None:
    for read in (lambda: prefill(MODEL, [[1, 2]]), lambda: generate(MODEL, [1, 2], max_new_tokens=1)):
        handle = MODEL.register_forward_hook(lambda _module, _given, out: 2 * out)
        try:
            with pytest.raises(
                ValueError, match="expected no hook on the model itself, .*; hook a block or model.ln_f"
            ):
                read()
        finally:
            handle.remove()
        read()
