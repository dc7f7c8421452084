"""The estimate before a run: its arithmetic on a known model, its counts against a run counted here, wrong input."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ministeer.checkpoint import load, save_model
from ministeer.lab import estimate
from ministeer.lab.estimate import SIZES, Work, flops, memory, speed, work
from ministeer.llama import Llama, LlamaConfig
from ministeer.model import GPT2, GPT2Config

ROOT = Path(__file__).parents[2]
SMALL = GPT2Config(100, 32, 16, 2, 2)
LLAMA = LlamaConfig(vocab_size=100, context=32, width=16, inner=40, n_layer=2, n_head=2, n_kv_head=1, head_size=8)
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("[0-9]*.py"))


@pytest.mark.parametrize(("architecture", "config"), [(GPT2, SMALL), (Llama, LLAMA)])
def test_a_pass_costs_what_torch_counts(architecture, config):
    with FlopCounterMode(display=False) as counter:
        architecture(config)(torch.zeros(1, 9, dtype=torch.long))  # enough that they are no few
    counts = {str(k): n for k, n in counter.get_flop_counts()["Global"].items()}
    expected = counts.get("aten.addmm", 0) + counts["aten.mm"]
    assert flops(config, Work("one", passes=9, words=9, mediated=0, batch=9)) == expected


def test_a_head_costs_half_the_blocks_and_the_vocabulary():
    one = Work("mediation", passes=0, words=0, mediated=3, batch=1)
    heads = SMALL.n_layer * SMALL.n_head * 3
    assert flops(SMALL, one) == flops(SMALL, Work("same", passes=heads // 2, words=heads, mediated=0, batch=1))


@pytest.mark.parametrize(
    ("config", "size"), [(SIZES["gpt2"], 124_439_808), (SIZES["gpt2-xl"], 1_557_611_200), (LlamaConfig(), 134_515_008)]
)
def test_the_weights_are_as_large_as_the_checkpoint(config, size):
    assert memory(config, "bfloat16", 1000)[0] == 2 * size
    assert memory(config, "float32", 2000)[1] > memory(config, "float32", 1000)[1] > 4 * size


def test_the_speed_of_a_block_is_measured_on_either_architecture():
    for config in (SMALL, LLAMA):
        assert 0 < speed(config, "bfloat16", torch.device("cpu")) < float("inf")


def test_every_experiment_is_counted_and_the_quick_subset_is_less():
    whole, quick = work(), work(quick=True)
    assert [done.experiment for done in whole] == [done.experiment for done in quick] == EXAMPLES
    costs = [[flops(SIZES["gpt2-xl"], done) for done in some] for some in (quick, whole)]
    assert all(some < 0.9 * all_items for some, all_items in zip(*costs, strict=True))
    assert sum(costs[0]) < 0.5 * sum(costs[1])


def test_the_count_is_what_an_experiment_asks_for_now(tmp_path, monkeypatch):
    """On nano, which is less deep than the stand-in: fewer layers to choose among, so fewer passes, and not by much."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import work as counting

    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setattr(counting, "CONFIG", load("nano")[0].config)
    found = counting.count(ROOT / "examples" / "02_contrastive_activation.py", "nano", tmp_path, "quick")
    stored = next(done for done in work(quick=True) if done.experiment == found["experiment"])
    assert 0.4 < found["passes"] / stored.passes < 1.1


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
