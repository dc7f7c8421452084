"""The atlas's statistics on planted data, its claims, which stay as they were fixed, and its page."""

import math
import re

import numpy as np
import pytest
from scipy.stats import spearmanr

from ministeer.lab import atlas, atlas_page
from ministeer.lab.claims import CANNOT, INCONCLUSIVE, NOT_SUPPORTED, SUPPORTED

SIZES = [45, 18, 17, 10, 6, 3, 3, 3, 3, 2, 2, 2, *[1] * 21]  # about the families of the 135 sets
FAMILIES = [f"family {i}" for i, size in enumerate(SIZES) for _ in range(size)]
WHICH = np.repeat(np.arange(len(SIZES)), SIZES)
COUNT = len(FAMILIES)


def noise(rng: np.random.Generator, shared: float) -> np.ndarray:
    """Normal numbers, a behaviour each, of whose variance a share is of its family."""
    return math.sqrt(shared) * rng.standard_normal(len(SIZES))[WHICH] + math.sqrt(1 - shared) * rng.standard_normal(
        COUNT
    )


def planted(seed: int = 0, effect: float = 0.8, count: int = COUNT) -> list[dict]:
    """Rows in which agreement goes with both outcomes and separation with none; and a layer that was not chosen, where nothing does."""
    rng = np.random.default_rng(seed)
    a, b, e, f = (noise(rng, 0.3) for _ in range(4))
    rest = math.sqrt(1 - effect**2)
    rows = []
    for i in range(count):
        good = effect * a[i] + rest * e[i]
        one = {
            "behaviour": f"{FAMILIES[i]}-<{i}>", "family": FAMILIES[i], "layer": 15, "chosen": True,
            "steerability": good, "low": good - 1, "high": good + 1, "per_token": good / 15, "per_vector": 2 * good,
            "wrong": 1 / (1 + math.exp(good)), "agreement": 0.3 + 0.1 * a[i], "separation": 2 + b[i], "tried": good,
            "preferred": 0.5, "dropped": 0, "random covariance": 0.4, "random covariance wrong": 0.5,
            "random isotropic": 0.1, "as much": 0,
        }  # fmt: skip
        rows += [one, {**one, "layer": 21, "chosen": False, "steerability": f[i]}]
    return rows


def test_the_rank_correlation_is_scipys_with_ties_and_0_of_what_does_not_vary():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, 40).astype(float), rng.integers(0, 4, 40).astype(float)
    assert atlas.spearman(x, y) == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)
    assert atlas.spearman(x, np.ones(40)) == 0.0
    assert atlas.spearman(x, -(x**3)) == pytest.approx(-1.0)


def test_two_runs_are_compared_on_the_behaviours_of_both_at_their_chosen_layers():
    rows = planted(count=80)
    others = [{**row, "steerability": 2 * row["steerability"] ** 3} for row in rows[60:]]
    said = atlas.alike(rows, others)
    mean = np.mean([row["steerability"] for row in rows[60:] if row["chosen"]])
    assert said.startswith(
        f"Of the 50 behaviours that the other run has too, a tenth moves {mean:.2f} nats on average here"
    )
    assert "rank correlation 1.00 [" in said
    with pytest.raises(
        ValueError, match="expected another run with behaviours of this one, of two families or more, got 0"
    ):
        atlas.alike(rows, [])


@pytest.mark.parametrize("shared", [0.0, 0.6])
def test_its_interval_holds_the_truth_as_often_as_it_says_also_where_families_resemble_each_other(shared, monkeypatch):
    monkeypatch.setattr(atlas, "DRAWS", 200)
    rng, missed, alone = np.random.default_rng(1), 0, 0
    for _ in range(100):
        x = noise(rng, shared)
        y = 0.5 * x + math.sqrt(0.75) * noise(rng, shared)
        truth = 6 / math.pi * math.asin(0.25)
        _, low, high = atlas.rank_correlation(x, y, FAMILIES, 0.95)
        missed += not low <= truth <= high
        _, low, high = atlas.rank_correlation(x, y, range(COUNT), 0.95)  # as if each were a family of its own
        alone += not low <= truth <= high
    assert missed <= 10
    assert alone > 15 or not shared  # what families are for


def test_what_can_be_foretold_is_found_and_what_cannot_is_not():
    rng = np.random.default_rng(0)
    x = np.stack([noise(rng, 0.3), noise(rng, 0.3)], 1)
    effect, low, high = atlas.foretold(x, 2 + x @ [1.0, -0.5] + 0.3 * noise(rng, 0.3), FAMILIES, 0.95)
    assert 0.8 < low < effect < high < 1
    effect, low, high = atlas.foretold(x, noise(rng, 0.0), FAMILIES, 0.95)
    assert low < effect < 0.02 and high < 0.1
    assert atlas.foretold(x, 2 + x @ [1.0, -0.5], FAMILIES, 0.95)[0] == pytest.approx(1.0)


def test_each_family_is_foretold_by_the_others():
    """Two families at two places, each constant: from inside a family nothing is left to foretell, from outside all is."""
    groups, y = ["a"] * 6 + ["b"] * 6, np.array([0.0] * 6 + [1.0] * 6)
    x = np.random.default_rng(0).standard_normal((12, 1)) + y[:, None]
    assert atlas.foretold(x, y, groups, 0.95)[0] == pytest.approx(0.0, abs=1e-9)


def words(rows):
    return {v.claim.key: v.word for v in atlas.verdicts(rows)}


def test_a_planted_predictor_is_supported_and_another_is_not():
    found = words(planted(effect=0.9))
    assert found["agreement_steerability"] == found["agreement_wrong"] == SUPPORTED
    assert found["both_steerability"] == found["both_wrong"] == SUPPORTED
    assert found["separation_steerability"] in (NOT_SUPPORTED, INCONCLUSIVE)


def test_a_predictor_of_the_reverse_is_not_supported():
    rows = [{**row, "steerability": -row["steerability"], "wrong": 1 - row["wrong"]} for row in planted(effect=0.9)]
    found = words(rows)
    assert found["agreement_steerability"] == found["agreement_wrong"] == NOT_SUPPORTED


def test_where_nothing_goes_with_anything_nothing_is_supported():
    found = words(planted(effect=0.0, seed=2))
    assert SUPPORTED not in found.values() and NOT_SUPPORTED in found.values()


def test_too_few_and_all_the_same_cannot_be_told():
    assert set(words(planted(count=12)).values()) == {CANNOT}
    alike = words([{**row, "wrong": 0.0} for row in planted()])
    assert alike["agreement_wrong"] == alike["both_wrong"] == CANNOT and alike["agreement_steerability"] != CANNOT
    with pytest.raises(ValueError, match="one chosen layer for each behaviour, got several"):
        atlas.verdicts([{**row, "chosen": True} for row in planted()])


def test_other_layers_do_not_enter_the_verdicts_and_are_shown_beside_them():
    rows = planted(effect=0.9)
    shown = {(row["layer"], row["predictor"]): row for row in atlas.correlations(rows)}
    assert shown["chosen", "agreement"] == {**shown[15, "agreement"], "layer": "chosen"}
    assert shown["chosen", "agreement"]["steerability"] > 0.8 and abs(shown[21, "agreement"]["steerability"]) < 0.3
    assert shown["chosen", "agreement"]["wrong"] == pytest.approx(shown["chosen", "agreement"]["steerability"])
    assert shown["chosen", "tried"]["steerability"] == pytest.approx(1.0)


def test_the_claims_are_those_that_were_fixed_before_any_run():
    assert atlas.frozen() == "3744fa81f7aaeb21365d4aea2add2e593757bff11988483e68829d33749fe486"
    assert [claim.above for claim in atlas.CLAIMS] == [0.3] * 4 + [0.1] * 2


def test_the_page_has_every_behaviour_once_in_each_scatter_and_in_the_table_and_needs_no_other_file():
    rows = planted()
    about = ["Measured & found."]
    tables = [{"caption": "More", "columns": ["a"], "rows": [["<b>"]]}]
    page = atlas_page.atlas("What steers it", about, rows, atlas.verdicts(rows), tables)
    assert not re.search(r"https?:|src=|@import|url\(|<link", page)
    assert page.count("<svg class='dots'") == 4 and page.count("<circle") == 4 * COUNT
    table = page[page.index("<table class='atlas'>") : page.index("</table>", page.index("<table class='atlas'>"))]
    assert table.count("<tr data-n=") == COUNT
    for row in rows[::2]:
        name = row["behaviour"].replace("-", " ").replace("<", "&lt;").replace(">", "&gt;")
        assert table.count(f"<td>{name}</td>") == 1 and page.count(f"<title>{name}: ") == 4
    assert "Measured &amp; found." in page and "&lt;b&gt;" in page and atlas.frozen() in page
    best = max(rows[::2], key=lambda row: row["steerability"])
    first = table[table.index("<tr data-n='0'") : table.index("</tr>", table.index("<tr data-n='0'"))]
    assert f"data-v='{best['steerability']}'" in first  # sorted before any script runs
    for v in atlas.CLAIMS:
        assert v.sentence in page


@pytest.mark.parametrize("values", [[0.02, 0.31], [-3.1, 8.4], [5.0, 5.2], [0.0, 0.0], [-0.2, -0.1], [0.5]])
def test_an_axis_has_round_ticks_around_all_values(values):
    first, last, step = atlas_page._axis(values)
    assert first <= min(values) and max(values) <= last
    assert 1 <= round((last - first) / step) <= 12
    assert (last - first) / step == pytest.approx(round((last - first) / step))
