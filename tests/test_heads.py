"""Head mediation: against one head, one prompt at a time on transformers, and a head planted to do the work."""

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import TOLERANCE, both, parts, random_ids, random_tensor, relative, writer
from torch import Tensor

from ministeer import heads
from ministeer.generate import prefill
from ministeer.initialize import initialize
from ministeer.model import GPT2, Block, Cache, GPT2Config
from ministeer.steer import Steer
from ministeer.tokenizer import Tokenizer
from ministeer.variants import Branch, logits32

BOTH = both(11, 257, 32, 48, 3, 4)
MODEL, THEIRS = BOTH["gpt2"]
LAYERS, HEADS = 3, 4
BYTES = Tokenizer({bytes([byte]): byte for byte in range(256)}, eot=256)  # a token a byte
CLEAN = ["hot: cold, up:", "<|endoftext|>in: out, big:", "ab", "yes: no, left:"]
SHUFFLED, ANSWERS = ["hot: up, cold:", "<|endoftext|>a", "in: big, out: in, u:"], ["x", "q", "!"]


def writes(ids: list[int]) -> Tensor:
    """What each head of transformers' model writes at the last token, `(L, H, D)`: its slice through its rows of the projection."""
    found: dict[int, Tensor] = {}
    handles = [
        out.register_forward_pre_hook(lambda _, args, i=i: found.__setitem__(i, args[0][0, -1]))
        for i, out in enumerate(parts(THEIRS).writers)
    ]
    THEIRS(input_ids=torch.tensor([ids]), use_cache=False)
    for handle in handles:
        handle.remove()
    rows = []
    for i, out in enumerate(parts(THEIRS).writers):
        weight = out.weight.T if isinstance(out, torch.nn.Linear) else out.weight  # [in, out]
        own = zip(found[i].chunk(HEADS), weight.chunk(HEADS), strict=True)
        rows.append([z @ w for z, w in own])
    return torch.stack([torch.stack(row) for row in rows])


def probability(ids: list[int], answer: int, layer: int = 0, change: Tensor | None = None) -> float:
    """p(answer) of transformers' model, with `change` added to what attention returns at the last token of a layer."""

    def hook(_m: Any, _a: Any, output: tuple[Any, ...]) -> tuple[Any, ...]:
        moved = output[0].clone()
        moved[0, -1] += change
        return (moved, *output[1:])

    handle = parts(THEIRS).attentions[layer].register_forward_hook(hook) if change is not None else None
    logits = THEIRS(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
    if handle is not None:
        handle.remove()
    return float(logits.softmax(-1)[answer])


def slow_effects(means: Tensor) -> Tensor:
    """One head, one prompt at a time."""
    effects = torch.empty(len(SHUFFLED), LAYERS, HEADS)
    for n, (prompt, answer) in enumerate(zip(SHUFFLED, ANSWERS, strict=True)):
        ids, target = BYTES.prompt(prompt), BYTES.single(answer)
        own, before = writes(ids), probability(ids, target)
        for layer in range(LAYERS):
            for head in range(HEADS):
                change = means[layer, head] - own[layer, head]
                effects[n, layer, head] = probability(ids, target, layer, change) - before
    return effects


@pytest.fixture(scope="module")
def means(architecture: None) -> Tensor:
    return heads.mean_writes(MODEL, BYTES, CLEAN)


@pytest.fixture(scope="module")
def effects(means: Tensor) -> Tensor:
    return heads.indirect_effects(MODEL, BYTES, SHUFFLED, ANSWERS, means)


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_mean_writes_are_those_of_transformers_heads(batch_size: int) -> None:
    wanted = torch.stack([writes(BYTES.prompt(text)) for text in CLEAN]).mean(0)
    assert relative(heads.mean_writes(MODEL, BYTES, CLEAN, batch_size=batch_size), wanted) < TOLERANCE


def test_effects_are_those_of_one_head_and_one_prompt_at_a_time(means: Tensor, effects: Tensor) -> None:
    wanted = slow_effects(means)
    assert wanted.abs().min() > 1e-7  # every head matters, so that none can be forgotten
    assert effects.shape == (3, 3, 4)
    assert float((effects - wanted).abs().max()) < 1e-6
    assert float((effects - wanted).abs().max() / wanted.abs().max()) < 1e-3


@pytest.mark.parametrize("batch_size", [1, 3, 4, 7, 1000])
def test_batch_size_changes_no_effect(means: Tensor, effects: Tensor, batch_size: int) -> None:
    found = heads.indirect_effects(MODEL, BYTES, SHUFFLED, ANSWERS, means, batch_size=batch_size)
    assert float((found - effects).abs().max()) < 1e-7


def test_a_head_replaced_by_its_own_write_has_no_effect() -> None:
    own = heads.mean_writes(MODEL, BYTES, SHUFFLED[:1])
    assert heads.indirect_effects(MODEL, BYTES, SHUFFLED[:1], ANSWERS[:1], own).abs().max() < 1e-7


def test_a_prompt_is_read_once_whatever_the_number_of_heads(means: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patched variants run their one token through the layers above; the prompt before is not read again."""
    seen: list[tuple[int, int, int]] = []
    run = Block.feed_forward

    def counted(block: Block, x: Tensor, sites: Any = None) -> Tensor:
        seen.append((block.layer, *x.shape[:2]))
        return run(block, x, sites)

    monkeypatch.setattr(Block, "feed_forward", counted)
    heads.indirect_effects(MODEL, BYTES, SHUFFLED, ANSWERS, means)
    longest = max(len(BYTES.prompt(prompt)) for prompt in SHUFFLED) - 1
    read, last = [(i, 3, longest) for i in range(3)], [(i, 3, 1) for i in range(3)]
    patched = [(i, 3, 4) for layer in range(3) for i in range(layer, 3)]  # the 4 heads of each layer side by side
    assert seen == [*read, *last, *patched]


@pytest.mark.once
def test_gpt2_xl_s_heads_on_25_prompts_are_144_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """48 layers of 25 heads, 256 variants at a time: 10 prompts' heads of a layer are one pass."""
    model = (
        initialize(GPT2(GPT2Config(257, 32, n_embd=50, n_layer=48, n_head=25)), torch.Generator().manual_seed(0))
        .eval()
        .requires_grad_(False)
    )
    passes: list[int] = []
    monkeypatch.setattr(heads, "logits32", lambda model, x: passes.append(x.shape[1]) or logits32(model, x))
    found = heads.indirect_effects(model, BYTES, ["ab: c"] * 25, ["d"] * 25, torch.zeros(48, 25, 50))
    assert found.shape == (25, 48, 25)
    assert passes.count(25) == 144
    assert len(passes) == 144 + 3  # and each prompt unpatched, ten at a time


def test_a_planted_head_is_found() -> None:
    """One head of an otherwise silent last layer writes the answer's direction when the task is shown."""
    clean = heads.mean_writes(MODEL, BYTES, CLEAN)
    clean[2, 1] = 40 * MODEL.head.weight[BYTES.single("q")]
    effects = heads.indirect_effects(MODEL, BYTES, SHUFFLED, ["q"] * 3, clean)
    assert heads.top_heads(effects, k=1) == [(2, 1)]


def test_top_heads_are_ranked_by_mean_and_tasks_count_alike() -> None:
    first, second = torch.zeros(2, 2, 3), torch.zeros(50, 2, 3)
    first[:, 1, 2], first[:, 0, 1] = torch.tensor([0.6, 0.2]), 0.3  # means .4 and .3
    second[:, 0, 0], second[:, 0, 1] = 0.35, 0.2
    assert heads.top_heads(first, k=2) == [(1, 2), (0, 1)]
    assert heads.top_heads(first, second, k=3) == [(0, 1), (1, 2), (0, 0)]


def test_the_vector_is_the_sum_of_mean_writes_without_bias(means: Tensor) -> None:
    chosen = [(2, 3), (0, 1), (2, 0)]
    vector = heads.function_vector(MODEL, BYTES, CLEAN, chosen, [("pre", 1), ("mid", 2)], batch_size=3)
    wanted = sum(means[layer, head] for layer, head in chosen)
    assert vector.sites == [("pre", 1), ("mid", 2)]
    assert all(relative(vector[site], wanted) < TOLERANCE for site in vector.sites)
    assert "2.3, 0.1, 2.0" in vector.provenance.method
    norms = {site: health.relative_norm for site, health in vector.health.items()}
    for site in vector.sites:
        tape: dict[Any, Any] = {}
        total = 0.0
        for text in CLEAN:
            MODEL(torch.tensor([BYTES.prompt(text)]), tape=tape)
            total += float(tape[site][0, -1].norm()) / len(CLEAN)
        assert norms[site] == pytest.approx(float(wanted.norm()) / total, rel=1e-4)


def test_all_heads_of_a_layer_together_are_what_attention_adds_but_for_the_bias() -> None:
    text = "yes: no, left:"
    kept = json.loads(json.dumps([(1, h) for h in range(4)]))  # as a file has them: lists
    every = heads.function_vector(MODEL, BYTES, [text, text], kept, ("pre", 1))
    tape: dict[Any, Any] = {}
    MODEL(torch.tensor([BYTES.prompt(text)]), tape=tape)
    added = (tape["mid", 1] - tape["pre", 1])[0, -1]
    bias = writer(MODEL, 1).bias
    assert relative(every["pre", 1] + (0.0 if bias is None else bias), added) < TOLERANCE


def test_effects_are_kept_and_a_run_that_was_cut_off_continues(tmp_path: Path, means: Tensor, effects: Tensor) -> None:
    path = tmp_path / "effects.safetensors"

    class CutOffError(Exception):
        pass

    def stop(done: int, of: int) -> None:
        assert of == 3
        if done == 2:
            raise CutOffError

    with pytest.raises(CutOffError):
        heads.indirect_effects(MODEL, BYTES, SHUFFLED, ANSWERS, means, batch_size=4, on_batch=stop, path=path)
    seen: list[int] = []
    found = heads.indirect_effects(
        MODEL, BYTES, SHUFFLED, ANSWERS, means, batch_size=4, on_batch=lambda done, _: seen.append(done), path=path
    )
    assert seen == [3]  # the two that were done are not done again
    assert float((found - effects).abs().max()) < 1e-7
    assert list(tmp_path.iterdir()) == [path]
    again = heads.indirect_effects(
        MODEL, BYTES, SHUFFLED, ANSWERS, means, on_batch=lambda *_: pytest.fail("ran"), path=path
    )
    assert torch.equal(again, found)


def test_effects_of_another_run_are_refused(tmp_path: Path, means: Tensor) -> None:
    path = tmp_path / "effects.safetensors"
    heads.indirect_effects(MODEL, BYTES, SHUFFLED, ANSWERS, means, path=path)
    kept = path.read_bytes()
    for prompts, answers, other in [
        (SHUFFLED, ["x", "q", "?"], means),
        ([*SHUFFLED[:2], "else:"], ANSWERS, means),
        (SHUFFLED, ANSWERS, means * 1.1),
    ]:
        with pytest.raises(ValueError, match="those of others"):
            heads.indirect_effects(MODEL, BYTES, prompts, answers, other, path=path)
    assert path.read_bytes() == kept
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match="got something else"):
        heads.indirect_effects(MODEL, BYTES, SHUFFLED, ANSWERS, means, path=path)


def test_effects_of_texts_that_another_tokenizer_reads_otherwise_are_refused(tmp_path: Path, means: Tensor) -> None:
    path, other = tmp_path / "effects.safetensors", copy.copy(BYTES)
    heads.indirect_effects(MODEL, BYTES, SHUFFLED[::2], ANSWERS[::2], means, path=path)
    other.bos = 65
    with pytest.raises(ValueError, match="expected effects of this model, these prompts"):
        heads.indirect_effects(MODEL, other, SHUFFLED[::2], ANSWERS[::2], means, path=path)


def test_a_run_continues_with_the_means_it_began_with(tmp_path: Path, means: Tensor) -> None:
    path = tmp_path / "effects.safetensors"

    class CutOffError(Exception):
        pass

    def stop(*_: int) -> None:
        raise CutOffError

    with pytest.raises(CutOffError):
        heads.indirect_effects(MODEL, BYTES, SHUFFLED, ANSWERS, means, batch_size=4, on_batch=stop, path=path)
    again = heads.mean_writes(MODEL, BYTES, CLEAN, batch_size=1)
    again = again.double() * (1 + 1e-5)
    found = heads.indirect_effects(MODEL, BYTES, SHUFFLED, ANSWERS, again, batch_size=4, path=path)
    whole = heads.indirect_effects(MODEL, BYTES, SHUFFLED, ANSWERS, means, batch_size=4)
    assert torch.equal(found, whole)


def test_a_path_that_cannot_be_written_shows_before_anything_is_computed(tmp_path: Path, means: Tensor) -> None:
    for path in (tmp_path / "missing" / "effects.safetensors", tmp_path):
        with pytest.raises(ValueError, match="folder that exists|something else"):
            heads.indirect_effects(
                MODEL, BYTES, SHUFFLED, ANSWERS, means, path=path, on_batch=lambda *_: pytest.fail("computed")
            )


def test_a_branch_is_what_each_variant_gives_alone() -> None:
    """Five variants of the token behind prompts of unequal lengths, against the whole texts without a cache."""
    texts = [random_ids(MODEL, 1, n, seed=n)[0].tolist() for n in (7, 3, 5)]
    cache = Cache(MODEL, 3, 7)
    prefill(MODEL, texts, cache)
    x = random_tensor(3, 5, 48, seed=1)
    past, found = Branch(cache, cache.lengths), x
    for block in MODEL.blocks:
        found = block(found, past)
    for row, text in enumerate(texts):
        for variant in range(5):
            whole = torch.cat([MODEL.embed(torch.tensor([text])), x[row : row + 1, variant : variant + 1]], 1)
            for block in MODEL.blocks:
                whole = block(whole)
            assert relative(found[row, variant], whole[0, -1]) < TOLERANCE
    assert cache.lengths.tolist() == [7, 3, 5]


def test_a_head_vector_steers(means: Tensor) -> None:
    vector = heads.function_vector(MODEL, BYTES, CLEAN, [(2, 3)], ("mid", 2))
    prompt = [BYTES.prompt(CLEAN[0])]
    steered = prefill(MODEL, prompt, None, [Steer(vector, ("mid", 2), where="last")])
    by_hand = torch.zeros(1, len(prompt[0]), 48)
    by_hand[0, -1] = means[2, 3]
    assert relative(steered, MODEL(torch.tensor(prompt), adds={("mid", 2): by_hand})[:, -1]) < TOLERANCE


# --- wrong calls ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: heads.mean_writes(MODEL, BYTES, []), "a list of prompts"),
        (lambda m: heads.mean_writes(MODEL, BYTES, "one text"), "a list of prompts, got 'one text'"),
        (lambda m: heads.mean_writes(MODEL, BYTES, ["ab", ""]), "two tokens or more"),
        (lambda m: heads.mean_writes(MODEL, BYTES, {"ab": 1, "cd": 2}), "a list of prompts, got {'ab'"),
        (lambda m: heads.indirect_effects(MODEL, BYTES, SHUFFLED, dict.fromkeys("xq!"), m), "got {'x': None"),
        (lambda m: heads.mean_writes(MODEL, BYTES, [{"prompt": "ab"}]), "of data.few_shot take"),
        (lambda m: heads.indirect_effects(MODEL, BYTES, SHUFFLED, ANSWERS[:2], m), "each of 3 prompts, got 2"),
        (lambda m: heads.indirect_effects(MODEL, BYTES, SHUFFLED, ["ab", "q", "!"], m), "one token"),
        (lambda m: heads.indirect_effects(MODEL, BYTES, SHUFFLED, ANSWERS, m[:2]), r"\(3, 4, 48\)"),
        (lambda m: heads.indirect_effects(MODEL, BYTES, SHUFFLED, ANSWERS, m / 0), "finite means"),
        (lambda m: heads.indirect_effects(MODEL, BYTES, SHUFFLED, ANSWERS, m.numpy()), "got ndarray"),
        (lambda m: heads.indirect_effects(MODEL, BYTES, SHUFFLED, "xq!", m), "got 'xq!'"),
        (lambda m: heads.indirect_effects(MODEL, BYTES, SHUFFLED, ANSWERS, m, batch_size=0), "batch size"),
        (lambda m: heads.mean_writes(MODEL, BYTES, CLEAN, batch_size=-1), "batch size"),
        (lambda m: heads.top_heads([torch.zeros(2, 3, 4)]), "tensors of effects"),
        (lambda m: heads.top_heads(torch.zeros(2, 3, 4), 10), "k=10 by its name"),
        (lambda m: heads.top_heads(torch.zeros(2, 3, 4), k=2.5), "whole number"),
        (lambda m: heads.function_vector(MODEL, BYTES, CLEAN, [(1, 0)], ("head", 1)), "site of the stream"),
        (lambda m: heads.top_heads(torch.zeros(2, 3, 4), k=13), "from 1 to 12"),
        (lambda m: heads.top_heads(torch.zeros(2, 3, 4), torch.zeros(2, 3, 5)), "one model"),
        (lambda m: heads.top_heads(torch.full((2, 3, 4), torch.nan), k=1), "NaN"),
        (lambda m: heads.function_vector(MODEL, BYTES, CLEAN, [], ("pre", 1)), "different heads"),
        (lambda m: heads.function_vector(MODEL, BYTES, CLEAN, [(1, 1), (1, 1)], ("pre", 1)), "different heads"),
        (lambda m: heads.function_vector(MODEL, BYTES, CLEAN, [(0.9, 1.7)], ("pre", 1)), r"got \[\(0.9, 1.7\)\]"),
        (lambda m: heads.function_vector(MODEL, BYTES, CLEAN, [(3, 0)], ("pre", 1)), "3 layers of 4"),
        (lambda m: heads.function_vector(MODEL, BYTES, CLEAN, [3, 0], ("pre", 1)), "3 layers of 4"),
        (lambda m: heads.function_vector(MODEL, BYTES, CLEAN, [(1, 0)], ("pre", 4)), "expected a site"),
    ],
)
def test_wrong_calls_say_what_was_expected(call: Any, message: str, means: Tensor) -> None:
    with pytest.raises(ValueError, match=message):
        call(means)


def test_in_bfloat16_probabilities_are_no_coarser_than_the_stream() -> None:
    """A logit of 20 in bfloat16 is a multiple of 1/8: with 16 bits an effect is what the stream says it is."""
    model = copy.deepcopy(MODEL).bfloat16()
    x = torch.randn(1, 3, model.config.width, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.no_grad():
        model.head.weight.mul_(200)  # logits of tens
        exact = model.ln_f(x).double() @ model.head.weight.double().T
        found = logits32(model, x)
    assert exact.abs().max() > 20
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(
        heads._probability(model, x, [7]), exact.softmax(-1)[..., 7].float(), rtol=1e-3, atol=1e-6
    )


def test_a_hook_on_a_block_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    model = copy.deepcopy(MODEL)
    model.blocks[1].register_forward_hook(lambda _, args, out: 0 * out)
    means = torch.zeros(LAYERS, HEADS, 48)
    with pytest.raises(ValueError, match="without hooks"):
        heads.indirect_effects(model, BYTES, SHUFFLED, ANSWERS, means, path=tmp_path / "effects.safetensors")
    assert not any(tmp_path.iterdir())


def test_answers_that_lack_their_space_are_told_and_prompts_that_end_in_one() -> None:
    means = torch.zeros(LAYERS, HEADS, MODEL.config.width)

    def told(prompts: list[str]) -> list[str]:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            heads.indirect_effects(MODEL, BYTES, prompts, ["x", "!", "y"], means)
        return [str(one.message) for one in seen]

    (said,) = told(["hot: up, cold:", "a", "in: u:"])
    assert (
        said == "most answers follow their prompts without a space, as in 'hot: up, cold:x'; write it where it belongs"
    )
    (said,) = told(["hot: up, cold: ", "a", "in: u: "])
    assert said.startswith("2 of 3 texts end in a space")
    assert told(["hot: up, cold:", "a", "in: u(("]) == []
