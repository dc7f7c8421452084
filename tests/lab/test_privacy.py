"""Private vectors: a planted effect is kept or drowned as the noise says, members of a plain mean are told, those of no mean are not."""

import math

import pytest
import torch
from test_behaviours import PAIRS, TOKENIZER, both

from ministeer import extract
from ministeer.lab import behaviours, privacy
from ministeer.pairs import Read
from ministeer.provenance import Provenance

SITE = ("pre", 1)


def planted(pairs=120, width=64, common=1.0):
    """Differences of unit variance about a common direction."""
    x = torch.zeros(pairs, 2, width)
    x[:, 0] = torch.randn(pairs, width, generator=torch.Generator().manual_seed(0)) + common
    return Read({SITE: x}, Provenance("m", "read", "d", "mean of the statement", "float32"))


def test_a_plain_mean_gives_its_members_away_and_a_private_one_does_not():
    told = privacy.advantages(planted(), SITE, clip=10.0)
    assert told[privacy.PLAIN] > 0.5 and told[privacy.CLIPPED] > 0.5
    for epsilon in (0.9, 0.1):
        assert (
            abs(told[f"epsilon {epsilon:g}"]) < privacy.bound(epsilon) + 0.02
        )  # 40 halvings of 120: 0.02 is one standard error
    wide, narrow = (privacy.advantages(planted(width=d), SITE, 100.0)[privacy.PLAIN] for d in (256, 8))
    assert wide > 0.8 > narrow > 0.1  # more entries tell more


def test_a_vector_that_was_not_made_of_them_tells_nothing():
    x = planted().streams[SITE]
    differences = x[:, 0] - x[:, 1]
    members = torch.arange(120) < 60
    other = differences.mean(0) + 0.1 * torch.randn(64, generator=torch.Generator().manual_seed(5))
    guess = privacy.told_apart(differences, other)
    assert abs(float(guess[members].float().mean() - guess[~members].float().mean())) < 0.25


@pytest.mark.parametrize("epsilon", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("delta", [1e-6, 1e-5, 1e-3])
def test_an_independent_accountant_finds_no_more_delta_than_is_stated(epsilon, delta):
    """Google's dp-accounting, from the distribution of the privacy loss where one of 60 pairs is exchanged."""
    accountant = pytest.importorskip("dp_accounting.pld.privacy_loss_distribution")
    sigma, moved = extract.private_noise(60, clip=0.7, epsilon=epsilon, delta=delta), 2 * 0.7 / 60

    def found(share):
        loss = accountant.from_gaussian_mechanism(standard_deviation=share * sigma, sensitivity=moved)
        return loss.get_delta_for_epsilon(epsilon)

    assert found(1.0) <= delta < found(0.25)  # and not by noise without end


def test_no_attack_is_better_than_the_bound():
    assert privacy.bound(0.0, 0.0) == 0
    assert privacy.bound(0.9) == pytest.approx((math.exp(0.9) - 1 + 2e-5) / (math.exp(0.9) + 1))


@both
def test_what_noise_leaves_of_a_planted_behaviour(model, monkeypatch):
    monkeypatch.setattr(privacy, "HALVINGS", 3)
    (clip,) = privacy.usual(model, TOKENIZER, pairs=PAIRS[:20], layer=1)
    x = behaviours.read(model, TOKENIZER, PAIRS[:20], [1])[0].streams[SITE]
    assert clip["length"] == pytest.approx(float((x[:, 0] - x[:, 1]).norm(dim=-1).median()))
    given = {"training": PAIRS[:20], "held_out": PAIRS[20:], "layer": 1, "clip": clip["length"]}
    rows = privacy.measured(model, TOKENIZER, **given)
    assert rows == privacy.measured(model, TOKENIZER, **given)
    found, told = privacy.effects(rows), privacy.told(rows)
    ids = [[TOKENIZER.encode(text) for text in pair] for pair in PAIRS[20:]]
    tenth = behaviours.tenth(model, TOKENIZER, pairs=PAIRS[:20], layer=1)
    plain = behaviours.pairs_of(behaviours.slopes(model, behaviours.opening(TOKENIZER), ids, {"v": tenth}, [1])[0, 0])
    assert found[privacy.PLAIN] == pytest.approx(float(plain.mean()), abs=1e-3)
    assert found[privacy.PLAIN] > 0 and found[privacy.CLIPPED] > 0.5 * found[privacy.PLAIN]
    few, norms = behaviours.read(model, TOKENIZER, PAIRS[:20], [1])
    for row in rows:
        if row.get("epsilon") == 0.9 and row["seed"] == 1:
            vector = extract.private_mean(few, clip=clip["length"], epsilon=0.9, delta=1e-5, seed=1)
            vector = vector * (norms[SITE] / 10 / float(vector[SITE].norm()))
            slopes = behaviours.slopes(model, behaviours.opening(TOKENIZER), ids, {"v": vector}, [1])[0, 0]
            assert row["slopes"] == pytest.approx(behaviours.pairs_of(slopes).tolist(), abs=1e-3)
    assert set(told) == {privacy.PLAIN, privacy.CLIPPED, "epsilon 0.9", "epsilon 0.1"}
