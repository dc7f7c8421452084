"""Antonyms: what is asked and what passes for an answer, and what rows of gains say of the claims on structures."""

import random

import numpy as np
import pytest
import torch

from ministeer import Steer, extract, prefill
from ministeer.lab import antonyms, claims, data
from ministeer.lab.experiment import Experiment

SEEDS, CLAIMS = (0, 1, 2), {claim.key: claim for claim in claims.CLAIMS}
KNOWN = ["arrow", "colon", "brackets"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return Experiment("test", "nano", results=tmp_path_factory.mktemp("results"))


def test_each_pair_is_asked_one_way_round_from_all_of_the_split(lab: Experiment) -> None:
    queries = antonyms.queries(lab, "heldout", 40)
    pairs = data.answerable(lab.tokenizer)["antonym"]["heldout"]
    assert len({frozenset(pair) for pair in queries}) == 40
    assert set(queries) <= set(pairs)
    places = [pairs.index(pair) for pair in queries]
    assert min(places) < len(pairs) / 8 and max(places) > len(pairs) * 7 / 8  # the file is in the order of topics
    items = [antonyms.asked(lab, s, "heldout", 40, shots=n) for s, n in (("arrow", 0), ("colon", 5))]
    assert [[item["pair"] for item in some] for some in items] == [[item["pair"] for item in items[0]]] * 2


def test_every_word_that_passes_is_an_answer(lab: Experiment) -> None:
    item = {"prompt": "Q: big\nA:", "words": [" little"], "pair": "big little"}
    assert antonyms.passing(lab.tokenizer, item)["words"] == [" little", " small", " tiny"]
    few = antonyms.passing(lab.tokenizer, {"prompt": "x", "words": [" short"], "pair": "short tall"})
    assert all(len(lab.tokenizer.encode(word)) == 1 for word in few["words"])


def test_an_answer_that_begins_with_another_is_not_counted_twice(
    lab: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(antonyms, "accepted", lambda word: {"cold", "cold cold", "cool"})
    monkeypatch.setattr(data, "wide", lambda tokenizer: True)
    found = antonyms.passing(lab.tokenizer, {"prompt": "x", "words": [" cold"], "pair": "cold hot"})
    assert sorted(found["words"]) == [" cold", " cool"]


def test_the_gain_is_that_of_a_plain_steered_run_over_all_answers(lab: Experiment) -> None:
    items = antonyms.asked(lab, "question_answer", "heldout", 6)
    vector = antonyms.vector(lab, "question_answer", [("pre", 4)], seed=0)
    ids = [lab.tokenizer.prompt(item["prompt"]) for item in items]
    steers = [None, Steer(vector, ("pre", 4), 6.0, where="last")]
    before, after = (prefill(lab.model, ids, steer=steer).log_softmax(-1) for steer in steers)
    first = [[lab.tokenizer.encode(word)[0] for word in item["words"]] for item in items]
    wanted = [float(a[w].logsumexp(0) - b[w].logsumexp(0)) for a, b, w in zip(after, before, first, strict=True)]
    found = antonyms.gain(lab, items, {"v": vector}, [4], [6.0])[:, 0, 0, 0]
    np.testing.assert_allclose(found, wanted, atol=1e-3)
    assert abs(found).max() > 1


def test_answers_of_several_tokens_are_whole_and_keep_their_place(lab: Experiment) -> None:
    long = {"prompt": "Q: big\nA:", "words": [" little and", " small and"]}
    items = [long, *antonyms.asked(lab, "question_answer", "heldout", 2), long]
    total = 0.0
    for word in (" little", " small"):
        ids = [lab.tokenizer.prompt(text) for text in (long["prompt"], long["prompt"] + word)]
        at = [lab.tokenizer.single(word), lab.tokenizer.single(" and")]
        total += float(
            np.exp(sum(p[i].item() for p, i in zip(prefill(lab.model, ids).log_softmax(-1), at, strict=True)))
        )
    found = antonyms.log_p(lab, items)[:, 0, 0, 0]
    assert found[0] == found[3] == pytest.approx(np.log(total), abs=1e-3)
    np.testing.assert_allclose(found[1:3], antonyms.log_p(lab, items[1:3])[:, 0, 0, 0], atol=1e-4)


def test_a_task_vector_is_the_mean_less_that_of_other_tasks(lab: Experiment) -> None:
    tasks, sites = data.answerable(lab.tokenizer), [("pre", 3), ("pre", 5)]
    lists = data.task_prompts({t: tasks[t] for t in antonyms.TASKS}, 4, structure="arrow", shots=2, seed=0)
    found = antonyms.task_vectors(lab, lists, sites)["plural"]
    others = [some for task, some in lists.items() if task != "plural"]
    wanted = extract.function_vector(lab.model, lab.tokenizer, lists["plural"], sites, others=others)
    for site in sites:
        torch.testing.assert_close(found[site], wanted[site], atol=1e-4, rtol=1e-4)


def test_layer_and_dose_are_where_the_opposite_is_likeliest(lab: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    def planted(lab, items, vectors, layers, doses):
        assert {item["pair"] for item in items} <= {" ".join(sorted(pair)) for pair in train}
        found = np.zeros((len(items), 1, len(layers), len(doses)))
        found[:, 0, layers.index(5), doses.index(9.0)] = 0.5  # every pair a little
        found[0, 0, layers.index(2), doses.index(4.0)] = 5.0  # one pair much
        return found

    train = data.answerable(lab.tokenizer)["antonym"]["train"]
    vector = antonyms.vector(lab, "arrow", [("pre", i) for i in range(9)], seed=0)
    monkeypatch.setattr(antonyms, "log_p", planted)
    assert antonyms.setting(lab, "arrow", vector) == (5, 9.0)


@pytest.mark.parametrize(("gain", "right", "known"), [(0.5, 0.4, 0), (1.2, 0.1, 1), (0.5, 0.6, 1), (-1.0, 0.5, 1)])
def test_a_model_knows_the_task_by_its_answers_or_by_a_nat(gain: float, right: float, known: bool) -> None:
    rows = [{"gain": gain + x, "right": right} for x in (-0.1, 0.1)]
    assert bool(antonyms.unknown(rows)) is not bool(known)


# ---- claims, of planted rows


def rows(own: float = 0.0, other: float = 0.0, chance: float = 0.0, pairs: int = 60) -> list[dict[str, object]]:
    """Gains of three structures' vectors in three structures, and of 199 random ones."""
    rng, found = random.Random(0), []
    for structure in KNOWN:
        for pair in range(pairs):
            easy = rng.gauss(0, 0.3)  # some pairs gain more than others, by whatever vector
            at = {"structure": structure, "pair": f"pair {pair}"}
            for source in KNOWN:
                for seed in SEEDS:
                    mine = source == structure
                    gain = (own if mine else other) + easy + rng.gauss(0, 0.05)
                    found.append(
                        {**at, "vector": "own" if mine else "another's", "from": source, "seed": seed, "gain": gain}
                    )
            found += [
                {**at, "vector": "random", "from": i, "gain": chance + easy + rng.gauss(0, 0.3)} for i in range(199)
            ]
            found.append({**at, "vector": antonyms.SHOWN, "from": "", "gain": 3.0})
    return found


def words(known: list[str] = KNOWN, **planted: float) -> list[str]:
    found = antonyms.structure_claims(rows(**planted), known, "the model does not know the task")
    return [claims.judge(CLAIMS[key], found[key]).word for key in ("structure_own", "structure_other")]


def test_a_vector_that_does_nothing_supports_nothing() -> None:
    assert words() == [claims.NOT_SUPPORTED, claims.CANNOT]
    assert words(other=-2.0) == [claims.NOT_SUPPORTED, claims.CANNOT]  # others harm: nothing falls for that


def test_planted_effects_are_found() -> None:
    assert words(own=2.0) == [claims.SUPPORTED] * 2
    assert words(own=2.0, other=2.0) == [claims.SUPPORTED, claims.NOT_SUPPORTED]
    assert words(own=2.0, other=1.0) == [claims.SUPPORTED] * 2


def test_a_vector_that_only_harms_less_than_random_ones_does_not_work() -> None:
    assert words(chance=-2.0)[0] == claims.NOT_SUPPORTED
    assert words(own=0.3, other=-2.0, chance=-2.0) == [claims.NOT_SUPPORTED, claims.CANNOT]
    assert words(own=2.0, chance=-2.0)[0] == claims.SUPPORTED


def test_what_random_vectors_do_as_well_does_not_count() -> None:
    assert words(own=2.0, other=2.0, chance=2.0)[0] == claims.NOT_SUPPORTED


def test_structures_that_the_model_does_not_know_do_not_count() -> None:
    assert words(known=[], own=2.0) == [claims.CANNOT] * 2
    assert words(known=KNOWN[:1], own=2.0) == [claims.SUPPORTED, claims.CANNOT]
    some = [row | {"gain": -9.0} if "brackets" in (row["structure"], row["from"]) else row for row in rows(own=2.0)]
    found = antonyms.structure_claims(some, KNOWN[:2], "")
    assert claims.judge(CLAIMS["structure_own"], found["structure_own"]).effect[0] == pytest.approx(2.0, abs=0.2)
    assert claims.judge(CLAIMS["structure_other"], found["structure_other"]).effect[0] == pytest.approx(2.0, abs=0.2)
