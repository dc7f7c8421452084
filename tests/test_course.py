"""docs/course: every lesson runs with its exercises unsolved and solved, and each check knows a wrong answer."""

import ast
import re
import sys
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")

COURSE = Path(__file__).parents[1] / "docs" / "course"
LESSONS = sorted(COURSE.glob("[1-9]_*.py"))
sys.path.insert(0, str(COURSE))
import check
import solutions

from ministeer import metrics

ANSWERS = {name: f for name, f in vars(solutions).items() if isinstance(f, FunctionType)}


def run(lesson: Path, answers: dict[str, Any]) -> None:
    """A lesson as a script, with these functions in the place of its own of the same name."""
    tree = ast.parse(lesson.read_text(encoding="utf-8"), str(lesson))
    tree.body = [node for node in tree.body if not (isinstance(node, ast.FunctionDef) and node.name in answers)]
    exec(compile(tree, str(lesson), "exec"), {"__name__": "__main__", **answers})  # noqa: S102


def exercises(lesson: Path) -> list[str]:
    return re.findall(r"^# %% exercise \d\.\d\ndef (\w+)", lesson.read_text(encoding="utf-8"), re.MULTILINE)


def all_in_one_row(written: Any) -> Any:
    """What all blocks add in the place of what the first one adds."""
    return torch.cat([written.sum(0, keepdim=True), torch.zeros_like(written[1:])])


def cut(model: Any, tok: Any, plus: str, minus: str, i: int) -> Any:
    """The difference where both texts have a token, instead of the shorter one lengthened."""
    one, other = (model.stream(torch.tensor([tok.prompt(text)]), depth=i)[0] for text in (plus, minus))
    shorter = min(len(one), len(other))
    return one[:shorter] - other[:shorter]


def uncentred(x: Any, length: float, seed: int) -> Any:
    """A random mix of streams, instead of their deviations from the mean."""
    mix = torch.randn(len(x), generator=torch.Generator().manual_seed(seed)) @ x
    return mix * length / mix.norm()


def taped(model: Any, ids: Any, site: Any) -> Any:
    tape = [site]
    model(ids, tape=tape)
    return tape[0]


def itself(model: Any) -> Any:
    """The model behind one that refuses adds."""
    return model.embed.__self__


def one_of(x: Any, length: float, seed: int) -> Any:
    """One deviation, drawn by the seed, instead of a mix of all."""
    away = (x - x.mean(0))[seed % len(x)]
    return length * away / away.norm()


def last_only(model: Any, ids: Any, v: Any, site: Any, c: float) -> Any:
    """Logits with c * v added to the last token at a site."""
    added = torch.zeros(*ids.shape, len(v))
    added[:, -1] = c * v
    return model(ids, adds={site: added})


def too_narrow(values: Any, groups: list[Any], seed: int) -> tuple[float, float, float]:
    """An interval as wide as that over items, around the mean over groups."""
    mean = solutions.interval_over(values, groups, seed)[0]
    _, low, high = metrics.bootstrap(values, seed=seed)
    return mean, mean - (high - low) / 2, mean + (high - low) / 2


def pooled(values: Any, groups: list[Any], seed: int) -> tuple[float, float, float]:
    """An interval over groups in which a drawn group counts as often as it has items."""
    labels, rng = np.array(groups), np.random.default_rng(seed)
    parts = [values[labels == label] for label in dict.fromkeys(groups)]
    means = [np.concatenate([parts[i] for i in rng.integers(0, len(parts), len(parts))]).mean() for _ in range(500)]
    low, high = np.quantile(means, [0.025, 0.975])
    mean = solutions.interval_over(values, groups, seed)[0]
    return mean, min(low, mean - 1e-6), max(high, mean + 1e-6)


def ninety(values: Any, groups: list[Any], seed: int) -> tuple[float, float, float]:
    mean, low, high = solutions.interval_over(values, groups, seed)
    return mean, mean - (mean - low) * 1.645 / 1.96, mean + (high - mean) * 1.645 / 1.96


def by_count(inside: list[float], outside: list[float]) -> float:
    """The threshold that tells the most apart, however many there are of each."""

    def told(t: float) -> int:
        return sum(c > t for c in inside) + sum(c <= t for c in outside)

    return max([min(inside) - 1, *inside, *outside], key=told)


def unless_wide(low: float, high: float, threshold: float, rank: float) -> str:
    """A rule under which an interval that holds the threshold is never more than inconclusive."""
    wide = low <= threshold < high
    return "inconclusive" if wide else solutions.verdict(low, high, threshold, rank)


def unnormalised(steered: Any, plain: Any, options: Any) -> Any:
    """The options' part of the divergence over the vocabulary."""
    p, q = (logits.log_softmax(-1).gather(1, options) for logits in (plain, steered))
    return (p.exp() * (p - q)).sum(-1)


def one_after_the_other(x: Any, v: Any, w: Any) -> Any:
    """Both directions removed as if they were at right angles."""
    for u in (v / v.norm(), w / w.norm()):
        x = x - (x @ u)[:, None] * u
    return x


def strict(low: float, high: float, threshold: float, rank: float) -> str:
    """The verdict of a rule under which a rank of exactly 0.05 is too much."""
    return solutions.verdict(low, high, threshold, 1.0 if rank == 0.05 else rank)


def unranked(found: Any, random: list[float], threshold: float) -> str:
    """A verdict for which the vector itself is not among those that are ranked."""
    mean, low, high = metrics.bootstrap(found, seed=0)
    return solutions.verdict(low, high, threshold, sum(r >= mean for r in random) / len(random))


@pytest.fixture(autouse=True)
def no_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    monkeypatch.setattr(check, "tests", {})


# one or more wrong answers to each exercise, and a word of what the check then says
WRONG = {
    "mid_stream": [
        (lambda model, ids, i: model.stream(ids, depth=i), "no part of block"),
        (lambda model, ids, i: model.stream(ids, depth=i + 1), "all of block"),
        (lambda model, ids, i: solutions.mid_stream(model, ids, (i + 1) % model.config.n_layer), "how many blocks"),
        (lambda model, ids, i: model.embed(ids)[0], "shape"),
        (lambda model, ids, i: taped(model, ids, ("mid", i)), "without `tape`"),
        (lambda model, ids, i: solutions.mid_stream(model, ids, i) - model.stream(ids, depth=i), "still hold"),
    ],
    "writes": [
        (lambda model, ids: torch.zeros(model.config.n_layer, model.config.width), "minus the stream before"),
        (lambda model, ids: torch.stack([b(model.embed(ids))[0, -1] for b in model.blocks]), "minus the stream before"),
        (lambda model, ids: [*solutions.writes(model, ids)], "expected a tensor"),
        (lambda model, ids: all_in_one_row(solutions.writes(model, ids)), "rows 0 to 0"),
    ],
    "settled": [
        (lambda said: said.index(said[-1]), "does not say the same"),
        (lambda said: len(said) - 1, "already"),
    ],
    "difference": [
        (lambda model, tok, plus, minus, i: solutions.difference(model, tok, minus, plus, i), "the other way"),
        (lambda model, tok, plus, minus, i: solutions.difference(model, tok, plus, minus, i)[1:], "tok.prompt"),
        (cut, "shorter text"),
        (lambda model, tok, plus, minus, i: solutions.difference(model, tok, plus, minus, i + 1), "another vector"),
    ],
    "steered_logits": [
        (lambda model, ids, v, i, c: model(ids), "unsteered"),
        (lambda model, ids, v, i, c: itself(model)(ids, adds={("mid", i): c * v}), "every token"),
        (lambda model, ids, v, i, c: last_only(itself(model), ids, v, ("pre", i), c), "before the attention"),
        (lambda model, ids, v, i, c: last_only(itself(model), ids, v, ("pre", i + 1), c), "after the MLP"),
        (lambda model, ids, v, i, c: solutions.steered_logits(model, ids, v, i + 1, c), "in block"),
        (lambda model, ids, v, i, c: solutions.steered_logits(model, ids, v, i, 1.0), "not c * v"),
        (lambda model, ids, v, i, c: last_only(model, ids, v, ("mid", i), c), "without `adds`"),
    ],
    "coefficient_for": [
        (lambda v, x, share: share * x.norm(dim=-1).mean(), "your coefficient makes it"),
        (lambda v, x, share: share, "your coefficient makes it"),
    ],
    "split_half": [
        (lambda x: torch.cosine_similarity(x[:, 0].mean(0), x[:, 1].mean(0), dim=0), "expected"),
        (lambda x: torch.cosine_similarity(x[::2, 0].mean(0), x[1::2, 0].mean(0), dim=0), "expected"),
        (lambda x: solutions.split_half(x[x.shape[0] // 2 :]), "expected"),
        (lambda x: (x[::2, 0] - x[::2, 1]).mean(0) @ (x[1::2, 0] - x[1::2, 1]).mean(0), "expected"),
    ],
    "random_within": [
        (lambda x, length, seed: 3 * solutions.random_within(x, length, seed), "asked for a length"),
        (lambda x, length, seed: solutions.random_within(x, length, 0), "another seed"),
        (lambda x, length, seed: uncentred(x, length, seed), "was the mean subtracted"),
        (lambda x, length, seed: one_of(x, length, seed), "one of the deviations"),
    ],
    "rank": [
        (lambda effect, random: sum(r >= effect for r in random) / len(random), "expected 0.25"),
        (lambda effect, random: (1 + sum(r > effect for r in random)) / (1 + len(random)), "expected 0.75"),
    ],
    "layer_average": [
        (lambda mine, others: mine.mean(0) - torch.cat(others).mean(0), "mean of the means"),
        (lambda mine, others: mine.mean(0), "minus the mean of the others"),
    ],
    "strongest": [
        (lambda effects, k: solutions.strongest(-effects, k), "expected"),
        (lambda effects, k: solutions.strongest(effects, k)[:1], "asked for 5"),
        (lambda effects, k: [i for head in solutions.strongest(effects, k) for i in head], "a list of (layer, head)"),
        (lambda effects, k: solutions.strongest(effects, k)[::-1], "expected"),
        (lambda effects, k: solutions.strongest(effects.abs(), k), "expected"),
        (lambda effects, k: solutions.strongest(effects.amax(0, keepdim=True), k), "expected"),
    ],
    "patched": [
        (lambda model, ids, layer, head, mean: model(ids)[0, -1], "nothing was changed"),
        (lambda model, ids, layer, head, mean: model(ids, adds={("mid", layer): mean})[0, -1], "yours changes it"),
        (lambda model, ids, layer, head, mean: last_only(model, ids, mean, ("mid", layer), 1)[0, -1], "not taken away"),
    ],
    "slope": [
        (lambda x, y: y.mean(1), "does not move"),
        (lambda x, y: (y[:, -1] - y[:, 0]) / (x[-1] - x[0]), "the first and the last"),
    ],
    "interval_over": [
        (lambda values, groups, seed: metrics.bootstrap(values, seed=seed), "mean of the groups"),
        (lambda values, groups, seed: too_narrow(values, groups, seed), "is the group the unit"),
        (lambda values, groups, seed: pooled(values, groups, seed), "count once"),
        (lambda values, groups, seed: ninety(values, groups, seed), "95 %"),
    ],
    "at_most": [
        (lambda n, level=0.95: 1 / n, "asked for 5%"),
        (lambda n, level=0.95: 3 / n, "asked for 5%"),
    ],
    "divergence": [
        (lambda steered, plain, options: metrics.kl(steered, plain), "whole vocabulary"),
        (lambda steered, plain, options: solutions.divergence(plain, steered, options), "KL(steered || plain)"),
        (lambda steered, plain, options: unnormalised(steered, plain, options), "do not sum to 1"),
    ],
    "without": [
        (lambda x, v, w: one_after_the_other(x, v, w), "bring some of the other back"),
        (lambda x, v, w: x - (x @ v)[:, None] * v - (x @ w)[:, None] * w, "does the length matter"),
        (lambda x, v, w: 0 * x, "along neither"),
    ],
    "threshold": [
        (lambda inside, outside: 0.0, "another threshold"),
        (lambda inside, outside: (sum(inside) + sum(outside)) / len(inside + outside), "another threshold"),
        (lambda inside, outside: by_count(inside, outside), "another threshold"),
    ],
    "verdict": [
        (lambda low, high, threshold, rank: "supported" if low > threshold else "not supported", "expected"),
        (lambda low, high, threshold, rank: solutions.verdict(low, high, threshold, 0.0), "expected 'inconclusive'"),
        (lambda low, high, threshold, rank: solutions.verdict(low, high, threshold, rank * 1.001), "0.25, 0.01)"),
        (lambda low, high, threshold, rank: strict(low, high, threshold, rank), "0.25, 0.05)"),
        (lambda low, high, threshold, rank: unless_wide(low, high, threshold, rank), "0.25, 0.2)"),
    ],
    "my_pairs": [
        (lambda: solutions.my_pairs()[:3], "eight pairs"),
        (lambda: [(plus, minus + " not") for plus, minus in solutions.my_pairs()], "end differently"),
        (lambda: [pair[:: (-1) ** i] for i, pair in enumerate(solutions.my_pairs())], "no site"),
    ],
    "judged": [
        (lambda found, random, threshold: "supported" if found.mean() > threshold else "not supported", "holds the"),
        (lambda found, random, threshold: solutions.judged(found, random, float(found.mean()) / 2), "threshold of 2"),
        (lambda found, random, threshold: unranked(found, random, threshold), "ranked too"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.stem)
def test_it_runs_unsolved_and_says_so(lesson: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(lesson, {})
    said = capsys.readouterr().out
    assert 2 <= len(exercises(lesson)) <= 3
    for name in exercises(lesson):
        assert f"{name}: not yet: it returns nothing so far" in said
    assert "a figure was drawn" in said


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.stem)
def test_the_solutions_are_right_and_wrong_answers_are_not(lesson: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = exercises(lesson)
    run(lesson, {name: ANSWERS[name] for name in names})
    said = capsys.readouterr().out
    assert "not yet" not in said
    for name in names:
        assert f"{name}: right" in said
        for wrong, words in WRONG[name]:
            found = check.mistake(wrong, check.tests[name])
            assert found and words in found, f"{name}: expected the check to say {words!r}, got {found!r}"


def test_every_solution_belongs_to_an_exercise() -> None:
    assert sorted(ANSWERS) == sorted(name for lesson in LESSONS for name in exercises(lesson))
    assert sorted(WRONG) == sorted(ANSWERS)


def test_whatever_an_answer_does_the_lesson_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> float:
        return 1 / 0

    @check.check(broken)
    def _(broken: Any) -> None:
        broken()

    line = broken.__code__.co_firstlineno + 1
    assert capsys.readouterr().out == f"broken: not yet: ZeroDivisionError in line {line}: division by zero\n"


def test_the_page_lists_the_lessons_that_there_are() -> None:
    page = (COURSE / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \d \| \[.+?\]\((\w+\.py)\)", page, re.MULTILINE) == [lesson.name for lesson in LESSONS]
