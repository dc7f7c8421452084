"""The calibrated coefficient: it spends the budget, by a divergence computed the slow way; a budget out of reach is refused."""

import itertools
import math
import warnings
from typing import Any

import pytest
import torch
from reference import both, parts, random_ids, random_tensor, reference_run
from torch import Tensor

from ministeer.calibrate import NotMonotone, calibrate
from ministeer.generate import generate
from ministeer.interventions import decay, project_out, relative, rotate
from ministeer.steer import Steer

BOTH = both(7, 61, 32, 24, 3, 2)
for ours, theirs in BOTH.values():  # predictions that are sure of themselves, so that they can change a lot
    for norm in (ours.ln_f, parts(theirs).last_norm):
        norm.weight.mul_(20)
MODEL, THEIRS = BOTH["gpt2"]
V = random_tensor(24, seed=1, scale=1.0)
TEXTS = [random_ids(MODEL, 1, n, seed=n)[0].tolist() for n in (3, 7, 5)]


def divergences(deltas: Tensor, first: int = 0) -> list[float]:
    """KL of transformers' next-token distributions, text by text, at the positions from `first` on.

    deltas: `(T, D)`, what is added at each position, as far as the text goes.
    """
    found = []
    for text in TEXTS:
        ids = torch.tensor([text])
        p = THEIRS(input_ids=ids).logits[0].log_softmax(-1)
        q = reference_run(THEIRS, ids, {("pre", 1): deltas[None, : len(text)]})[0][0].log_softmax(-1)
        found += (p.exp() * (p - q)).sum(-1)[first:].tolist()
    return found


def at(positions: slice, delta: Tensor) -> Tensor:
    """`delta` at some positions, zero elsewhere, `(T, D)`."""
    deltas = torch.zeros(max(map(len, TEXTS)), 24)
    deltas[positions] = delta
    return deltas


@pytest.mark.parametrize("budget", [0.003, 0.05, 0.5])
@pytest.mark.parametrize("batch_size", [1, 16])
def test_the_mean_divergence_is_the_budget(budget: float, batch_size: int) -> None:
    found = calibrate(MODEL, TEXTS, Steer(V, ("pre", 1)), kl=budget, batch_size=batch_size)
    slow = divergences(at(slice(None), found.coeff * V))
    assert sum(slow) / len(slow) == pytest.approx(budget, rel=0.011)
    assert found.kl == pytest.approx(sum(slow) / len(slow), rel=1e-3)
    assert dict(found.tried)[found.coeff] == found.kl


def own_texts() -> list[list[int]]:
    """What the model says by itself, so that every change of it costs."""
    texts = [[i] for i in (3, 30, 50)]
    with torch.no_grad():
        for text, n in zip(texts, (9, 14, 6), strict=True):
            while len(text) < n:
                text.append(int(MODEL(torch.tensor([text]))[0, -1].argmax()))
    return texts


@pytest.mark.parametrize("budget", [0.01, 0.3])
@pytest.mark.parametrize("batch_size", [1, 16])
def test_the_rise_of_the_loss_is_the_budget(budget: float, batch_size: int) -> None:
    texts = own_texts()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotMonotone)
        found = calibrate(MODEL, texts, Steer(V, ("pre", 1)), damage=budget, batch_size=batch_size)
    rises = []
    for text in texts:
        ids = torch.tensor([text])
        after = reference_run(THEIRS, ids, {("pre", 1): (found.coeff * V).expand(1, len(text), 24)})[0][0].log_softmax(
            -1
        )
        before = THEIRS(input_ids=ids).logits[0].log_softmax(-1)
        rises += [float(before[t, text[t + 1]] - after[t, text[t + 1]]) for t in range(len(text) - 1)]
    assert sum(rises) / len(rises) == pytest.approx(budget, rel=0.02)
    assert found.damage == pytest.approx(sum(rises) / len(rises), rel=1e-3)
    assert dict(found.tried)[found.coeff] == found.damage and found.kl > 0


def test_texts_of_a_token_have_no_loss() -> None:
    with pytest.raises(ValueError, match="expected texts with tokens after a steered position, got none in 1 texts"):
        calibrate(MODEL, [[3]], Steer(V, ("pre", 1)), damage=0.1)


def test_only_predictions_from_the_first_steered_position_count() -> None:
    found = calibrate(MODEL, TEXTS, Steer(V, ("pre", 1), where=[2]), kl=0.01)
    slow = divergences(at(slice(2, 3), found.coeff * V), first=2)
    assert found.kl == pytest.approx(sum(slow) / len(slow), rel=1e-3)


def test_injected_positions_do_not_count() -> None:
    front = random_tensor(2, 24, seed=4, scale=1.0)
    found = calibrate(MODEL, TEXTS, Steer(front, ("pre", 1), where="front"), kl=0.01)
    slow = divergences(at(slice(2), found.coeff * front), first=2)
    assert found.kl == pytest.approx(sum(slow) / len(slow), rel=1e-3)


def test_the_sign_of_the_coefficient_stays() -> None:
    found = calibrate(MODEL, TEXTS, Steer(V, ("pre", 1), -1.0), kl=0.05)
    assert found.coeff < 0
    slow = divergences(at(slice(None), found.coeff * V))
    assert sum(slow) / len(slow) == pytest.approx(0.05, rel=0.011)


@pytest.mark.parametrize("start", [1e-3, 1.0, 300.0])
def test_where_the_search_starts_changes_little(start: float) -> None:
    there = calibrate(MODEL, TEXTS, Steer(V, ("pre", 1)), kl=0.05).coeff
    assert calibrate(MODEL, TEXTS, Steer(V, ("pre", 1)), kl=0.05, start=start).coeff == pytest.approx(there, rel=0.02)


def test_functions_gates_and_schedules_are_calibrated_too() -> None:
    for steer in (
        Steer(relative(V), ("mid", 1)),
        Steer(V, ("pre", 2), rows=[True, False, True]),
        Steer(V, ("pre", 2), where="last", schedule=decay(3)),
    ):
        found = calibrate(MODEL, TEXTS, steer, kl=0.02)
        assert found.kl == pytest.approx(0.02, rel=0.01)
        pairs = itertools.pairwise(found.tried)
        assert all(a[0] < b[0] for a, b in pairs)
    with pytest.raises(ValueError, match="after a steered position"):
        calibrate(MODEL, TEXTS, Steer(V, ("pre", 2), rows=[False] * 3), kl=0.02)


def test_a_gate_counts_only_its_rows() -> None:
    for row in range(3):
        one = calibrate(MODEL, TEXTS[row : row + 1], Steer(V, ("pre", 2)), kl=0.02)
        gated = calibrate(MODEL, TEXTS, Steer(V, ("pre", 2), rows=[r == row for r in range(3)]), kl=0.02, batch_size=2)
        assert gated.coeff == pytest.approx(one.coeff, rel=1e-3)


def test_a_budget_out_of_reach_is_refused_with_the_most_that_was_reached() -> None:
    with pytest.raises(ValueError, match="up to 100 reaches, got 50.0 nats where the most was"):
        calibrate(MODEL, TEXTS, Steer(V, ("pre", 1)), kl=50.0, highest=100.0)
    with pytest.raises(ValueError, match="reaches"):
        calibrate(MODEL, TEXTS, Steer(0 * V, ("pre", 1)), kl=0.1, highest=8.0)


def test_the_highest_coefficient_is_tried() -> None:
    there = calibrate(MODEL, TEXTS, Steer(V, ("pre", 1)), kl=0.05).coeff
    found = calibrate(MODEL, TEXTS, Steer(V, ("pre", 1)), kl=0.05, start=there * 0.6, highest=there * 1.1)
    assert found.coeff == pytest.approx(there, rel=0.02)


def test_a_divergence_that_falls_again_is_named() -> None:
    """A full turn brings the stream back: the divergence rises to half a turn and then falls."""
    turn = rotate(V, random_tensor(24, seed=2, scale=1.0))
    one_step = calibrate(MODEL, TEXTS, Steer(turn, ("pre", 1)), kl=1e-2, start=1e-3)
    with pytest.warns(NotMonotone, match="falls somewhere"):
        found = calibrate(MODEL, TEXTS, Steer(turn, ("pre", 1)), kl=one_step.kl, start=2 * torch.pi - 1e-3)
    assert found.kl == pytest.approx(one_step.kl, rel=0.02)


def test_a_damage_that_falls_below_none_before_it_rises_is_named() -> None:
    """On what the model itself says when steered a little: the vector makes such texts likelier at first."""
    steer, more = Steer(V, ("pre", 1), 0.1), (8, 9, 11)
    texts = [generate(MODEL, row[:3], max_new_tokens=n, temperature=0, steer=steer) for row, n in zip(TEXTS, more)]
    with pytest.warns(NotMonotone, match="damage falls somewhere"):
        found = calibrate(MODEL, texts, steer, damage=0.05, start=0.25)
    damages = [damage for _, damage in found.tried]
    assert damages[0] < 0 and damages == sorted(damages), "it falls from 0 to the first alone"


def test_a_jump_over_the_budget_is_refused() -> None:
    def step(x: Tensor, coeff: Tensor | float) -> Tensor:
        return torch.as_tensor(coeff).sign() * (torch.as_tensor(coeff) > 3) * V.expand_as(x)

    with pytest.raises(ValueError, match="jumps from 0 to"):
        calibrate(MODEL, TEXTS, Steer(step, ("pre", 1)), kl=1e-3)
    with pytest.raises(ValueError, match="vanishes with the coefficient"):
        calibrate(MODEL, TEXTS, Steer(lambda x, c: project_out(V)(x), ("pre", 1)), kl=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kl": 0.0}, "kl > 0"),
        ({"kl": "a"}, "kl > 0.*got 'a'"),
        ({"damage": 0.0}, "damage > 0"),
        ({"damage": 0.1, "kl": 0.1}, "one budget, kl or damage, got 0.1 and 0.1"),
        ({"kl": 0.1, "tolerance": None}, "got 0.1, None"),
        ({"kl": 0.1, "tolerance": 1.0}, "tolerance"),
        ({"kl": 0.1, "start": -1.0}, "start"),
        ({"kl": 0.1, "start": 2.0, "highest": 1.0}, "highest"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calibrate(MODEL, TEXTS, Steer(V, ("pre", 1)), **settings)


@pytest.mark.parametrize(
    ("steer", "message"),
    [
        (Steer(V, ("pre", 1), [1.0, 2.0, 3.0]), "one coefficient to calibrate"),
        (V, "one coefficient to calibrate, got Tensor"),
        (Steer(V, ("pre", 1), rows=[True] * 4), "each of 3 rows, got 4"),
        (Steer(V, ("pre", 1), where="generated"), "touches no position"),
        (Steer(V, ("pre", 7)), "expected a site"),
    ],
)
def test_wrong_steers_are_refused(steer: Steer, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calibrate(MODEL, TEXTS, steer)


def test_a_loss_that_no_token_tells_is_not_a_number() -> None:
    """The last token steered, none follows: what was never measured is not "+0"."""
    last = Steer(V, ("pre", 1), where="last")
    assert math.isnan(calibrate(MODEL, TEXTS, last, kl=0.01, start=1e-4).damage)
    with pytest.raises(ValueError, match='got none in 3 texts; steer more positions, such as where="all", or give kl'):
        calibrate(MODEL, TEXTS, last, damage=1e-6)
