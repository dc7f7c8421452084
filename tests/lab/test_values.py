"""What rows of slopes say of the claims on values: planted effects are found, planted nothings are not."""

import random

import numpy as np
import pytest

from ministeer.lab import claims, values

SEEDS, CLAIMS = (0, 1, 2), {claim.key: claim for claim in claims.CLAIMS}


def rows(
    own=0.0,
    others=0.0,
    valence=0.0,
    told=0.0,
    loud=0.0,
    chat=None,
    complex_wrong=0.0,
    noise=0.1,
    scenarios=10,
    randoms=199,
):
    """Slopes of six values at three levels, of so many scenarios in two phrasings; a share of complex ones goes the wrong way."""
    rng, found = random.Random(0), []

    def add(item, vector, mean, form="plain"):
        found.append({**item, "vector": vector, "form": form, "slope": mean + rng.gauss(0, noise / 5)})

    for value in values.VALUES:
        for level in values.LEVELS:
            for s in range(scenarios):
                easy = rng.gauss(0, noise)  # some scenarios move more than others, by every vector of the value
                for phrasing in (0, 1):
                    item = {
                        "value": value,
                        "level": level,
                        "scenario": f"{level} {s}",
                        "prompt": f"{value} {level} {s} {phrasing}",
                        "group": f"{value} {level} {s}",
                    }
                    sign = -1 if level == "complex" and s < complex_wrong * scenarios else 1
                    for seed in SEEDS:
                        add(item, f"own {seed}", sign * (own + easy))
                        if chat is not None:
                            add(item, f"own {seed}", chat + easy, "chat")
                    for other in values.VALUES:
                        if other != value and level == "plain":
                            add(item, other, others)
                    add(item, "valence", valence)
                    for form in ("plain", "chat"):
                        add(item, "told", told, form)
                        for seed in SEEDS:
                            add(item, f"loud {seed}", loud, form)
                    if level == "plain" and phrasing == 0:
                        for i in range(randoms):
                            add(item, f"random {i}", 0.0)
    return found


def words(form="plain", **planted):
    found = values.claims_of(rows(**planted), SEEDS, form)
    return {key: claims.judge(CLAIMS[key], evidence).word for key, evidence in found.items()}


def test_a_vector_that_does_nothing_supports_nothing():
    found = words(chat=0.0, form="chat", noise=0.01)
    assert claims.SUPPORTED not in found.values()
    assert found["values"] == claims.NOT_SUPPORTED
    assert found["inconsistent"] == claims.CANNOT  # half of the items go the wrong way, as nothing steers them


def test_a_vector_of_the_value_alone_is_found():
    found = words(own=1.0, chat=0.9, loud=0.9, form="chat")
    assert found["values"] == found["values_specific"] == found["chat"] == found["prompting"] == claims.SUPPORTED
    assert found["inconsistent"] == claims.NOT_SUPPORTED


@pytest.mark.parametrize("rival", ["others", "valence"])
def test_a_vector_that_does_what_any_pleasant_one_does_is_not_the_values_own(rival):
    found = words(own=1.0, **{rival: 1.0})
    assert (found["values"], found["values_specific"]) == (claims.SUPPORTED, claims.NOT_SUPPORTED)


def test_words_are_compared_with_the_vector_that_disturbs_as_much():
    assert words(own=0.1, told=0.5, loud=0.8)["prompting"] == claims.SUPPORTED
    assert words(own=0.8, told=0.5, loud=0.2)["prompting"] == claims.NOT_SUPPORTED


def test_without_a_template_nothing_is_said_of_chat():
    assert words(own=1.0)["chat"] == claims.CANNOT


def test_items_moved_the_wrong_way_are_counted_by_level():
    found = words(own=1.0, complex_wrong=0.6)
    assert found["inconsistent_complex"] == claims.SUPPORTED
    assert words(own=1.0)["inconsistent_complex"] == claims.CANNOT  # none goes the wrong way at either level


def test_one_phrasing_of_each_scenario():
    some = values.first(rows(randoms=1)[::-1])
    assert len(some) == len({(row["value"], row["scenario"]) for row in some}) == 6 * 3 * 10


def test_pairs_differ_in_what_they_are_said_to():
    row = {"person": "Ann", "prompt": "Ann wants to", "positive": " share", "negative": " steal"}
    assert values.contrasts("honesty", [row], "answer") == [("Ann wants to share", "Ann wants to steal")]
    ((plus, minus),) = values.contrasts("honesty", [row], "context")
    assert plus.endswith("Ann wants to") and minus.endswith("Ann wants to") and plus != minus
    assert np.all(["{N}" not in text for text in (plus, minus)])


def test_a_setting_is_tried_on_scenarios_that_its_vector_never_saw(monkeypatch):
    """What an answer's own words move, in the scenario it comes from, would choose the reading of answers."""
    scenarios = [
        {"scenario": f"s{i // 2}", "value": "honesty", "prompt": f"{i}", "person": "Ann", "level": "plain"}
        for i in range(12)
    ]
    learnt, asked = set(), set()

    def vector(lab, value, *, seed, reading, rows):
        learnt.update(row["scenario"] for row in rows)
        return reading

    def moved(lab, rows, vectors, layers, ends):
        asked.update(row["scenario"] for row in rows)
        gain = [[abs(i - 7) == 0 and vectors["vector"] == "answer"] for i in layers]
        return np.tile(np.array(gain) * ends, (len(rows), 1, 1, 1))

    monkeypatch.setattr(values, "items", lambda lab, value, split: scenarios)
    monkeypatch.setattr(values, "felt", lambda lab, made: [*range(12)])
    monkeypatch.setattr(values, "vector", vector)
    monkeypatch.setattr(values, "moved", moved)
    assert values.setting(None, "honesty")[0] in values.READINGS and learnt and asked and not learnt & asked
    monkeypatch.setattr(values, "felt", lambda lab, made: [*range(1, 12)])
    assert values.setting(None, "honesty") == ("answer", 7)


class Lab:
    """An experiment that answers what is asked of it by a table of log-probabilities and divergences."""

    quick = False

    def __init__(self, kl=0.0, shift=None):
        self.kl, self.shift, self.asked = kl, shift or {}, []

    def cell(self, function, **settings):
        if function.__name__ == "disturbance":
            said = settings.get("system") or settings.get("before") or ""
            kl = [0.01 * c**2 for c in settings["coefficients"]] if "vectors" in settings else [self.kl]
            self.asked.append(said)
            return [{"kl": [kl]} for _ in settings["texts"]]
        of = settings["system"], settings["items"][0]["prompt"]
        (shift,) = [x for text, x in self.shift.items() if text in of or of[1].startswith(f"{text} ")]
        return [{"logp": [[[[shift, 0.0]]]]} for _ in settings["items"]]


@pytest.mark.parametrize(("kl", "dose"), [(0.01, 1.0), (0.04, 2.0), (0.09, 3.0), (100.0, 8.0), (1e-6, 0.25)])
def test_the_dose_that_disturbs_as_much_as_words_do(kl, dose):
    found = values.as_loud(Lab(kl), ("Be honest.", "Be dishonest."), None, 3, "chat")
    assert found["dose of equal KL"] == pytest.approx(dose, rel=1e-6)
    assert found["KL of saying it"] == found["KL of a neutral sentence"] == pytest.approx(kl)


def test_a_saying_about_a_person_stands_before_the_text_and_names_it():
    lab = Lab(1.0)
    values.as_loud(lab, ("{N} is honest.", "{N} lies."), None, 3, "chat")
    assert lab.asked[0].endswith(" is honest.") and lab.asked[1].endswith(" lies.") and "{" not in "".join(lab.asked)


def test_the_saying_is_the_one_that_moves_training_scenarios_most(monkeypatch):
    rows = [{"scenario": f"{i}", "value": "v", "prompt": "Ann wants to", "person": "Ann"} for i in range(4)]
    rows = [{**row, "positive": " share", "negative": " steal"} for row in rows]
    monkeypatch.setattr(values, "items", lambda lab, value, split: rows if split == "train" else None)
    shift = {"Be good.": 1.0, "Be bad.": 0.5, "Ann gives.": 2.0, "Ann takes.": -2.0}
    monkeypatch.setattr(values, "sayings", lambda value: [("Be good.", "Be bad."), ("{N} gives.", "{N} takes.")])
    assert values.said_best(Lab(shift=shift), "v", "plain") == ("{N} gives.", "{N} takes.")
    assert values.told(Lab(shift=shift), ("{N} gives.", "{N} takes."), rows, "plain").tolist() == [2.0] * 4
    assert values.said_best(Lab(shift=shift | {"Be bad.": -9.0}), "v", "plain") == ("Be good.", "Be bad.")


@pytest.mark.parametrize("value", values.VALUES)
def test_sayings_have_two_poles(value):
    found = values.sayings(value)
    assert len(found) == 4 and all(plus != minus for plus, minus in found)
    assert [("{N}" in plus, "{N}" in minus) for plus, minus in found] == [(False, False)] * 3 + [(True, True)]


def test_each_random_vector_serves_with_both_signs(monkeypatch):
    item = {"value": "v", "scenario": "s", "prompt": "p"}
    monkeypatch.setattr(values, "items", lambda lab, value, split: [item])
    monkeypatch.setattr(
        values, "halves", lambda lab, rows, vectors, layer, randoms: np.array([[*range(randoms["count"])]])
    )
    rows = values.chance(Lab(), "v", [item], None, 3)
    assert len({row["vector"] for row in rows}) == len(rows) == 200
    assert sorted(row["slope"] for row in rows) == sorted([*range(100), *(-i for i in range(100))])
