"""Bias, what its removal costs, and gates: on numbers made up for the purpose, and on nano."""

from dataclasses import replace
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
    everyone = SimpleNamespace(tokenizer=SimpleNamespace(encode=str.split, continuation=str.split), part=list)
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


def test_nouns_of_the_direction_and_nouns_that_pay_do_not_overlap(lab, whole, monkeypatch):
    made, paying = pronouns.nouns()
    everyone = {row["noun"] for row in data.read("definitional.tsv", strict="yes")}
    assert not set(made) & set(paying) and set(made) | set(paying) == everyone
    for half in (made, paying):
        for some in (whole, lab):
            asked = [half[noun] for noun in some.part(list(half))]
            assert {"male", "female"} == set(asked) and abs(asked.count("male") - asked.count("female")) <= 1
    assert {item["subject"] for item in pronouns.definitional(whole, paying, "heldout")} == set(paying)
    for some in (whole, lab):
        drawn = []
        monkeypatch.setattr(some, "vector", lambda make, pairs, drawn=drawn, **settings: drawn.extend(pairs))
        pronouns.gender(some, 0)
        said = {text.split()[1].strip(",") for pair in drawn for text in pair}
        assert len(drawn) == 60 and said <= set(made) and len(said) > 12
        assert all(made[a.split()[1].strip(",")] == "male" for a, _ in drawn)


def test_the_right_pronoun_of_a_noun_is_the_first_of_its_words(lab):
    for item in pronouns.definitional(lab, pronouns.nouns()[1], "heldout"):
        he = pronouns.nouns()[1][item["subject"]] == "male"
        assert item["words"] == ([" he", " she"] if he else [" she", " he"])


def test_a_way_without_a_direction_is_missing_and_left_out(lab):
    def zeros(lab, seed):
        vector = pronouns.gender(lab, seed)
        return replace(vector, tensors={site: torch.zeros_like(t) for site, t in vector.tensors.items()})

    nothing = pronouns.Way("nothing projected out", "project_out", (1.0,), zeros)
    assert "no direction" in pronouns.missing(lab, nothing)
    assert [pronouns.missing(lab, way) for way in pronouns.WAYS] == [None, None]
    added = pronouns.WAYS[0]
    assert pronouns.choose(lab, [nothing, added])[:3] == pronouns.choose(lab, [added])[:3]


@pytest.mark.parametrize("way", pronouns.WAYS, ids=lambda way: way.how)
def test_an_outcome_is_that_of_the_way_alone_beside_random_vectors(lab, way):
    items = pronouns.prompts(list(pronouns.halves(lab)[1]), "heldout", ["plain"])
    found = pronouns.outcome(lab, way, items, [0, 1])
    alone = pronouns.choose(lab, [way])
    assert found.chosen[:3] == alone[:3] and found.chosen.way == way
    before = pronouns.odds(pronouns.plainly(lab, items), items)
    for seed in (0, 1):
        after = pronouns.odds(alone.asked(lab, items, seed=seed)[:, 0], items)
        np.testing.assert_allclose(found.falls[seed], pronouns.falls(before, after))
    random, doses, _ = pronouns.controls(lab, alone)
    each = pronouns.at_their_doses(lab, items, alone, random, doses)
    np.testing.assert_allclose(found.chance[3], pronouns.falls(before, pronouns.odds(each[3], items)))
    assert found.chance.shape == (random["count"], len(before))


@pytest.mark.parametrize("key", ["bias_added", "bias_erased"])
def test_a_planted_fall_is_found_and_one_like_random_vectors_is_not(key):
    def word(fall):
        chance = 0.1 + RNG.normal(scale=0.05, size=(199, 24))
        falls = {seed: fall + RNG.normal(scale=0.1, size=24) for seed in range(3)}
        outcome = pronouns.Outcome(None, {}, falls, chance, {})
        found = outcome.evidence(None)
        assert np.mean(found["controls"]) == pytest.approx(0)
        assert found["values"][1].mean() == pytest.approx(falls[1].mean() - chance.mean())
        return claims.judge(CLAIM[key], claims.evidence(**found)).word

    assert word(0.6) == claims.SUPPORTED
    assert word(0.1) == claims.NOT_SUPPORTED, "which random vectors do too"


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


def test_nothing_can_be_told_of_steering_that_hardly_steers():
    assert tradeoff.void([0.5, tradeoff.LEAST]) is None
    assert "removes 0.04 of the spread, less than 0.1" in tradeoff.void([0.5, 0.04])


def test_costs_stand_at_the_ways_own_dose_then_where_shares_are_removed(lab, chosen):
    chosen = chosen._replace(dose=chosen.way.doses[1])  # not the one that removes most
    asked = {"pronoun": pronouns.definitional(lab, pronouns.nouns()[1], "heldout", kinds=["plain"])}
    before = {"pronoun": pronouns.plainly(lab, asked["pronoun"])}
    own, quarter, all_of_it = tradeoff.costs(lab, chosen, [0.25, 2.0], asked, before)
    jobs = pronouns.prompts(list(pronouns.halves(lab)[1]), "heldout")
    log_odds = [pronouns.odds(logp, jobs) for logp in (pronouns.plainly(lab, jobs), chosen.asked(lab, jobs)[:, 0])]
    assert own["dose"] == chosen.dose and own["removed"] == pytest.approx(pronouns.falls(*log_odds).mean())
    assert own["removed"] == pytest.approx(tradeoff.removed(lab, chosen, [chosen.dose])[0])
    lost = facts.truth(before["pronoun"]) - facts.truth(chosen.asked(lab, asked["pronoun"])[:, 0])
    assert own["pronoun lost"] == pytest.approx(lost.mean())
    assert tradeoff.removed(lab, chosen, [0.0, quarter["dose"]]) == pytest.approx([0, 0.25], abs=0.05)
    assert quarter["removed"] == 0.25 and own["removed"] <= all_of_it["removed"] < 1.01, "the most that ever is"


def test_of_each_relation_the_facts_with_the_shortest_answers_are_taken():
    lab = SimpleNamespace(tokenizer=SimpleNamespace(encode=str.split, continuation=str.split), part=list)
    everything, some = facts.prompts(lab), facts.prompts(lab, most=12)

    def words(item):
        return sum(len(word.split()) for word in item["words"])

    for relation in {item["relation"] for item in everything}:
        mine = [words(item) for item in some if item["relation"] == relation]
        rest = [words(item) for item in everything if item["relation"] == relation and item not in some]
        assert len(mine) == 2 or len(mine) > 2 and sum(mine) <= 12
        assert not rest or max(mine) <= min(rest) and sum(mine) + min(rest) > 12


def test_the_models_own_accuracy_is_told_by_relation(lab):
    items = facts.prompts(lab)
    logp = pronouns.plainly(lab, items)
    rows = facts.accuracy(items, logp)
    assert sum(row["facts"] for row in rows[:-1]) == rows[-1]["facts"] == len(items)
    assert rows[-1]["right"] == pytest.approx(np.mean([row[0] == max(row) for row in logp.tolist()]))
    some = facts.prompts(lab, most=16)
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
        "nouns": pronouns.definitional(whole, pronouns.nouns()[1], "heldout"),
    }
    tried = tradeoff.measured(whole, chosen, items, [chosen.dose * d for d in DOSES], 0)
    removed, kept = tried.curve()
    assert removed[0] == 0 and removed[8] > 0.5 and kept[:, 8].mean() < kept[:, 0].mean() - 0.1
    shut, knows = flags(tried, False, False), flags(tried, True, False)
    assert verdict(tried, tried.through(shut, 8), shut) == claims.CANNOT
    assert verdict(tried, tried.everywhere(4)) == claims.NOT_SUPPORTED
    assert verdict(tried, tried.through(knows, 8), knows) == claims.SUPPORTED
