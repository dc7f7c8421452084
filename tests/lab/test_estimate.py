"""The estimate before a run: its arithmetic on a known model, its counts against a run counted here, wrong input."""

import itertools
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ministeer.checkpoint import load, save_model
from ministeer.lab import atlas, estimate
from ministeer.lab.estimate import SIZES, record, recorded, seconds, speed, token, weights
from ministeer.llama import Llama, LlamaConfig
from ministeer.model import GPT2, GPT2Config
from ministeer.pack import widest

ROOT = Path(__file__).parents[2]
SMALL = GPT2Config(100, 32, 16, 2, 2)
LLAMA = LlamaConfig(vocab_size=100, context=32, width=16, inner=40, n_layer=2, n_head=2, n_kv_head=1, head_size=8)
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("[0-9]*.py") if path.stem < atlas.EXPERIMENT)


@pytest.mark.parametrize(("architecture", "config"), [(GPT2, SMALL), (Llama, LLAMA)])
def test_a_token_costs_what_torch_counts(architecture, config):
    with FlopCounterMode(display=False) as counter:
        architecture(config)(torch.zeros(1, 9, dtype=torch.long))  # enough that they are no few
    counts = {str(k): n for k, n in counter.get_flop_counts()["Global"].items()}
    assert 9 * token(config) == counts.get("aten.addmm", 0) + counts["aten.mm"]


@pytest.mark.parametrize(
    ("config", "size"), [(SIZES["gpt2"], 124_439_808), (SIZES["gpt2-xl"], 1_557_611_200), (LlamaConfig(), 134_515_008)]
)
def test_the_weights_are_as_large_as_the_checkpoint(config, size):
    assert weights(config, "bfloat16") == 2 * size
    assert weights(config, "float32") == 4 * size


def test_the_speed_of_a_block_is_measured_on_either_architecture():
    for config, dtype in itertools.product((SMALL, LLAMA), ("bfloat16", "int8")):
        assert 0 < speed(config, dtype, torch.device("cpu")) < float("inf")


def test_weights_in_8_bits_are_those_of_the_blocks_and_of_the_unembedding():
    assert weights(SIZES["gpt2-xl"], "bfloat16") == pytest.approx(3.12e9, rel=0.01)
    orders = 2 if widest() == 63 else 1
    assert weights(SIZES["gpt2-xl"], "int8") == pytest.approx(orders * 1.48e9 + 3 * 8.04e7, rel=0.01)


@pytest.mark.parametrize("quick", [False, True])
def test_every_experiment_was_timed_and_the_model_of_the_record_takes_what_it_took(quick):
    for config in (load("nano")[0].config, SIZES["gpt2"]):
        run = recorded(config, quick)
        assert [*run["seconds"]] == EXAMPLES[:-1]  # the last needs GPT-2
        taken = seconds(config, quick, run["rate"] / 2)  # a machine half as fast
        assert sum(taken.values()) == pytest.approx(2 * sum(run["seconds"].values()) * token(config) / run["token"])
    whole, some = (sum(recorded(SIZES["gpt2"], which)["seconds"].values()) for which in (False, True))
    assert some < 0.6 * whole


def test_a_run_is_recorded_whole_or_not_at_all(tmp_path):
    for name, reused in (("01_one", 0), ("02_two", 0)):
        one = {"name": name, "model": "m", "seconds": 3.0, "peak": 2.0, "reused": reused}
        (tmp_path / f"{name}.json").write_text(json.dumps(one))
    found = record(tmp_path, SMALL, "float32", 1e9)
    assert found["seconds"] == {"01_one": 3.0, "02_two": 3.0}
    assert found["beside"] == pytest.approx(2.0, abs=0.01)
    (tmp_path / "02_two.json").write_text(json.dumps(one | {"reused": 1}))
    with pytest.raises(ValueError, match="measured in one go in .*, got kept cells in 02_two"):
        record(tmp_path, SMALL, "float32", 1e9)


def test_the_command_says_memory_and_time_without_loading_the_model(tmp_path):
    save_model(GPT2(SMALL), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not read")
    command = [sys.executable, "-m", "ministeer.lab.estimate", str(tmp_path), "--subset", "quick"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "GiB at the peak" in said and "with a GPU" in said and "one item in four" in said


@pytest.mark.parametrize("wrong", [["gpt3"], ["gpt2", "--device", "gpu"]])
def test_wrong_input_is_one_sentence(wrong, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["estimate", *wrong])
    with pytest.raises(SystemExit, match="expected") as stop:
        runpy.run_path(estimate.__file__, run_name="__main__")
    assert "\n" not in str(stop.value)
