"""The experiments, with their vectors deleted: what rests on steering must then be found by none of them."""

import json
import runpy
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ministeer import extract
from ministeer.files import read_lines
from ministeer.lab import data
from ministeer.lab.claims import CANNOT, CLAIMS, NOT_SUPPORTED, judge
from ministeer.lab.experiment import Experiment
from ministeer.provenance import Provenance
from ministeer.receipt import Receipt
from ministeer.vectors import SteeringVector

EXAMPLES = Path(__file__).parents[1] / "examples"
pytest.importorskip("matplotlib")


def nothing(lab: Experiment, make: object, **settings: object) -> SteeringVector:
    """In the place of any vector that an experiment asks for: zeros at every site."""
    sites = [("pre", i) for i in range(lab.model.config.n_layer + 1)]
    front = (1,) if make is extract.activation_addition else ()  # a vector for each position
    zeros = torch.zeros(*front, lab.model.config.n_embd)
    return SteeringVector(dict.fromkeys(sites, zeros), Provenance(lab.weights, "none", "0" * 16, "last", "float32"))


@pytest.mark.parametrize("name", sorted({claim.experiment for claim in CLAIMS}))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_without_its_vectors_an_experiment_supports_no_claim(name, tmp_path, monkeypatch):
    monkeypatch.setattr(Experiment, "vector", nothing)
    monkeypatch.setattr(Receipt, "finish", lambda *_: None)  # it refuses a run that touches nothing
    monkeypatch.setattr(sys, "argv", [name, "--results", str(tmp_path), "--subset", "quick"])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    evidence = json.loads((tmp_path / "nano-quick" / f"{name}.json").read_text())["evidence"]
    mine = [claim for claim in CLAIMS if claim.experiment == name]
    assert {claim.key for claim in mine} == set(evidence)
    for claim in mine:  # of a quick run's few items some cannot be told
        assert judge(claim, evidence[claim.key]).word in (NOT_SUPPORTED, CANNOT), claim.sentence


def run(name: str, results: Path) -> list[str]:
    """The command of a quick run of an example."""
    return [sys.executable, str(EXAMPLES / f"{name}.py"), "--subset", "quick", "--results", str(results)]


def test_a_killed_run_goes_on_where_it_was_and_ends_the_same(tmp_path):
    name = "01_activation_addition"
    subprocess.run(run(name, tmp_path / "whole"), check=True, capture_output=True)
    folder = tmp_path / "cut" / "nano-quick"
    journal, known = folder / "cells" / f"{name}.jsonl", []
    for more in (1, 6, 2):
        process = subprocess.Popen(run(name, tmp_path / "cut"), stdout=subprocess.DEVNULL)
        while process.poll() is None:
            if journal.exists() and journal.read_bytes().count(b"\n") >= len(known) + more:
                break
            time.sleep(0.01)
        assert process.poll() is None, "it ended before it was killed"
        process.kill()
        process.wait()
        lines = journal.read_text().split("\n")[:-1]  # the last may have been cut off
        assert lines[: len(known)] == known, "what was measured before is kept"
        known = lines
    subprocess.run(run(name, tmp_path / "cut"), check=True, capture_output=True)
    folders = (folder, tmp_path / "whole" / "nano-quick")
    cells = [read_lines(path / "cells" / f"{name}.jsonl") for path in folders]
    assert cells[0][: len(known)] == [json.loads(line) for line in known], "nothing was measured twice"
    ended, whole = (json.loads((path / f"{name}.json").read_text()) for path in folders)
    for one in (ended, whole, *cells[0], *cells[1]):
        del one["seconds"]
    for page in (ended, whole):
        del page["peak"], page["took"], page["reused"], page["page"]["command"]  # which names the folder
    assert (ended, cells[0]) == (whole, cells[1])


def test_a_quick_run_measures_one_item_in_four_and_says_so(tmp_path):
    subprocess.run(run("02_contrastive_activation", tmp_path), check=True, capture_output=True)
    found = json.loads((tmp_path / "nano-quick" / "02_contrastive_activation.json").read_text())
    held_out = data.read("values.tsv", value="honesty", split="heldout")
    assert found["quick"] and found["page"]["command"].endswith("--subset quick")
    assert [row[0] for row in found["page"]["tables"][0]["rows"]] == [row["prompt"] for row in held_out[::4]]
