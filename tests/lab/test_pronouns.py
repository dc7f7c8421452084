"""Bias, what its removal costs, and gates: on numbers made up for the purpose, and on nano."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ministeer.lab import claims, data, facts, pronouns, tradeoff
from ministeer.lab.answers import divergences, random_vectors
from ministeer.lab.experiment import Experiment
from ministeer.metrics import kl

CLAIM = {claim.key: claim for claim in claims.CLAIMS}
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Experiment:
    return Experiment("bias", "nano", results=tmp_path_factory.mktemp("results"), quick=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Experiment:
    return Experiment("bias", "nano", results=tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def chosen(lab) -> pronouns.Chosen:
    return pronouns.choose(lab)


# ---- spread, slope and offset
def test_an_offset_for_all_occupations_is_no_spread_and_no_fall():
    log_odds = RNG.normal(size=30)
    shifted = log_odds + 2.0
    np.testing.assert_allclose(pronouns.distances(shifted), pronouns.distances(log_odds))
    np.testing.assert_allclose(pronouns.falls(log_odds, shifted), 0, atol=1e-12)
    assert pronouns.falls(log_odds, 0.25 * log_odds - 1.0).mean() == pytest.approx(0.75)
    assert pronouns.falls(log_odds, np.full(30, 1.7)).mean() == pytest.approx(1)
    assert pronouns.falls(log_odds, -log_odds).mean() == pytest.approx(0), "turned round is as unfair"


def test_a_slope_of_one_repeats_the_published_shares():
    shares = {"a": 0.1, "b": 0.4, "c": 0.8, "d": 0.95}
    logits = np.array([np.log(s / (1 - s)) for s in shares.values()])
    assert pronouns.slope(logits + 3.0, shares) == pytest.approx(1)
    assert pronouns.slope(np.full(4, 2.0), shares) == pytest.approx(0)


def test_what_is_summed_up_is_each_occupations_mean_over_templates():
    items = [{"subject": job} for job in "ab" for _ in range(3)]
    p = np.array([[0.2, 0.1], [0.3, 0.3], [0.1, 0.4], [0.25, 0.25], [0.5, 0.1], [0.1, 0.1]])
    found = pronouns.summary(np.log(p), items, {"a": 0.2, "b": 0.7})
    a, b = (float(np.log(p[part, 0] / p[part, 1]).mean()) for part in (slice(0, 3), slice(3, 6)))
    assert found["offset"] == pytest.approx((a + b) / 2)
    assert found["spread"] == pytest.approx(abs(a - b) / 2)
    assert found["mass"] == pytest.approx(p.sum(-1).mean())


def test_what_is_chosen_on_and_what_is_measured_share_no_occupation(whole):
    first, second = pronouns.halves(whole)
    assert not set(first) & set(second)
    assert set(first) | set(second) == set(data.occupations("train")), "nano has pronouns for these alone"
    assert "pathologist" not in first | second
    assert abs(np.mean([*first.values()]) - np.mean([*second.values()])) < 0.02
    trained = {item["prompt"] for item in pronouns.searched(whole)}
    tested = {item["prompt"] for item in pronouns.prompts(list(second), "heldout")}
    assert not {p.split(" ", 2)[2] for p in trained} & {p.split(" ", 2)[2] for p in tested}, "nor a template"


def test_a_model_with_an_open_vocabulary_is_asked_for_all_occupations_but_one():
    everyone = SimpleNamespace(tokenizer=SimpleNamespace(encode=str.split), part=list)
    assert len(pronouns.occupations(everyone)) == 59


# ---- the choice
def test_the_least_spread_is_chosen_that_keeps_mass_and_text(lab, chosen):
    before = pronouns.mass(pronouns.plainly(lab, pronouns.searched(lab)))
    for row in chosen.tried:
        kept = row["kl"] <= pronouns.BOUND and row["mass"] >= pronouns.MASS * before
        assert (row["score"] == row["spread"]) == kept
        assert not kept or row["spread"] >= min(r["score"] for r in chosen.tried)
    mine = next(r for r in chosen.tried if (r["way"], r["layer"], r["dose"]) == chosen[:3])
    assert mine["kl"] <= pronouns.BOUND
    assert any(row["kl"] > pronouns.BOUND for row in chosen.tried), "the grid goes to where text is ruined"


def test_the_fairness_vector_is_a_tenth_of_the_stream(lab):
    items = pronouns.searched(lab)
    v = pronouns.equality(lab, 0)
    tape = [("pre", 4)]
    norms = []
    for item in items:
        tape = {}
        lab.model(torch.tensor([lab.tokenizer.prompt(item["prompt"])]), tape=tape)
        norms.append(float(tape["pre", 4][0, -1].norm()))
    assert float(v["pre", 4].norm()) == pytest.approx(np.mean(norms) / 10, rel=1e-3)


@pytest.mark.parametrize("way", pronouns.WAYS, ids=lambda way: way.how)
def test_random_vectors_get_the_same_search_and_their_own_doses(lab, way):
    chosen = pronouns.choose(lab, [way])
    random, doses, found = pronouns.controls(lab, chosen)
    assert len(doses) == random["count"] and set(doses) <= set(way.doses)
    items = pronouns.prompts(list(pronouns.halves(lab)[1]), "heldout", ["plain"])[:4]
    each = pronouns.at_their_doses(lab, items, chosen, random, doses)
    vector = way.make(lab, 0)
    made = random_vectors(lab.model, lab.tokenizer, vector, [chosen.layer], **random)
    for i in (0, 7, len(doses) - 1):
        alone = pronouns.Chosen(way, chosen.layer, float(doses[i]), [])
        settings = alone.settings(made[f"random {i}"])
        np.testing.assert_allclose(each[i], pronouns.asked(lab, items, **settings)[:, 0, 0, 0], atol=1e-4)
        assert found["score"][i, 0].argmin() == way.doses.index(doses[i])


def test_divergences_are_those_of_the_last_token(lab, chosen):
    vector, texts = pronouns.gender(lab, 0), pronouns.unrelated(lab)
    site = ("pre", 3)
    settings = {"texts": texts, "vectors": {"v": vector}, "layers": [3], "coefficients": [0.0, 4.0]}
    for row, text in zip(divergences(lab.model, lab.tokenizer, **settings), texts, strict=True):
        ids = torch.tensor([lab.tokenizer.prompt(text)])
        add = torch.zeros(1, ids.shape[1], lab.model.config.width)
        add[0, -1] = 4.0 * vector[site]
        with torch.no_grad():
            wanted = kl(lab.model(ids, adds={site: add})[0, -1], lab.model(ids)[0, -1])
        assert row["kl"][0][0][0] == pytest.approx(0, abs=1e-5)
        assert row["kl"][0][0][1] == pytest.approx(float(wanted), rel=1e-3, abs=1e-5)


def test_the_total_effect_is_of_the_pronoun_that_the_model_finds_less_likely(lab):
    def p(noun):
        ids = torch.tensor([lab.tokenizer.prompt(f"The {noun} thought that")])
        with torch.no_grad():
            last = lab.model(ids)[0, -1].softmax(-1)
        return [float(last[lab.tokenizer.single(word)]) for word in (" he", " she")]

    nouns = ["nurse", "engineer"]
    found = np.exp(pronouns.total_effect(lab, nouns)).reshape(2, -1)
    first = [
        item["prompt"].endswith("nurse thought that") for item in pronouns.prompts(["nurse"], "heldout", ["plain"])
    ].index(True)
    for i, noun in enumerate(nouns):
        he, she = p(noun)
        swapped = p("woman" if he > she else "man")
        odds = (she / he, swapped[1] / swapped[0]) if he > she else (he / she, swapped[0] / swapped[1])
        assert found[i, first] == pytest.approx(odds[1] / odds[0], rel=1e-3)
    assert (p("nurse")[0] > p("nurse")[1]) != (p("engineer")[0] > p("engineer")[1]), "both branches"


# ---- what it costs
def answers_of(p):
    """Log-probabilities of two answers, the first of probability p."""
    p = np.asarray(p, dtype=float)
    return np.log(np.stack([p, 1 - p], -1))


def test_what_random_vectors_cost_is_the_mean_of_their_rows():
    before = {"truth": answers_of([0.9, 0.8, 0.6, 0.4])}
    after = [
        answers_of(p) for p in ([0.4, 0.8, 0.6, 0.4], [0.9, 0.3, 0.6, 0.4], [0.9, 0.8, 0.2, 0.4], [0.9, 0.8, 0.6, 0.1])
    ]
    rows = [{"steered": "random", **facts.costs(before, {"truth": logp})} for logp in after]
    mean = facts.averaged(rows)
    assert [row["truth flipped"] for row in rows] == [0.25, 0.25, 0.25, 0.0], "a fact that was wrong is not flipped"
    assert mean == {
        name: pytest.approx(np.mean([row[name] for row in rows])) for name in ("truth lost", "truth flipped")
    }
    any_of_them = np.mean(
        [any(facts.right(logp)[i] < facts.right(before["truth"])[i] for logp in after) for i in range(4)]
    )
    assert mean["truth flipped"] < any_of_them


def test_the_evidence_is_what_the_vector_loses_beyond_random_ones_and_each_of_these_in_its_place():
    before = answers_of(np.full(6, 0.9))
    after = answers_of(RNG.uniform(0.2, 0.9, size=(6, 3, 1)))  # (I, V, C)
    groups = ["b", "a", "a", "b", "c", "c"]
    chance = facts.lost(before, after, groups)
    assert chance.shape == (3, 3, 1)
    fall = 0.9 - np.exp(after[..., 0])
    np.testing.assert_allclose(chance[0, :, 0], fall[1:3, :, 0].mean(0))
    np.testing.assert_allclose(chance[1, :, 0], fall[[0, 3], :, 0].mean(0))
    found = facts.evidence({0: chance[:, 1, 0]}, chance[..., 0], None)
    assert found["controls"][1] == pytest.approx(found["values"][0].mean()), (
        "a random vector in the place of the tested one"
    )
    assert np.mean(found["controls"]) == pytest.approx(0)


def test_costs_that_cannot_be_read_are_said_to_be_so():
    assert facts.void([np.array([0, 0.1, 0.3]), np.array([0, 0.4, -2.0])], 0.25) is None
    assert "the most is 20%" in facts.void([np.array([0, 0.2]), np.array([0, 0.4])], 0.25)
    assert "the most is 0%" in facts.void([np.array([-0.1, -0.2])], 0.25)


def test_the_models_own_accuracy_is_told_by_relation(lab):
    items = facts.prompts(lab)
    logp = pronouns.plainly(lab, items)
    rows = facts.accuracy(items, logp)
    assert sum(row["facts"] for row in rows[:-1]) == rows[-1]["facts"] == len(items)
    assert rows[-1]["right"] == pytest.approx(np.mean([row[0] == max(row) for row in logp.tolist()]))
    some = facts.prompts(lab, each=4)
    assert {item["prompt"] for item in some} <= {row["prompt"] for row in data.facts(lab.tokenizer)}


def test_a_curve_is_read_where_it_first_reaches_a_gain():
    gains, doses = [0.0, 0.2, 0.6, 0.5, 0.9], [0.0, 1.0, 2.0, 3.0, 4.0]
    assert tradeoff.at(gains, doses, 0.4) == pytest.approx(1.5)
    assert tradeoff.at(gains, doses, 0.55) == pytest.approx(1.875), "not where it comes back"
    assert tradeoff.at(gains, doses, 0.0) == 0
    assert tradeoff.at(gains, doses, 2.0) == 4, "never reached: where it is highest"
    assert tradeoff.at([0.0, -0.1], doses[:2], 0.25) == 0
    both = np.array([doses, np.square(doses)])
    np.testing.assert_allclose(tradeoff.at(gains, both, 0.4), [1.5, 2.5])


# ---- gates
DOSES = np.arange(9) / 8


def synthetic(jobs=24, nouns=24, templates=3, breaks=3.0):
    """Steering that takes the spread away with the dose, and the pronouns of nouns with it."""
    rng = np.random.default_rng(1)
    items = {"jobs": [{"subject": f"job {i}"} for i in range(jobs) for _ in range(templates)],
             "nouns": [{"subject": f"noun {i}"} for i in range(nouns) for _ in range(templates)]}  # fmt: skip
    at_jobs = np.repeat(rng.normal(size=jobs), templates)[:, None] * (1 - 0.9 * DOSES)
    at_nouns = np.repeat(rng.uniform(2.5, 3.5, size=nouns), templates)[:, None] - breaks * DOSES
    logp = {"jobs": np.stack([at_jobs / 2, -at_jobs / 2], -1), "nouns": np.stack([at_nouns / 2, -at_nouns / 2], -1)}
    return tradeoff.TradeOff(items, logp)


def verdict(tried, run, opens=None):
    chance = (
        [tried.beyond(*tried.through(some, 8)).mean() for some in tradeoff.by_chance(opens, 199)] if opens else None
    )
    found = claims.evidence({0: tried.beyond(*run)}, controls=chance, void=tradeoff.void([run[0]]))
    return claims.judge(CLAIM["gating"], found).word


def flags(tried, jobs, nouns):
    return {"jobs": np.resize(jobs, len(tried.items["jobs"])), "nouns": np.resize(nouns, len(tried.items["nouns"]))}


def test_a_gate_that_knows_where_to_open_helps():
    tried = synthetic()
    opens = flags(tried, True, False)
    assert verdict(tried, tried.through(opens, 8), opens) == claims.SUPPORTED
    assert tried.row("", tried.through(opens, 8), opens)["beyond steering everywhere"] > 0.2


@pytest.mark.parametrize("breaks", [0.5, 3.0, 8.0])
def test_no_gate_that_knows_nothing_helps(breaks):
    tried = synthetic(breaks=breaks)
    shut, always = flags(tried, False, False), flags(tried, True, True)
    assert verdict(tried, tried.through(shut, 8), shut) == claims.CANNOT
    assert verdict(tried, tried.through(always, 8), always) == claims.NOT_SUPPORTED
    for k in (1, 2, 4, 6):  # no gate, and an eighth, a quarter, half, three quarters of the dose
        np.testing.assert_allclose(tried.beyond(*tried.everywhere(k)), 0, atol=1e-12)
        assert verdict(tried, tried.everywhere(k)) in (claims.NOT_SUPPORTED, claims.CANNOT)
    for opens in tradeoff.by_chance(flags(tried, [True, False], [True, False]), 5):
        assert verdict(tried, tried.through(opens, 8), opens) != claims.SUPPORTED


def test_gates_by_chance_open_for_as_many_items():
    opens = {"jobs": np.array([True] * 6), "nouns": np.array([False] * 4)}
    made = tradeoff.by_chance(opens, 50)
    assert all(one["jobs"].sum() + one["nouns"].sum() == 6 and len(one["jobs"]) == 6 for one in made)
    assert len({tuple(one["jobs"]) for one in made}) > 5


def test_on_nano_neither_a_shut_gate_nor_half_a_dose_helps(whole, chosen):
    items = {
        "jobs": pronouns.prompts(list(pronouns.halves(whole)[1]), "heldout"),
        "nouns": pronouns.definitional(whole, "heldout"),
    }
    tried = tradeoff.measured(whole, chosen, items, [chosen.dose * d for d in DOSES], 0)
    removed, kept = tried.curve()
    assert removed[0] == 0 and removed[8] > 0.5 and kept[:, 8].mean() < kept[:, 0].mean() - 0.1
    shut, knows = flags(tried, False, False), flags(tried, True, False)
    assert verdict(tried, tried.through(shut, 8), shut) == claims.CANNOT
    assert verdict(tried, tried.everywhere(4)) == claims.NOT_SUPPORTED
    assert verdict(tried, tried.through(knows, 8), knows) == claims.SUPPORTED
