"""The experiments, with their vectors deleted: what rests on steering must then be found by none of them."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

from ministeer.claims import CLAIMS, INCONCLUSIVE, NOT_SUPPORTED, judge
from ministeer.experiment import Experiment
from ministeer.provenance import Provenance
from ministeer.receipt import Receipt
from ministeer.vectors import SteeringVector

EXAMPLES = Path(__file__).parents[1] / "examples"
pytest.importorskip("matplotlib")


def nothing(lab: Experiment, make: object, **settings: object) -> SteeringVector:
    """In the place of any vector that an experiment asks for: zeros at every site."""
    sites = [("pre", i) for i in range(lab.model.config.n_layer + 1)]
    zeros = torch.zeros(lab.model.config.n_embd)
    return SteeringVector(dict.fromkeys(sites, zeros), Provenance(lab.weights, "none", "0" * 16, "last", "float32"))


@pytest.mark.parametrize("name", sorted({claim.experiment for claim in CLAIMS}))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_without_its_vectors_an_experiment_supports_no_claim(name, tmp_path, monkeypatch):
    monkeypatch.setattr(Experiment, "vector", nothing)
    monkeypatch.setattr(Receipt, "finish", lambda *_: None)  # it refuses a run that touches nothing
    monkeypatch.setattr(sys, "argv", [name, "--results", str(tmp_path)])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    evidence = json.loads((tmp_path / "nano" / f"{name}.json").read_text())["evidence"]
    mine = [claim for claim in CLAIMS if claim.experiment == name]
    assert {claim.key for claim in mine} == set(evidence)
    for claim in mine:
        # of 42 scenarios in which nothing goes the wrong way, too few to say that fewer than a tenth do
        words = {NOT_SUPPORTED, INCONCLUSIVE} if claim.unit == "share of items" else {NOT_SUPPORTED}
        assert judge(claim, evidence[claim.key]).word in words, claim.sentence
