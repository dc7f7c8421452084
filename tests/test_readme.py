"""The README and the pages that it leads to: their code runs as it stands there, commands exist, links lead somewhere."""

import json
import re
from pathlib import Path

import pytest
import torch

import ministeer
from ministeer.lab import atlas, claims, report

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LOOP, USE = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_six_line_loop_is_what_it_says():
    model, tokenizer = ministeer.load("nano")
    names = {"model": model, "ids": torch.tensor([tokenizer.encode("I think you are")])}
    names["v"] = torch.randn(model.config.n_embd, generator=torch.Generator().manual_seed(0))
    exec(LOOP, names)  # noqa: S102 - what is run is the README, nothing from outside
    assert torch.equal(names["logits"], model(names["ids"], adds={("pre", 6): 5.0 * names["v"]}))
    assert not torch.equal(names["logits"], model(names["ids"]))


def test_the_example_of_use_runs_and_steers_towards_what_it_says(capsys):
    names = {}
    exec(USE, names)  # noqa: S102
    steered = capsys.readouterr().out.strip()
    plain = ministeer.say(names["model"], names["tok"], "I feel")
    assert "towards love" in USE
    assert "I love" in steered and "I hate" not in steered
    assert "I hate" in plain


def test_every_make_target_and_file_it_names_is_there():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"\bmake ([a-z][a-z/-]*)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "weights" / "nano" / "MODEL_CARD.md"]
PAGES += sorted((ROOT / "docs").rglob("*.md")) + sorted((ROOT / "benchmarks").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_link_is_dead(page):
    for link in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link


def test_it_is_read_in_one_sitting():
    lines = README.splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 120] == []


def test_a_package_index_shows_no_link_that_it_does_not_have():
    """setup.py leaves of links to files only their text."""
    (pattern,) = re.findall(
        r'^LINK = re.compile\(r"(.+)"\)', (ROOT / "setup.py").read_text(encoding="utf-8"), re.MULTILINE
    )
    shown = re.sub(pattern, r"\1", README)
    assert re.findall(r"\]\((?!https?://)", shown) == [] and "](https://arxiv.org/" in shown


def test_what_it_says_was_taught_is_what_the_recorded_run_found():
    pytest.importorskip("scipy")
    run = json.loads((ROOT / "docs" / "results" / "smollm2-135m-instruct" / "evidence.json").read_text())
    found = {v.claim.key: v for v in report.verdicts(run["this training"])}
    words = {
        "inconsistent": claims.SUPPORTED,
        "overcorrection": claims.SUPPORTED,
        "complexity_distractors": claims.SUPPORTED,
        "truth": claims.NOT_SUPPORTED,
        "bias_added": claims.NOT_SUPPORTED,
    }
    assert {key: found[key].word for key in words} == words
    effect, low, _ = found["values"].effect
    assert f"by {effect:.1f} nats" in README and f"begins at {low:.2f}" in README
    assert "none of 200 random vectors" in README and found["values"].claim.above == 0.25
    assert f"{100 * found['inconsistent'].effect[0]:.0f} % of the held-out items" in README
    assert 0.45 < found["bias_erased"].effect[0] < 0.55 and "occupations are halved" in README
    assert f"their right pronoun falls by {found['overcorrection'].effect[0]:.2f}" in README
    of, as_much = map(int, re.findall(r"of (\d+) random vectors (\d+) do as much", found["bias_added"].reason)[0])
    assert as_much > of / 2 and "most random vectors do as much" in README


def test_what_it_says_of_public_behaviours_is_what_was_recorded():
    pytest.importorskip("scipy")
    folder = ROOT / "docs" / "results" / "atlas" / "smollm2-135m-instruct"
    rows = [row for row in json.loads((folder / "rows.json").read_text()) if row["chosen"]]
    moved = sorted(row["steerability"] for row in rows)
    assert len(rows) == 135 and f"moves one by {moved[0]:.2f} nats and another by" in README
    assert f"another by {moved[-1]:.1f}, and how well" in README and moved[-1] > 100 * moved[0]
    for verdict in atlas.verdicts(rows):  # too loosely to foretell it
        assert verdict.word == claims.INCONCLUSIVE
    found = {
        v.claim.key: v for v in report.verdicts(json.loads((folder / "evidence.json").read_text())["this training"])
    }
    assert all(found[key].word == claims.SUPPORTED for key in ("price_linear", "long_kept", "words_added"))
    assert 0 < found["price_quadratic"].effect[0] < 0.5  # half less the exponents' distance from 2, in the mean
