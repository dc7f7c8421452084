"""The price of steering: exponents of planted power laws, where they end, and effects as a loop over the doses has them."""

import math

import numpy as np
import pytest
import torch
from test_behaviours import PAIRS, TOKENIZER, both

from ministeer.lab import behaviours, price
from ministeer.lab.answers import disturbance

DOSES = np.array(price.DOSES)


@both
def test_what_is_moved_is_half_the_difference_of_both_signs_at_each_dose(model):
    vector = behaviours.tenth(model, TOKENIZER, pairs=PAIRS[:20], layer=1)
    rows = price.moved(model, TOKENIZER, vector=vector, layer=1, pairs=PAIRS[20:23])
    assert [row["dose"] for row in rows] == list(price.DOSES)

    def said(text, coefficient):
        ids = torch.tensor([[TOKENIZER.bos, *TOKENIZER.encode(text)]])
        with torch.no_grad():
            log_p = model(ids, adds={("pre", 1): coefficient * vector["pre", 1]}).log_softmax(-1)
        return float(log_p[0, :-1].gather(-1, ids[0, 1:, None]).sum())

    for row in rows:
        for (good, bad), effect in zip(PAIRS[20:23], row["effects"], strict=True):
            with_it, against_it = (said(good, c) - said(bad, c) for c in (10 * row["dose"], -10 * row["dose"]))
            assert effect == pytest.approx((with_it - against_it) / 2, abs=2e-4)


@both
def test_small_doses_follow_both_laws(model):
    """Of random models too, as any smooth function does: the effect is linear, the cost quadratic."""
    vector = behaviours.tenth(model, TOKENIZER, pairs=PAIRS[:20], layer=2)
    rows = price.moved(model, TOKENIZER, vector=vector, layer=2, pairs=PAIRS[20:])
    texts, coefficients = [a for a, _ in PAIRS[:4]], price.coefficients()
    found = disturbance(model, TOKENIZER, texts=texts, vectors={"v": vector}, layer=2, coefficients=coefficients)
    effect = [float(np.mean(row["effects"])) for row in rows]
    cost = price.rises([row["perplexity"][0] for row in found])
    assert price.exponent(effect[:3], DOSES[:3]) == pytest.approx(1, abs=0.1)
    assert price.exponent(np.abs(cost[1:4]), DOSES[1:4]) == pytest.approx(2, abs=0.3)
    none = price.moved(model, TOKENIZER, vector=vector * 0.0, layer=2, pairs=PAIRS[20:])
    assert not np.any([row["effects"] for row in none])


@pytest.mark.parametrize("power", [0.5, 1, 2])
def test_the_exponent_of_a_power_is_that_power(power):
    assert price.exponent(3 * DOSES**power) == pytest.approx(power)
    assert price.exponent(-(DOSES**power)) == 0.0
    assert price.exponent([0.0, 1.0], DOSES[:2]) == 0.0


def test_a_law_holds_to_the_dose_before_it_is_off():
    assert price.holds_to(5 * DOSES**2, 2) == DOSES[-1]
    bent = 5 * DOSES * np.where(DOSES > 0.15, 0.7, 1.1)
    assert price.holds_to(bent, 1) == 0.1
    assert price.holds_to([1.0, -1, -1, -1, -1, -1], 1) == DOSES[0]
    assert price.holds_to([0.0, 1, 2, 4, 8, 16], 1) == DOSES[0]  # nothing can be foretold from nothing


def test_the_rise_is_of_the_mean_loss_and_the_mean_of_both_signs():
    losses = np.array([[2.0, *([2.5, 1.7] * len(DOSES))], [3.0, *([3.1, 3.3] * len(DOSES))]])
    assert price.rises(np.exp(losses)) == pytest.approx([0.15] * len(DOSES))
    assert price.coefficients()[:5] == pytest.approx([0.0, 0.25, -0.25, 0.5, -0.5])


def test_a_budget_buys_what_the_dose_that_costs_it_moves():
    costs, effects = 2 * DOSES**2, 10 * DOSES
    dose, bought = price.affordable(effects, costs, float(costs[2]))
    assert (dose, bought) == (pytest.approx(DOSES[2]), pytest.approx(effects[2]))
    between, _ = price.affordable(effects, costs, float(costs[2] + costs[3]) / 2)
    assert between == pytest.approx((DOSES[2] + DOSES[3]) / 2)
    assert all(math.isnan(x) for x in price.affordable(effects, costs, 100.0))
    cheap = [-0.1, *costs[1:]]  # a little of it does the texts good
    assert price.affordable(effects, cheap, float(costs[2]))[0] == pytest.approx(DOSES[2])
