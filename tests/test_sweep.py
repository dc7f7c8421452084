"""Sweeps: the numbers of the plain loop, whatever the method, the site, the positions and the batch; continued, shared among processes."""

import copy
import dataclasses
import importlib
import json
import math
import os
import subprocess
import sys
import threading
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
from reference import both, fused, random_ids, random_tensor, residual_sites

from ministeer import interventions as by
from ministeer import metrics
from ministeer.model import Block, Transformer
from ministeer.prompts import pad
from ministeer.provenance import Provenance
from ministeer.steer import Steer, resolve
from ministeer.sweep import sweep
from ministeer.variants import above
from ministeer.vectors import SteeringVector

sweep_file = importlib.import_module("ministeer.sweep")  # the package gives the function that name

BOTH = both(seed=1)
MODEL, THEIRS = BOTH["gpt2"]
BEGINNING = [3, 1, 4, 1, 5, 9, 2, 6]
PROMPTS = [[*BEGINNING, 5], [7, 8], [*BEGINNING, 3, 5], [7, 2, 4], [*BEGINNING, 8, 9, 7, 9], [*BEGINNING, 3, 2]]
ANSWERS = [[[1], [2, 3]], [[4]], [[5, 6, 7], [5, 6], [8]], [[9]], [[1, 2], [3]], [[4, 4]]]
COEFFS = [-2.0, 0.5, 3.0]
WORKER = Path(__file__).parent / "sweep_worker.py"


@pytest.fixture(scope="module")
def model(architecture) -> Transformer:
    """In float64, so that to rounding means to rounding."""
    return copy.deepcopy(MODEL).double()


def direction(seed: int) -> torch.Tensor:
    return random_tensor(16, seed=seed, scale=1.0)


def first_two(logits: torch.Tensor, i: int) -> torch.Tensor:
    return logits[:, :2] * (i + 1)


def naive(model, prompts, score, vectors, sites, coeffs, where) -> list:
    """The loop that a sweep stands for: a whole forward pass for each cell and text, coefficients as rows of one batch."""
    found = []
    for vector in vectors.values():
        for site in sites:
            by_prompt = []
            for i, prompt in enumerate(prompts):

                def logits(ids, length, steer):  # of every coefficient, one per row
                    rows, positions = pad([ids] * len(coeffs))
                    return model(rows, resolve(model, steer, [ids[:length]] * len(coeffs), 9).adds(positions)).float()

                steer = Steer(vector, site, list(coeffs), where=where)
                if callable(score):
                    by_prompt.append(score(logits(prompt, len(prompt), steer)[:, -1], i).tolist())
                    continue
                sums = []
                for answer in score[i]:
                    read = logits([*prompt, *answer[:-1]], len(prompt), steer)[:, len(prompt) - 1 :].log_softmax(-1)
                    sums.append(read[:, range(len(answer)), answer].sum(-1).tolist())
                by_prompt.append(list(zip(*sums, strict=True)))
            found += [some[n] for n in range(len(coeffs)) for some in by_prompt]
    return found


def close(rows, expected) -> None:
    assert len(rows) == len(expected)
    for row, value in zip(rows, expected, strict=True):
        torch.testing.assert_close(torch.tensor(row["score"]), torch.tensor(value), rtol=1e-5, atol=1e-5, msg=str(row))


@pytest.fixture
def ran(monkeypatch):
    """A function: watch a block's MLP, and get the list of how many tokens each call runs through it."""

    def watch(layer: int) -> list[int]:
        counts: list[int] = []
        run = Block.feed_forward

        def counted(block, x, sites=None):
            if block.layer == layer:
                counts.append(x[..., 0].numel())
            return run(block, x, sites)

        monkeypatch.setattr(Block, "feed_forward", counted)
        return counts

    return watch


METHODS = {
    "a tensor": direction(1),
    "project out": by.project_out(direction(2)),
    "reflect": by.reflect(direction(3)),
    "relative": by.relative(direction(4)),
    "keep norm": by.keep_norm(direction(5)),
    "rotate": by.rotate(direction(6), direction(7)),
    "substitute": by.substitute(direction(8)),
    "clamp": by.clamp(direction(9)),
}


def heard(where):
    """The sites at which a vector that is added there reaches a logit that is read: after the last attention not all do."""
    return residual_sites(3) if isinstance(where, str) else residual_sites(3)[:-2]


@pytest.mark.parametrize("where", ["all", "prompt", "last", [0], [1], [0, 1]])
@pytest.mark.parametrize("score", [first_two, ANSWERS], ids=["logits", "answers"])
def test_a_sweep_is_the_loop_on_every_method_and_site(model, where, score):
    sites, coeffs = heard(where), COEFFS[:2]
    rows = sweep(model, PROMPTS, score, METHODS, sites, coeffs, where=where)
    close(rows, naive(model, PROMPTS, score, METHODS, sites, coeffs, where))


def test_prompts_of_any_lengths_come_together_where_only_late_tokens_are_steered(model, ran):
    """Padding then costs one reading, and a batch as many passes as there are sites."""
    counts = ran(1)
    prompts = [random_ids(model, 1, n, seed=n)[0].tolist() for n in range(4, 12)]
    sweep(model, prompts, first_two, {"v": direction(1)}, [0, 1, 2], COEFFS, where="last")
    assert len(counts) == 1 + 3 - 1, "one reading, and of sites up to block 1 one pass each"


@pytest.mark.parametrize("where", ["generated", "last", [1]])
def test_answers_are_steered_behind_their_prompts(model, where):
    """Several that begin alike, several of one token, and where only they are steered."""
    answers = [[[1, 2], [1, 2, 3], [1, 2, 4], [5, 6]] for _ in PROMPTS]
    some = {name: METHODS[name] for name in ("a tensor", "project out")}
    rows = sweep(model, PROMPTS, answers, some, heard(where), COEFFS, where=where)
    close(rows, naive(model, PROMPTS, answers, some, heard(where), COEFFS, where))


@pytest.mark.parametrize("where", ["all", "generated", "last", [0], [4]])
def test_a_long_prompt_is_run_without_its_answers_and_needs_no_mask(model, monkeypatch, where):
    """One prompt a batch: the numbers are the same, and no mask has a row for each of its tokens."""
    monkeypatch.setattr(importlib.import_module("ministeer.batches"), "LONG", 4)
    rows, attend = [], torch.nn.functional.scaled_dot_product_attention

    def watched(q, k, v, mask=None, **how):
        rows.append(0 if mask is None else mask.shape[-2])
        return attend(q, k, v, mask, **how)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    some, answers = {name: METHODS[name] for name in ("a tensor", "project out")}, [[[1, 2], [1, 2, 3], [5, 6]]]
    for prompt in (PROMPTS[0], PROMPTS[4]):
        rows.clear()
        found = sweep(model, [prompt], answers, some, heard(where), COEFFS[:1], where=where)
        assert max(rows) < len(prompt)
        close(found, naive(model, [prompt], answers, some, heard(where), COEFFS[:1], where))


def test_answers_that_begin_as_prompts_do_are_told(model):
    """Made with `tok.prompt`, they are scored behind a second beginning of a text."""
    prompts, vectors = [[0, 5, 6], [0, 7]], {"v": random_tensor(model.config.width)}
    with pytest.warns(UserWarning, match="every candidate answer begins with token 0, as every prompt does") as said:
        sweep(model, prompts, [[[0, 3], [0, 4]]] * 2, vectors, [1], [1.0])
    assert said[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sweep(model, prompts, [[[0, 3], [4]]] * 2, vectors, [1], [1.0])
        sweep(model, prompts, [[[0], [0]]] * 2, vectors, [1], [1.0])
        sweep(model, [[0, 5], [1, 7]], [[[0, 3], [0, 4]]] * 2, vectors, [1], [1.0])


def test_answers_of_one_token_cost_what_logits_do(model, ran):
    counts, spent = ran(1), []
    for score in (first_two, [[[1], [2], [3]] for _ in PROMPTS]):
        counts.clear()
        sweep(model, PROMPTS, score, {"v": direction(1)}, [0, 1], COEFFS)
        spent.append(sum(counts))
    assert spent[0] == spent[1] > 0


@pytest.mark.parametrize("where", ["all", "last"])
def test_of_answers_each_beginning_is_run_once_and_the_prompt_with_none_of_them(model, ran, where):
    counts = ran(1)
    prompt, answers = [*BEGINNING, 1], [[5, 6, 7], [5, 6, 8], [5, 9], [2, 3], [4]]
    sweep(model, [prompt], [answers], {"v": direction(1)}, [1], COEFFS, where=where)
    tree = len(["5", "5 6", "2"])
    variants = len(COEFFS) * (tree + (len(prompt) if where == "all" else 1))
    assert sum(counts) == variants + (0 if where == "all" else len(prompt) + tree)


def test_in_bfloat16_scores_are_as_near_to_float32_as_the_stream_is(monkeypatch):
    monkeypatch.setattr("ministeer.model.short", fused)  # one attention for a lone prompt and for many
    half, whole = (copy.deepcopy(MODEL).to(dtype) for dtype in (torch.bfloat16, torch.float32))
    rows = [sweep(m, PROMPTS, first_two, {"v": direction(1)}, range(4), COEFFS) for m in (half, whole)]
    a, b = (torch.tensor([row["score"] for row in some]) for some in rows)
    plain = torch.tensor(
        naive(half, PROMPTS, first_two, {"v": direction(1)}, [("pre", i) for i in range(4)], COEFFS, "all")
    )
    assert (a - b).norm() < (plain - b).norm(), "the last product is in float32"
    assert (a != a.bfloat16()).double().mean() > 0.9


def test_a_vector_over_the_first_positions(model):
    vectors = {"two": random_tensor(2, 16, seed=1, scale=1.0), "three": random_tensor(3, 16, seed=2, scale=1.0)}
    prompts = [p for p in PROMPTS if len(p) >= 3]
    rows = sweep(model, prompts, first_two, vectors, range(3), COEFFS, where="front")
    close(rows, naive(model, prompts, first_two, vectors, [("pre", i) for i in range(3)], COEFFS, "front"))


def test_a_steering_vector_gives_its_tensor_at_each_site(model):
    tensors = {site: direction(i) for i, site in enumerate(residual_sites(3))}
    vectors = {"all sites": SteeringVector(tensors, Provenance("m" * 16, "none", "0" * 16, "last", "float64"))}
    rows = sweep(model, PROMPTS, first_two, vectors, list(tensors), COEFFS)
    close(rows, naive(model, PROMPTS, first_two, vectors, list(tensors), COEFFS, "all"))


@pytest.mark.parametrize("where", ["all", "last"])
@pytest.mark.parametrize("score", [first_two, ANSWERS], ids=["logits", "answers"])
def test_whatever_the_memory_the_numbers_are_the_same(model, where, score):
    wide = sweep(model, PROMPTS, score, METHODS, range(4), COEFFS, where=where)
    narrow = sweep(model, PROMPTS, score, METHODS, range(4), COEFFS, where=where, memory=1)
    assert [row["key"] for row in wide] == [row["key"] for row in narrow]
    close(narrow, [row["score"] for row in wide])


def test_where_memory_runs_out_fewer_variants_are_run_at_a_time(model):
    seen = []

    def greedy(x, coeff=1.0, /):
        seen.append(len(x))
        if len(x) > 4:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return coeff * torch.ones_like(x)

    prompts = [random_ids(model, 1, 6, seed=i)[0].tolist() for i in range(2)]
    rows = sweep(model, prompts, first_two, {"greedy": greedy}, [1], [float(c) for c in range(9)])
    close(rows, naive(model, prompts, first_two, {"ones": torch.ones(16)}, [("pre", 1)], range(9), "all"))
    assert max(seen) == 18 and 4 in seen


@pytest.mark.parametrize("score", [first_two, [[[1], [2, 3], [2, 4]]] * 3])
def test_where_memory_runs_out_while_prompts_are_read_fewer_are_read_at_a_time(model, score, monkeypatch):
    """Answers of one prompt stay together."""
    seen: list[int] = []

    def greedy(self, model, texts, *rest, begin=sweep_file._Run.__init__):
        seen.append(len({text.prompt for text in texts}))
        if seen[-1] > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        begin(self, model, texts, *rest)

    prompts = [[*BEGINNING, i] for i in range(3)]
    whole = sweep(model, prompts, score, {"v": direction(1)}, [1, 2], COEFFS)
    monkeypatch.setattr(sweep_file._Run, "__init__", greedy)
    rows = sweep(model, prompts, score, {"v": direction(1)}, [1, 2], COEFFS)
    assert [row["key"] for row in rows] == [row["key"] for row in whole]
    for row, other in zip(rows, whole, strict=True):
        torch.testing.assert_close(torch.tensor(row["score"]), torch.tensor(other["score"]), rtol=1e-4, atol=1e-4)
    assert max(seen) > 1 and seen.count(1) == 3


def test_no_token_is_run_twice_that_need_not_be(model, ran):
    counts = ran(2)  # of the last block only what is read
    sweep(model, PROMPTS, first_two, {"v": direction(1)}, [0, 1, 2], COEFFS, where="all")
    assert sum(counts) == 3 * 3 * len(PROMPTS), "the unsteered reading ends below the highest site"
    counts.clear()
    sweep(model, [[*BEGINNING, i] for i in range(6)], first_two, {"v": direction(1)}, [0, 1, 2], COEFFS, where="last")
    assert sum(counts) == len(BEGINNING) + 6 + 3 * 3 * 6, "the prompts are read once, their beginning for all"


def test_a_beginning_that_prompts_share_is_run_once_a_variant(model, ran):
    counts = ran(1)
    sweep(model, [[*BEGINNING, i, i] for i in range(6)], first_two, {"v": direction(1)}, [1], COEFFS, where="all")
    assert sum(counts) == 3 * (len(BEGINNING) + 6 * 2)


def test_a_sweep_that_was_cut_off_continues(model, tmp_path):
    path, later, calls = tmp_path / "deep" / "rows.jsonl", tmp_path / "later", []

    def score(logits, i):
        calls.extend([len(logits)] * (len(logits) > 1))  # the last row is scored once more, alone
        if len(calls) == 20 and not later.exists():
            raise KeyboardInterrupt
        return logits[:, 0]

    settings = (PROMPTS, score, {"v": direction(1), "f": METHODS["reflect"]}, range(4), COEFFS)
    with pytest.raises(KeyboardInterrupt):
        sweep(model, *settings, path=path)
    kept = (tmp_path / "deep" / "rows.jsonl.part-0").read_text()
    assert 0 < kept.count("\n") < 6 * 2 * 4 * 3
    (tmp_path / "deep" / "rows.jsonl.part-0").write_text(kept + '{"key": "cut o')
    before = sum(calls)
    later.touch()
    calls.clear()  # what a score holds is a part of its key
    rows = sweep(model, *settings, path=path)
    assert before + sum(calls) - 6 <= len(rows) + 6, "what was in the file was not scored again"
    assert [json.loads(line) for line in path.read_text().splitlines()] == rows
    assert list(path.parent.iterdir()) == [path]
    calls.clear()
    assert sweep(model, *settings, path=path) == rows and not calls


def test_rows_of_another_version_of_this_package_are_measured_again(model, tmp_path, monkeypatch):
    path, calls = tmp_path / "rows.jsonl", []

    def score(logits, i):
        calls.append(i)
        return logits[:, 0]

    def run():
        calls.clear()
        sweep(model, [[1, 2]], score, {"v": direction(1)}, [1], [1.0], path=path)
        return len(calls)

    assert run() == 1 and run() == 0
    steering = importlib.import_module("ministeer.steer")
    now = steering.heard_alone
    monkeypatch.setattr(steering, "heard_alone", lambda model, site: now(model, site))
    assert run() == 1 and run() == 0
    monkeypatch.undo()
    assert run() == 0


def test_what_changed_is_measured_again(model, tmp_path):
    path, calls = tmp_path / "rows.jsonl", []
    other_config, other_weights, other_part = (copy.deepcopy(model) for _ in range(3))
    number = next(name for name, value in dataclasses.asdict(model.config).items() if isinstance(value, float))
    other_config.config = dataclasses.replace(model.config, **{number: 0.5})  # an epsilon
    other_weights.ln_f.weight.data[0] *= 1 + 1e-9
    other_part.blocks[2].mlp = torch.nn.Identity()

    def scorer(token):
        def score(logits, i):
            calls.append(i)
            return logits[:, token]

        return score

    def run(m=model, vector=None, prompt=1, coeff=1.0, where="all", score=None):
        calls.clear()
        vector = direction(1) if vector is None else vector
        score = scorer(0) if score is None else score
        return sweep(m, [[1, 2, prompt]], score, {"v": vector}, [1], [coeff], where=where, path=path), len(calls)

    first, n = run()
    assert n == 1 and run() == (first, 0)
    cosine = partial(lambda logits, i, token: (calls.append(i), logits[:, token])[1], token=3)
    for changed in (
        {"vector": direction(2)},
        {"vector": by.project_out(direction(2))},
        {"vector": by.project_out(direction(3))},
        {"prompt": 2},
        {"coeff": 2.0},
        {"where": "last"},
        {"score": scorer(1)},
        {"score": cosine},
        {"m": MODEL},
        {"m": other_config},
        {"m": other_weights},
        {"m": other_part},
    ):
        assert run(**changed)[1] == 1 and run(**changed)[1] == 0, changed
    assert run() == (first, 0), "rows of other sweeps stay in the file"
    answers = sweep(model, [[1, 2, 1]], [[[1]]], {"v": direction(1)}, [1], [1.0], path=path)
    assert answers != sweep(model, [[1, 2, 1]], [[[2]]], {"v": direction(1)}, [1], [1.0], path=path)


def test_rows_of_products_of_another_type_are_others(model, tmp_path):
    """Under autocast the model is the same to the bit, and its logits are not."""
    settings = PROMPTS, first_two, {"v": direction(1)}, [1], [1.0]
    plain = sweep(model, *settings, path=tmp_path / "rows.jsonl")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = sweep(model, *settings, path=tmp_path / "rows.jsonl")
    assert not {row["key"] for row in plain} & {row["key"] for row in rough}
    assert [row["score"] for row in plain] != [row["score"] for row in rough]


@pytest.mark.parametrize("way", ["hook", "pre-hook", "forward", "on the model"])
def test_what_changes_a_whole_block_is_refused_since_sweeps_run_halves(model, tmp_path, way):
    changed, path = copy.deepcopy(model), tmp_path / "rows.jsonl"
    block = changed.blocks[2]
    if way == "forward":
        block.forward = lambda *args: args[0]
    else:
        part = changed if way == "on the model" else block
        (part.register_forward_pre_hook if way == "pre-hook" else part.register_forward_hook)(lambda *_: None)
    with pytest.raises(ValueError, match="without hooks .* remove it, or add at a site"):
        sweep(changed, PROMPTS, first_two, {"v": direction(1)}, [1], [1.0], path=path)
    with pytest.raises(ValueError, match="without hooks"):
        above(changed, torch.zeros(1, 1, 16).double(), ("pre", 3), None)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("change", ["swapped", "one twice", "one less"])
def test_blocks_out_of_their_order_are_refused(model, change):
    changed = copy.deepcopy(model)
    blocks = list(changed.blocks)
    changed.blocks = torch.nn.ModuleList(
        {"swapped": blocks[::-1], "one twice": [*blocks[:-1], blocks[0]], "one less": blocks[:-1]}[change]
    )
    for where in ("all", "last"):
        with pytest.raises(ValueError, match="expected blocks that say layer=0 to 2 in their order"):
            sweep(changed, PROMPTS, first_two, {"v": direction(1)}, [1], COEFFS, where=where)


@pytest.mark.parametrize("name", ["register_module_forward_hook", "register_module_forward_pre_hook"])
def test_a_hook_on_every_module_is_refused_too(model, name):
    handle = getattr(torch.nn.modules.module, name)(lambda *_: None)
    try:
        with pytest.raises(ValueError, match="without hooks .* got one on every module of torch"):
            sweep(model, PROMPTS, first_two, {"v": direction(1)}, [1], [1.0])
    finally:
        handle.remove()
    sweep(model, PROMPTS, first_two, {"v": direction(1)}, [1], [1.0])


@pytest.mark.parametrize("where", ["all", "last"])
def test_a_stream_that_overflows_is_told_with_its_cell_and_the_others_are_kept(model, tmp_path, where):
    """The add is finite; the stream's square, or the add in the model's dtype, is not."""
    path, vectors = tmp_path / "rows.jsonl", {"a": direction(1), "b": direction(2)}
    for dtype, far in (("float32", 1e30), ("float16", 1e9)):
        changed = copy.deepcopy(model).to(getattr(torch, dtype))
        with pytest.raises(ValueError, match=r"'a' at \('pre', 2\) with coefficient 1e\+(30|09): expected .*finite"):
            sweep(changed, PROMPTS, first_two, vectors, [("pre", 2)], [1.0, far], where=where, path=path)
        cells = sweep(changed, PROMPTS[:1], first_two, vectors, [("pre", 2)], [1.0], where=where)
        assert all(math.isfinite(value) for row in cells for value in row["score"])
    assert '"vector": "a"' in (tmp_path / "rows.jsonl.part-0").read_text()


@pytest.mark.once
@pytest.mark.parametrize("held", [threading.Lock(), (i for i in range(3)), torch.empty(2, device="meta")])
def test_a_score_whose_state_cannot_be_told_is_refused_if_its_rows_are_kept(model, tmp_path, held):
    def score(logits, i):
        return logits[:, 0] + 0 * len(str(held))

    settings = ([[1, 2]], score, {"v": direction(1)}, [1], [1.0])
    with pytest.raises(ValueError, match="whole state can be read.*no path") as error:
        sweep(model, *settings, path=tmp_path / "rows.jsonl")
    assert "\n" not in str(error.value) and not any(tmp_path.iterdir())
    assert len(sweep(model, *settings)) == 1


@pytest.mark.once
@pytest.mark.parametrize("text", ["my only line", "line one\nmy last line", '[{"a": 1}]\n', '{"a": 1}\n'])
def test_a_file_of_something_else_is_refused_and_left_alone(model, tmp_path, text):
    path = tmp_path / "a[1].jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match="expected a file that a sweep wrote"):
        sweep(model, PROMPTS, first_two, {"v": direction(1)}, [1], [1.0], path=path)
    assert path.read_text() == text and list(tmp_path.iterdir()) == [path]


@pytest.mark.once
def test_a_file_without_a_row_is_a_new_one_and_a_folder_is_none(model, tmp_path):
    path, settings = tmp_path / "rows.jsonl", (PROMPTS[:1], first_two, {"v": direction(1)}, [1], [1.0])
    path.touch()
    rows = sweep(model, *settings, path=path)
    assert [json.loads(line) for line in path.read_text().splitlines()] == rows
    with pytest.raises(ValueError, match="expected a file of rows, got a folder; name a file in it"):
        sweep(model, *settings, path=tmp_path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.once
@pytest.mark.parametrize(
    "change, said",
    [
        ({"prompts": []}, "one or more prompts"),
        ({"vectors": {}}, "one or more vectors"),
        ({"vectors": direction(1)}, "vectors by name"),
        ({"vectors": {"short": torch.ones(3)}}, "was the vector read from this model"),
        ({"vectors": {"v": direction(1), "short": torch.ones(3)}}, "was the vector read from this model"),
        ({"vectors": {1: direction(1)}}, "vectors by name"),
        ({"layers": [9]}, "expected a site"),
        ({"layers": [("post", 1)]}, "expected a site"),
        ({"coeffs": [1.0, 1.0]}, "some of them twice"),
        ({"coeffs": 1.0}, r"coeffs as a list, got 1.0; write \[1.0\]"),
        ({"layers": 1}, r"layers as a list, got 1; write \[1\]"),
        ({"where": "generated"}, "no position in a run of one new token"),
        ({"where": [5]}, "position"),
        ({"where": [0, 2]}, "position"),
        ({"vectors": {"v": torch.ones(3, 16)}, "where": "front"}, "at least 3 tokens"),
        ({"prompts": ["I think"]}, "rows of ids"),
        ({"prompts": [1, 2, 3]}, "rows of ids"),
        ({"prompts": [[1, 99]]}, "from 0 to 60"),
        ({"score": [[[1]]] * 5 + [[[99]]]}, "from 0 to 60"),
        ({"score": [[1, 2]] * 6}, "rows of ids"),
        ({"score": lambda logits, i: logits.sum()}, r"\(1,\) or \(1, K\), got \(\)"),
        ({"score": lambda logits, i: [1.0]}, "got list"),
        ({"score": lambda logits, i: logits[:, 0] * 1j}, r"real numbers .*complex64"),
        ({"memory": "1G"}, "a finite number of bytes, got '1G'"),
        ({"memory": float("inf")}, "a finite number of bytes, got inf"),
        ({"memory": float("nan")}, "a finite number of bytes, got nan"),
        ({"score": ANSWERS[:2]}, "candidate answers for each of 6 prompts, got 2"),
        ({"score": [[] for _ in PROMPTS]}, "rows of ids"),
        ({"vectors": {"inf": torch.full((16,), 3e38)}, "coeffs": [100.0]}, "finite"),
        ({"prompts": torch.ones(2, 3)}, "rows of ids"),
        ({"coeffs": [1.0, float("nan")]}, "coefficient"),
        ({"prompts": [[1], [1] * 25]}, "context of 24 tokens, got 25"),
        ({"prompts": [[1, 2] * 12] * 6, "score": [[[1, 2]]] * 6}, "context of 24 tokens, got 25"),
        ({"score": None}, "a function of logits or lists of candidate answers"),
    ],
)
def test_wrong_input_is_one_sentence(model, change, said):
    settings = {"prompts": PROMPTS, "score": first_two, "vectors": {"v": direction(1)}, "layers": [1], "coeffs": [1.0]}
    with pytest.raises(ValueError, match=said) as error:
        sweep(model, **settings | change)
    assert "\n" not in str(error.value)


def launch(folder: Path, processes: int, die: bool = False) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = os.environ | {"DIE": str(int(die)), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, str(WORKER), str(folder)], check=False, env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.mark.once
def test_two_processes_find_what_one_does_and_a_lost_one_is_made_good(tmp_path):
    alone, both, lost = (tmp_path / name / "rows.jsonl" for name in ("alone", "both", "lost"))
    assert launch(alone.parent, 1).returncode == 0
    assert launch(both.parent, 2).returncode == 0
    assert both.read_bytes() == alone.read_bytes()
    assert launch(lost.parent, 2, die=True).returncode != 0
    assert not lost.exists() and list(lost.parent.glob("rows.jsonl.part-*"))
    again = launch(lost.parent, 2)
    assert again.returncode == 0, again.stderr
    assert lost.read_bytes() == alone.read_bytes()
    scored = [int((folder / f"calls.{rank}").read_text()) for folder, rank in ((both.parent, 0), (both.parent, 1))]
    assert min(scored) > 0.3 * sum(scored), "both had their share"
    assert int((lost.parent / "calls.0").read_text()) + int((lost.parent / "calls.1").read_text()) < sum(scored)


@pytest.mark.once
def test_a_score_over_the_answers_of_all_prompts_is_refused_where_variants_are_as_many():
    """With as many variants as prompts the shapes fit, and each variant would be scored by another prompt's answer."""
    positive, negative = [1, 2, 3], [4, 5, 6]
    given = (MODEL, PROMPTS[:3])
    rest = ({"v": direction(1)}, [1], COEFFS)
    with pytest.raises(ValueError, match="a positive and a negative token for each of 1 rows, got 3 and 3"):
        sweep(*given, lambda logits, i: metrics.logit_difference(logits, positive, negative), *rest)
    with pytest.raises(ValueError, match=r"tells each row of logits by itself.* write answers\[i\] for all rows"):
        sweep(*given, lambda logits, i: logits[range(len(logits)), positive[: len(logits)]], *rest)
    with pytest.raises(ValueError, match="tells each row of logits by itself"):
        sweep(*given, lambda logits, i: logits[:, 0] - logits[:, 0].mean(), *rest)
    rows = sweep(*given, lambda logits, i: logits[:, positive[i]] - logits[:, negative[i]], *rest)
    wanted = sweep(*given, [[[a], [b]] for a, b in zip(positive, negative, strict=True)], *rest)
    for row, answers in zip(rows, wanted, strict=True):
        assert row["score"] == pytest.approx(answers["score"][0] - answers["score"][1], abs=1e-4)


def test_an_unembedding_of_ones_own_is_refused() -> None:
    changed = copy.deepcopy(MODEL)
    changed.unembed = lambda x: x  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="the unembedding that the models here have, got another one"):
        sweep(changed, PROMPTS, first_two, {"v": direction(1)}, [1], [1.0])
