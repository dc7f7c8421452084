"""A cache changes how much is computed, never what: the same numbers however a text is cut into calls and rows."""

import copy
import gc
import weakref
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import (
    SHAPES,
    TOLERANCE,
    Pair,
    alone,
    both,
    random_ids,
    random_tensor,
    relative,
    residual_sites,
    right_padded,
)
from torch import Tensor

from ministeer.model import Cache, Transformer

BOTH = both(seed=1)
MODEL, THEIRS = BOTH["gpt2"]
LAYERS, WIDTH, CONTEXT = MODEL.config.n_layer, MODEL.config.width, MODEL.config.context
SITES = residual_sites(LAYERS)


def in_pieces(model: Transformer, ids: Tensor, sizes: list[int], **kwargs: object) -> Tensor:
    """Logits of `ids` `(B, T)` given to a cache in pieces of these sizes."""
    cache = Cache(model, len(ids), ids.shape[1])
    return torch.cat([model(piece, cache=cache, **kwargs) for piece in ids.split(sizes, dim=1)], dim=1)


def greedy(model: Transformer, prompts: list[list[int]], new: int, **kwargs: object) -> list[list[int]]:
    """Greedy continuations, all prompts in one batch: what a hand-written generator looks like."""
    ids, lengths = right_padded(prompts)
    cache = Cache(model, len(prompts), ids.shape[1] + new)
    logits = model(ids, cache=cache, **kwargs)
    cache.keep(lengths)
    token = logits[torch.arange(len(prompts)), lengths - 1].argmax(-1)  # (B, V) -> (B,)
    out = [token]
    for _ in range(new - 1):
        token = model(token[:, None], cache=cache, **kwargs)[:, 0].argmax(-1)
        out.append(token)
    return torch.stack(out, dim=1).tolist()


# --- one text, cut anywhere -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "xl wide"])
def test_a_prefill_split_anywhere_gives_the_same_logits_as_transformers(pairs: dict[str, Pair], name: str) -> None:
    ours, theirs = pairs[name]
    ids = random_ids(ours, 2, min(24, ours.config.context))
    expected = theirs(input_ids=ids).logits
    for first in range(1, ids.shape[1]):
        assert relative(in_pieces(ours, ids, [first, ids.shape[1] - first]), expected) < TOLERANCE, first


@pytest.mark.parametrize("name", ["gpt2", "one head", "odd", "xl wide", "llama", "odd llama", "llama 3", "qwen2"])
@pytest.mark.parametrize("rows", [1, 2])
def test_one_token_at_a_time_gives_the_same_logits_as_transformers(
    pairs: dict[str, Pair], name: str, rows: int
) -> None:
    """One row too: a single token takes another road through the matrices than several do."""
    ours, theirs = pairs[name]
    ids = random_ids(ours, rows, 12)
    assert relative(in_pieces(ours, ids, [1] * 12), theirs(input_ids=ids).logits) < TOLERANCE


def test_the_first_call_with_a_cache_is_the_call_without_to_the_bit() -> None:
    ids = random_ids(MODEL, 2, 7)
    assert torch.equal(MODEL(ids, cache=Cache(MODEL, 2, 9)), MODEL(ids))


@given(
    sizes=st.lists(st.integers(1, 8), min_size=1, max_size=6).filter(lambda sizes: sum(sizes) <= CONTEXT),
    rows=st.integers(1, 3),
    seed=st.integers(0, 1000),
    spare=st.integers(0, 5),
)
def test_pieces_of_any_sizes(sizes: list[int], rows: int, seed: int, spare: int) -> None:
    """Every site too, and whatever room is left in the cache."""
    ids = random_ids(MODEL, rows, sum(sizes), seed)
    whole: dict = {}
    expected = MODEL(ids, tape=whole)
    cache = Cache(MODEL, rows, min(CONTEXT, sum(sizes) + spare))
    done = 0
    for piece in ids.split(sizes, dim=1):
        tape: dict = {}
        logits = MODEL(piece, tape=tape, cache=cache)
        span = slice(done, done + piece.shape[1])
        assert logits.shape == (rows, piece.shape[1], MODEL.config.vocab_size)
        assert relative(logits, expected[:, span]) < TOLERANCE
        assert all(relative(tape[site], whole[site][:, span]) < TOLERANCE for site in SITES)
        done = span.stop
        assert cache.lengths.tolist() == [done] * rows


def test_heads_are_recorded_under_a_cache_too() -> None:
    ids = random_ids(MODEL, 2, 8)
    whole, piece = {("head", 1): None}, {("head", 1): None}
    MODEL(ids, tape=whole)
    cache = Cache(MODEL, 2, 8)
    MODEL(ids[:, :5], cache=cache)
    MODEL(ids[:, 5:], tape=piece, cache=cache)
    assert relative(piece["head", 1], whole["head", 1][:, 5:]) < TOLERANCE


# --- rows of unequal length -------------------------------------------------------------------------------------------


@given(
    lengths=st.lists(st.integers(1, 10), min_size=1, max_size=5),
    more=st.integers(1, 6),
    pad=st.integers(0, 60),
    seed=st.integers(0, 1000),
)
def test_unequal_prompts_in_one_batch_go_on_as_each_does_alone(
    lengths: list[int], more: int, pad: int, seed: int
) -> None:
    """Whatever the padding token: no real token ever sees it, before or after the continuation overwrites it."""
    texts = [
        row.tolist()[: n + more] for n, row in zip(lengths, random_ids(MODEL, len(lengths), 16, seed), strict=True)
    ]
    expected = alone(MODEL, texts)
    ids, true_lengths = right_padded([text[:n] for text, n in zip(texts, lengths, strict=True)], pad)
    cache = Cache(MODEL, len(texts), CONTEXT)
    logits = MODEL(ids, cache=cache)
    for b, n in enumerate(lengths):
        assert relative(logits[b, :n], expected[b][:n]) < TOLERANCE
    cache.keep(true_lengths)
    for t in range(more):
        token = torch.tensor([text[n + t] for text, n in zip(texts, lengths, strict=True)])[:, None]
        logits = MODEL(token, cache=cache)
        for b, n in enumerate(lengths):
            assert relative(logits[b], expected[b][n + t : n + t + 1]) < TOLERANCE, (b, t)
    assert cache.lengths.tolist() == [n + more for n in lengths]


def test_several_tokens_at_once_follow_prompts_of_unequal_length() -> None:
    lengths = [3, 9, 1]
    texts = [row.tolist()[: n + 4] for n, row in zip(lengths, random_ids(MODEL, 3, 16), strict=True)]
    expected = alone(MODEL, texts)
    ids, true_lengths = right_padded([text[:n] for text, n in zip(texts, lengths, strict=True)])
    cache = Cache(MODEL, 3, CONTEXT)
    MODEL(ids, cache=cache)
    cache.keep(true_lengths)
    logits = MODEL(torch.tensor([text[n:] for text, n in zip(texts, lengths, strict=True)]), cache=cache)
    for b, n in enumerate(lengths):
        assert relative(logits[b], expected[b][n:]) < TOLERANCE


def test_a_batch_with_its_longest_row_first_last_or_alone_at_the_context() -> None:
    """The longest row fills the cache to the last slot of the context; nobody else may lose anything by it."""
    for lengths in ([CONTEXT - 1, 1, 5], [1, 5, CONTEXT - 1]):
        texts = [row.tolist()[: n + 1] for n, row in zip(lengths, random_ids(MODEL, 3, CONTEXT), strict=True)]
        ids, true_lengths = right_padded([text[:-1] for text in texts])
        cache = Cache(MODEL, 3, CONTEXT)
        MODEL(ids, cache=cache)
        cache.keep(true_lengths)
        logits = MODEL(torch.tensor([text[-1:] for text in texts]), cache=cache)
        for row, expected in zip(logits, alone(MODEL, texts), strict=True):
            assert relative(row, expected[-1:]) < TOLERANCE


# --- going back to a shared prefix ------------------------------------------------------------------------------------


@given(prefix=st.integers(1, 8), tails=st.lists(st.integers(1, 9), min_size=2, max_size=4), seed=st.integers(0, 1000))
def test_a_prefix_is_computed_once_and_gone_back_to(prefix: int, tails: list[int], seed: int) -> None:
    """A longer tail first, a shorter one after it: what the longer left in the cache is not seen."""
    texts = [random_ids(MODEL, 2, prefix + n, seed + i) for i, n in enumerate(sorted(tails, reverse=True))]
    for text in texts:
        text[:, :prefix] = texts[0][:, :prefix]
    cache = Cache(MODEL, 2, CONTEXT)
    MODEL(texts[0][:, :prefix], cache=cache)
    shared = cache.lengths
    for text in texts:
        cache.keep(shared)
        assert relative(MODEL(text[:, prefix:], cache=cache), MODEL(text)[:, prefix:]) < TOLERANCE
    assert shared.tolist() == [prefix] * 2  # the caller's own tensor is not counted up in place


def test_rows_can_go_back_by_different_steps() -> None:
    texts = random_ids(MODEL, 3, 12)
    cache = Cache(MODEL, 3, 12)
    MODEL(random_ids(MODEL, 3, 12, seed=9), cache=cache)
    cache.keep(torch.tensor([0, 0, 0]))
    MODEL(texts[:, :8], cache=cache)
    cache.keep(torch.tensor([2, 7, 0]))
    piece = torch.stack([texts[0, 2:6], texts[1, 7:11], texts[2, 0:4]])
    logits = MODEL(piece, cache=cache)
    expected = MODEL(texts)
    for b, start in enumerate([2, 7, 0]):
        assert relative(logits[b], expected[b, start : start + 4]) < TOLERANCE, b


def test_two_caches_and_one_model_do_not_meet() -> None:
    """What a model has seen is in the cache, not in the model."""
    one, other = random_ids(MODEL, 1, 8, seed=1), random_ids(MODEL, 1, 8, seed=2)
    first, second = Cache(MODEL, 1, 8), Cache(MODEL, 1, 8)
    MODEL(one[:, :4], cache=first)
    MODEL(other[:, :6], cache=second)
    assert relative(MODEL(one[:, 4:], cache=first), MODEL(one)[:, 4:]) < TOLERANCE
    assert relative(MODEL(other[:, 6:], cache=second), MODEL(other)[:, 6:]) < TOLERANCE


# --- greedy generation ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "xl wide"])
def test_greedy_generation_is_transformers_token_for_token(pairs: dict[str, Pair], name: str) -> None:
    """A batch of unequal prompts here, each prompt alone there."""
    ours, theirs = pairs[name]
    prompts = [row.tolist()[:n] for n, row in zip([3, 1, 6, 4], random_ids(ours, 4, 6, seed=4), strict=True)]
    new = min(ours.config.context, 24) - 6
    said = greedy(ours, prompts, new)
    for prompt, tokens in zip(prompts, said, strict=True):
        ids = torch.tensor([prompt])
        out = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False)
        assert out[0, len(prompt) :].tolist() == tokens
    assert len({tuple(tokens) for tokens in said}) > 1
    assert len({token for tokens in said for token in tokens}) > 3  # it says something, not one token for ever


# --- steering under a cache -------------------------------------------------------------------------------------------


@given(
    site=st.sampled_from(SITES),
    kind=st.sampled_from(["vector", "row", "token", "function"]),
    first=st.integers(1, 9),
    seed=st.integers(0, 1000),
)
def test_steering_with_a_cache_is_steering_without(site: tuple[str, int], kind: str, first: int, seed: int) -> None:
    ids = random_ids(MODEL, 2, 10, seed)
    v = random_tensor(*{"vector": (WIDTH,), "row": (2, 1, WIDTH)}.get(kind, (2, 10, WIDTH)), seed=seed)
    if kind == "function":
        parts = [{site: lambda x: -0.5 * x.roll(1, -1)}] * 3
    elif kind == "token":
        parts = [{site: v}, {site: v[:, :first]}, {site: v[:, first:]}]
    else:
        parts = [{site: v}] * 3
    expected = MODEL(ids, adds=parts[0])
    cache = Cache(MODEL, 2, 10)
    logits = [MODEL(ids[:, :first], adds=parts[1], cache=cache), MODEL(ids[:, first:], adds=parts[2], cache=cache)]
    assert relative(torch.cat(logits, dim=1), expected) < TOLERANCE
    assert relative(expected, MODEL(ids)) > 1e-3


def test_steering_only_the_later_tokens_leaves_the_prefix_as_it_was() -> None:
    """The published bug: a mask made for the current piece steers nothing, or the wrong positions, once a cache is in use."""
    ids = random_ids(MODEL, 2, 9)
    v = random_tensor(WIDTH)
    cache = Cache(MODEL, 2, 9)
    before = MODEL(ids[:, :5], cache=cache)
    after = MODEL(ids[:, 5:], adds={("pre", 1): v}, cache=cache)
    only_later = torch.zeros(2, 9, WIDTH)
    only_later[:, 5:] = v
    expected = MODEL(ids, adds={("pre", 1): only_later})
    assert relative(torch.cat([before, after], dim=1), expected) < TOLERANCE
    assert relative(after, MODEL(ids)[:, 5:]) > 0.01


def test_steered_greedy_generation_is_that_without_a_cache() -> None:
    prompts = [[5, 2, 9], [7], [1, 2, 3, 4, 5]]
    adds = {("pre", 1): random_tensor(WIDTH, seed=5, scale=0.3), ("mid", 2): lambda x: 0.1 * x.flip(-1)}
    said = greedy(MODEL, prompts, 12, adds=adds)
    for prompt, tokens in zip(prompts, said, strict=True):
        text = list(prompt)
        for token in tokens:
            assert int(MODEL(torch.tensor([text]), adds=adds)[0, -1].argmax()) == token
            text.append(token)
    assert said != greedy(MODEL, prompts, 12)


def test_a_one_token_prompt_is_a_prompt() -> None:
    """Nothing in the model takes a piece of one token for a decoding step."""
    ids = random_ids(MODEL, 2, 1)
    adds = {("pre", 0): random_tensor(WIDTH)}
    assert torch.equal(MODEL(ids, adds=adds, cache=Cache(MODEL, 2, 4)), MODEL(ids, adds=adds))


# --- bf16 -------------------------------------------------------------------------------------------------------------


def test_a_cache_has_the_models_dtype_and_costs_no_precision() -> None:
    """Decided beforehand: at most 1.25 times as far from the float32 logits as the uncached bf16 run."""
    model = copy.deepcopy(MODEL).bfloat16()
    exact = copy.deepcopy(model).float()  # the weights that bf16 can hold
    ids = random_ids(MODEL, 4, 20)
    truth = exact(ids)
    assert Cache(model, 1, 1).k.dtype == torch.bfloat16
    cached, uncached = in_pieces(model, ids, [5] + [1] * 15), model(ids)
    assert float((cached - truth).norm()) <= 1.25 * float((uncached - truth).norm())


# --- errors -----------------------------------------------------------------------------------------------------------


def test_more_tokens_than_the_cache_holds_are_refused() -> None:
    cache = Cache(MODEL, 2, 6)
    MODEL(random_ids(MODEL, 2, 4), cache=cache)
    with pytest.raises(ValueError) as caught:
        MODEL(random_ids(MODEL, 2, 3), cache=cache)
    for word in ["expected at most 6", "capacity", "got 7", "larger Cache"]:
        assert word in str(caught.value)
    MODEL(random_ids(MODEL, 2, 2), cache=cache)


def test_it_is_the_longest_row_that_must_fit() -> None:
    cache = Cache(MODEL, 2, 6)
    MODEL(random_ids(MODEL, 2, 5), cache=cache)
    cache.keep(torch.tensor([1, 5]))
    with pytest.raises(ValueError, match=r"at most 6 .* got 7"):
        MODEL(random_ids(MODEL, 2, 2), cache=cache)


@pytest.mark.parametrize("capacity", [0, -3, CONTEXT + 1, 5.5])
def test_a_cache_is_made_for_one_position_to_the_context(capacity: float) -> None:
    with pytest.raises(ValueError) as caught:
        Cache(MODEL, 1, capacity)
    for word in ["expected", f"1 to {CONTEXT}", f"got {capacity}"]:
        assert word in str(caught.value)


@pytest.mark.parametrize("rows", [1, 3])
def test_another_number_of_rows_is_refused(rows: int) -> None:
    cache = Cache(MODEL, 2, 6)
    with pytest.raises(ValueError, match=f"expected a cache of rows={rows} .*, got one of rows=2 .*make a new"):
        MODEL(random_ids(MODEL, rows, 3), cache=cache)


@pytest.mark.parametrize(("held", "run"), [(None, 1), (1, None), (1, 2), (2, 1)])
def test_a_cache_of_another_depth_is_refused(held: int | None, run: int | None) -> None:
    with pytest.raises(
        ValueError,
        match=f"a cache of rows=1 and depth={run or LAYERS} .*, got one of .*depth={held or LAYERS} ",
    ):
        MODEL.stream(random_ids(MODEL, 1, 3), cache=Cache(MODEL, 1, 4, held), depth=run)


@pytest.mark.parametrize("depth", range(LAYERS + 1))
def test_a_cache_of_some_blocks_serves_a_run_of_as_many(depth: int) -> None:
    ids = random_ids(MODEL, 2, 5)
    cache = Cache(MODEL, 2, 5, depth)
    parts = [MODEL.stream(part, cache=cache, depth=depth) for part in (ids[:, :3], ids[:, 3:])]
    assert relative(torch.cat(parts, 1), MODEL.stream(ids, depth=depth)) < TOLERANCE
    assert len(cache.k) == depth


def test_a_cache_and_the_full_depth_are_fine() -> None:
    ids = random_ids(MODEL, 1, 3)
    assert torch.equal(MODEL.stream(ids, cache=Cache(MODEL, 1, 4), depth=LAYERS), MODEL.stream(ids))


def fails(_x: Tensor) -> Tensor:
    raise KeyError("from inside a function add")


@pytest.mark.parametrize("before", [0, 4])
@pytest.mark.parametrize(
    "wrong",
    [
        {"adds": {("mid", 1): fails}},
        {"adds": {("mid", 1): lambda x: x[:, :1, :3]}},
        {"adds": {("pre", LAYERS): lambda x: x / 0}},
        {"adds": {("pre", 1): random_tensor(3)}},
        {"tape": [("mid", LAYERS)]},
        {"ids": torch.full((2, 3), 61)},
        {"ids": torch.zeros(2, 25, dtype=torch.int64)},
        {"ids": torch.zeros(1, 3, dtype=torch.int64)},
    ],
)
def test_after_an_error_a_cache_goes_on_as_if_nothing_had_been_asked(before: int, wrong: dict) -> None:
    """In the middle of the blocks too: the layers before the failure have written, and nobody sees it."""
    ids = random_ids(MODEL, 2, 9)
    cache = Cache(MODEL, 2, 9)
    if before:
        MODEL(ids[:, :before], cache=cache)
    with pytest.raises((ValueError, KeyError)):
        MODEL(**({"ids": random_ids(MODEL, 2, 3, seed=7), "cache": cache} | wrong))
    assert cache.lengths.tolist() == [before, before]
    assert relative(MODEL(ids[:, before:], cache=cache), MODEL(ids)[:, before:]) < TOLERANCE


@pytest.mark.parametrize("lengths", [[4, 3], [-1, 3], [3], [[3, 3]], [1.0, 2.0]])
def test_only_what_is_held_can_be_kept(lengths: list) -> None:
    cache = Cache(MODEL, 2, 8)
    MODEL(random_ids(MODEL, 2, 3), cache=cache)
    with pytest.raises(ValueError, match=r"expected a length for each row, from 0 to what it holds, \[3, 3\], got"):
        cache.keep(torch.tensor(lengths))
    assert cache.lengths.tolist() == [3, 3]


def test_infinities_that_are_forgotten_do_no_harm() -> None:
    """A masked slot counts 0 times its value; 0 times infinity is not 0."""
    texts = random_ids(MODEL, 2, 8)
    cache = Cache(MODEL, 2, 12)
    MODEL(texts, cache=cache)
    cache.k[:, 0, 3:8] = cache.v[:, 0, 3:8] = torch.inf
    cache.keep([3, 8])
    logits = MODEL(texts[:, 3:5], cache=cache)
    assert relative(logits[:1], MODEL(texts[:1, :5])[:, 3:]) < TOLERANCE


def test_gradients_reach_the_calls_own_tokens_and_treat_what_is_held_as_constant() -> None:
    """Twice, and each time as without a cache where only the later positions are steered."""
    ids = random_ids(MODEL, 2, 9)
    v = random_tensor(WIDTH).requires_grad_()
    cache = Cache(MODEL, 2, 9)
    MODEL(ids[:, :4], adds={("pre", 1): v}, cache=cache)
    assert not cache.k.requires_grad
    for _ in range(2):
        cache.keep([4, 4])
        cached = MODEL(ids[:, 4:], adds={("pre", 1): v}, cache=cache)[..., 5].square().sum()
        held = torch.where(torch.arange(9)[:, None] < 4, v.detach(), v)[None]  # (1, T, D)
        whole = MODEL(ids, adds={("pre", 1): held})[:, 4:, 5].square().sum()
        (ours,), (theirs,) = torch.autograd.grad(cached, v), torch.autograd.grad(whole, v)
        assert relative(ours, theirs) < TOLERANCE


def test_a_cache_of_another_model_or_of_no_rows_is_refused() -> None:
    other = type(MODEL)(replace(MODEL.config, n_layer=LAYERS + 1))
    with pytest.raises(ValueError, match="expected a cache made for this model"):
        MODEL(random_ids(MODEL, 1, 2), cache=Cache(other, 1, 4))
    twin = copy.deepcopy(MODEL)
    cache = Cache(twin, 1, 4)
    with pytest.raises(ValueError, match="expected a cache made for this model, got another's"):
        MODEL(random_ids(MODEL, 1, 2), cache=cache)
    with pytest.raises(
        ValueError, match=r"expected a cache of .* in torch\.bfloat16 .*, got one of .* in torch\.float32 "
    ):
        twin.bfloat16()(random_ids(MODEL, 1, 2), cache=cache)
    assert not cache.lengths.any(), "nothing was written"
    with pytest.raises(ValueError, match="expected a cache for one row or more, got 0"):
        Cache(MODEL, 0, 4)


def test_a_copied_cache_goes_on_by_itself_and_no_cache_keeps_its_model() -> None:
    model, ids = copy.deepcopy(MODEL), random_ids(MODEL, 1, 5)
    cache = Cache(model, 1, 5)
    model(ids[:, :3], cache=cache)
    forked = copy.deepcopy(cache)
    assert torch.equal(model(ids[:, 3:], cache=forked), model(ids[:, 3:], cache=cache))
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("depth", [-1, 99])
def test_a_cache_of_blocks_that_are_not_there_is_refused(depth: int) -> None:
    with pytest.raises(
        ValueError, match=f"expected a cache of 0 to {MODEL.config.n_layer} blocks, the model's, got {depth}"
    ):
        Cache(MODEL, 1, 4, depth=depth)
