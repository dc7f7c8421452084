"""Experiments on disk: what is measured once is not measured again, and whatever changed is."""

import builtins
import contextlib
import json
import shutil
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from ministeer import extract
from ministeer.checkpoint import save_model
from ministeer.initialize import initialize
from ministeer.lab import answers
from ministeer.lab.experiment import Experiment
from ministeer.model import GPT2, GPT2Config
from ministeer.pack import Int8
from ministeer.provenance import fingerprint
from ministeer.receipt import Receipt
from ministeer.vectors import SteeringVector

NANO = Path(__file__).parents[2] / "weights" / "nano"
PAGE = {"title": "T", "question": "Q?", "protocol": "P.", "finding": "F.", "receipt": Receipt()}
calls: list[object] = []  # measures find it by a text, as what they name is in their key


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small model with nano's tokenizer."""
    calls.clear()
    write_model(tmp_path / "small", seed=0)
    return tmp_path / "small"


def write_model(folder: Path, seed: int) -> None:
    save_model(initialize(GPT2(GPT2Config(4500, 32, 16, 2, 2)), torch.Generator().manual_seed(seed)), folder)
    shutil.copy(NANO / "vocab.tiktoken", folder)


def lab(folder: Path, **settings: str) -> Experiment:
    return Experiment("01_test", str(folder), results=folder.parent / "results", **settings)


def measure(model, tokenizer, *, text, **settings):
    globals()["calls"].append((text, settings))
    if text == "stop":
        raise KeyboardInterrupt
    return [{"norm": model(torch.tensor([tokenizer.encode(text)])).norm().item()}]


def test_a_cell_is_measured_once_and_read_back_the_same(folder):
    first = lab(folder).cell(measure, text="hot")
    again = lab(folder)
    assert again.cell(measure, text="hot") == again.cell(measure, text="hot") == first
    assert len(calls) == 1


def test_what_changed_is_measured_again(folder):
    lab(folder).cell(measure, text="hot", layer=1)
    lab(folder).cell(measure, text="hot", layer=2)  # a setting
    lab(folder, dtype="bfloat16").cell(measure, text="hot", layer=1)  # the dtype
    write_model(folder, seed=1)
    lab(folder).cell(measure, text="hot", layer=1)  # the weights
    assert len(calls) == 4

    def measured(model, tokenizer, *, text):  # the code
        globals()["calls"].append(text)
        return []

    lab(folder).cell(measured, text="hot")
    assert len(calls) == 5


def test_weights_count_to_the_bit(folder):
    """Rounded to bfloat16 and saved under the same name, a model keeps its fingerprint and has other logits."""
    before = lab(folder).cell(measure, text="hot")
    model = lab(folder).model
    save_model(model.bfloat16(), folder)
    again = lab(folder)
    assert again.weights == fingerprint(model) == lab(folder).weights
    assert again.cell(measure, text="hot") != before and len(calls) == 2


TEXTS = ["The sky is blue.", "I feel", "We are"]


@pytest.mark.parametrize("way", ["a constant", "what a list holds", "a function", "autocast"])
def test_within_a_session_too_what_changed_is_measured_again(folder, way, monkeypatch):
    run = lab(folder)
    before = run.cell(answers.disturbance, texts=TEXTS)
    assert run.cell(answers.disturbance, texts=TEXTS) == before and run._reused == 0 and len(run._told) == 1
    monkeypatch.setattr(answers, "PASSED", [1], raising=False)
    monkeypatch.setattr(answers, "_alike", lambda a, b: min(answers.PASSED[0], len(a), len(b)))
    one = run.cell(answers.disturbance, texts=TEXTS)
    assert one != before
    with contextlib.ExitStack() as stack:
        if way == "a constant":
            monkeypatch.setattr(answers, "PASSED", [2])
        elif way == "what a list holds":
            answers.PASSED[0] = 2
        elif way == "a function":
            monkeypatch.setattr(answers, "_alike", lambda a, b: 2)
        else:
            stack.enter_context(torch.autocast("cpu", dtype=torch.bfloat16))
        assert run.cell(answers.disturbance, texts=TEXTS) not in (before, one)


def test_a_vector_is_its_numbers_and_not_only_where_they_come_from(folder):
    run = lab(folder)
    vector = run.vector(extract.activation_addition, positive="Love", negative="Hate", sites=[("pre", 1)])
    other = SteeringVector({("pre", 1): 2 * vector["pre", 1]}, vector.provenance)
    for v in (vector, other, vector):
        run.cell(measure, text="hot", vector=v)
    assert len(calls) == 2


def test_each_cell_says_what_it_was_measured_on(folder):
    """Also where a run in another dtype was cut off between them."""
    lab(folder).cell(measure, text="hot")
    other = lab(folder, dtype="bfloat16")
    other.cell(measure, text="hot")
    assert [json.loads(line)["dtype"] for line in other.journal.read_text().splitlines()] == ["float32", "bfloat16"]


def test_int8_is_measured_as_such_and_not_taken_for_bfloat16(folder):
    rounded, plain = lab(folder, dtype="int8"), lab(folder, dtype="bfloat16")
    assert type(rounded.model.blocks[0].attn.c_attn) is Int8 and rounded.model.dtype == torch.bfloat16
    for run in (rounded, plain):
        run.cell(measure, text="hot")
    lab(folder, dtype="int8").cell(measure, text="hot")
    assert len(calls) == 2 and "--dtype int8" in rounded._command()


def test_an_interrupted_run_continues(folder):
    cut = lab(folder)
    cut.cell(measure, text="hot")
    with pytest.raises(KeyboardInterrupt):
        cut.cell(measure, text="stop")
    assert [path.name for path in cut.folder.rglob("*.*")] == ["01_test.jsonl"]
    with open(cut.journal, "a") as file:
        file.write('{"key": "cut off')  # a kill in the middle of a line
    calls.clear()
    again = lab(folder)
    again.cell(measure, text="hot")
    again.cell(measure, text="cold")
    assert [text for text, _ in calls] == ["cold"]
    lab(folder).cell(measure, text="cold")
    assert len(calls) == 1  # what came after the line that was cut off is whole
    again.save(**PAGE)
    assert sorted(path.name for path in cut.folder.rglob("*.*")) == ["01_test.json", "01_test.jsonl"]
    assert len(again.journal.read_text().splitlines()) == 2


def test_a_damaged_line_is_refused(folder):
    cut = lab(folder)
    cut.journal.write_text("{\n")
    with pytest.raises(ValueError, match="01_test.jsonl: expected a JSON object a line"):
        lab(folder)


def test_the_file_says_what_its_rows_depend_on_and_holds_this_runs_cells_only(folder, capsys):
    lab(folder).cell(measure, text="hot", seed=3)
    run = lab(folder)
    run.cell(measure, text="cold", seed=4)
    run.save(**PAGE)
    found = json.loads(run.path.read_text())
    assert (found["model"], found["dtype"], found["device"]) == (str(folder), "float32", "cpu")
    assert found["weights"] == run.weights
    assert [json.loads(line)["settings"] for line in run.journal.read_text().splitlines()] == [
        {"text": "cold", "seed": 4}
    ]
    assert found["page"]["finding"] == "F."
    said = capsys.readouterr().out.splitlines()
    assert "F." in said[0]
    assert said[1].endswith("what was done: nothing was touched")
    assert found["page"]["receipt"] == "nothing was touched"


def test_what_another_wrote_stays(folder):
    """Only what an experiment saved itself goes when it saves again."""

    def saved(name: str, figure: str) -> Path:
        run = Experiment(name, str(folder), results=folder.parent / "results")
        (run.folder / figure).write_text("<svg/>")
        run.save(**PAGE, figures=[{"file": figure, "alt": "", "caption": ""}])
        return run.folder / figure

    own = folder.parent / "results" / "small" / "01_test.best.safetensors"
    one, other, first = (
        saved("01_kind", "01_kind.svg"),
        saved("01_honest", "01_honest.svg"),
        saved("01_test", "01_a.svg"),
    )
    lab(folder).vector(extract.activation_addition, positive="a", negative="b", sites=[("pre", 1)]).save(own)
    assert saved("01_test", "01_b.svg").exists() and not first.exists()
    assert one.exists() and other.exists() and own.exists()


def test_keys_that_are_no_texts_are_other_keys(folder):
    run = lab(folder)
    assert run._key(measure, {"table": {1: "a"}}) != run._key(measure, {"table": {"1": "a"}})


@pytest.mark.parametrize("part", ["rows", "columns"])
def test_a_model_that_was_ablated_through_data_is_refused(folder, part):
    run = lab(folder)
    run.cell(measure, text="hot")
    w = run.model.blocks[0].mlp.c_fc.weight
    (w.data[3:] if part == "rows" else w.data[:, 3:]).zero_()
    with pytest.raises(ValueError, match="expected the model as it was loaded"):
        run.cell(measure, text="hot")


def test_a_vector_is_made_once_and_says_where_it_comes_from(folder):
    run = lab(folder)
    settings = {"positive": "Love", "negative": "Hate", "sites": [("pre", 1)]}
    made = run.vector(extract.activation_addition, **settings)
    read = lab(folder).vector(extract.activation_addition, **settings)
    assert torch.equal(made["pre", 1], read["pre", 1])
    assert len(list(run.folder.glob("vectors/*.safetensors"))) == 1
    run.cell(measure, text="hot", vector=made)
    run.cell(measure, text="hot", vector=-made)
    assert len(calls) == 2  # another vector is another cell
    last = lab(folder)
    kept = last.vector(extract.activation_addition, positive="Love", negative="Love !", sites=[("pre", 1)])
    last.save(**PAGE)  # the first is no part of these results any more
    (path,) = last.folder.glob("**/*.safetensors")
    assert torch.equal(SteeringVector.load(path)["pre", 1], kept["pre", 1])


def test_figures_of_an_earlier_run_go_and_those_of_other_experiments_stay(folder):
    run = lab(folder)
    for name in ("01_now", "01_before", "02_other"):
        (run.folder / f"{name}.svg").write_text("<svg/>")
    for name in ("01_before", "01_now"):
        run.save(**PAGE, figures=[{"file": f"{name}.svg", "alt": "", "caption": ""}])
    assert sorted(path.name for path in run.folder.glob("*.svg")) == ["01_now.svg", "02_other.svg"]


def test_samples_are_kept_for_the_first_screen(folder):
    shown = {"caption": "C.", "columns": ["prompt", "+1"], "rows": [["I feel", "well"]]}
    run = lab(folder)
    run.save(**PAGE, samples=shown)
    assert json.loads(run.path.read_text())["page"]["samples"] == shown


def test_a_notebook_whose_command_line_is_the_kernels_runs_as_it_is_by_default(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.excepthook", sys.excepthook)
    monkeypatch.setattr("sys.argv", ["/usr/lib/ipykernel_launcher.py", "-f", "kernel-1.json"])
    with pytest.raises(SystemExit):  # a script's own arguments are never ignored
        Experiment.from_command_line("01_test")
    monkeypatch.setattr(builtins, "__IPYTHON__", True, raising=False)
    assert Experiment.from_command_line("01_test").path == Path("results/nano/01_test.json")
    monkeypatch.setattr("sys.argv", ["examples/01_test.py", "--subset", "quick"])  # %run of the script
    assert Experiment.from_command_line("01_test").quick


def test_another_config_tokenizer_or_chat_template_is_measured_again(folder):
    lab(folder).cell(measure, text="hot")
    config = json.loads((folder / "config.json").read_text())
    for changed in ({"layer_norm_epsilon": 0.5}, {"n_head": 1}):  # the weights stay the same
        (folder / "config.json").write_text(json.dumps(config | changed))
        lab(folder).cell(measure, text="hot")
    assert len(calls) == 3
    (folder / "config.json").write_text(json.dumps(config))
    ranks = (folder / "vocab.tiktoken").read_text().splitlines()
    (folder / "vocab.tiktoken").write_text("\n".join(ranks[:-1]) + "\n")
    run = lab(folder)
    run.cell(measure, text="hot")
    run.tokenizer.chat_template = "{{ messages }}"
    run.cell(measure, text="hot")
    assert len(calls) == 5
    (folder / "vocab.tiktoken").write_text("\n".join(ranks) + "\n")
    lab(folder).cell(measure, text="hot")
    assert len(calls) == 5


def scale(weight: torch.Tensor) -> None:
    with torch.no_grad():
        weight.mul_(2)


@pytest.mark.parametrize(
    "edit",
    [
        lambda model: scale(model.blocks[0].ln_1.weight),
        lambda model: scale(model.wte.weight.data),
        lambda model: setattr(model.blocks[1].ln_1, "eps", 0.5),
        lambda model: setattr(model.blocks[1], "forward", lambda x, *given: x),
        lambda model: setattr(model, "ln_f", torch.nn.Identity()),
        lambda model: model.blocks[1].register_forward_hook(lambda module, given, out: 2 * out),
    ],
)
def test_a_model_that_was_changed_since_it_was_loaded_is_refused(folder, edit):
    run = lab(folder)
    run.cell(measure, text="hot")
    run.model.train().eval()
    run.cell(measure, text="hot")
    edit(run.model)
    with pytest.raises(
        ValueError, match="expected the model as it was loaded, got one with a tensor, .*; load it again"
    ):
        run.cell(measure, text="hot")
    assert len(calls) == 1


def test_a_hook_on_every_module_is_refused_and_may_be_taken_off(folder):
    run = lab(folder)
    handle = torch.nn.modules.module.register_module_forward_hook(lambda module, given, out: out)
    try:
        with pytest.raises(ValueError, match="expected the model as it was loaded"):
            run.cell(measure, text="hot")
    finally:
        handle.remove()
    run.cell(measure, text="hot")


def test_rows_that_are_changed_stay_as_they_were_measured(folder):
    def two(model, tokenizer):
        return [{"of": {"a": (1, 2)}}, {"of": {1: "b"}}]

    run, saved = lab(folder), [{"of": {"a": [1, 2]}}, {"of": {"1": "b"}}]
    for _ in range(2):  # measured, and known
        rows = run.cell(two)
        assert rows == saved
        rows.pop()["of"].clear()
        rows[0]["of"]["a"] = 7
    run.save(**PAGE)
    assert lab(folder).cell(two) == saved


def test_closures_and_partials_of_one_text_are_cells_of_their_own(folder):
    def of(k):
        return lambda model, tokenizer: [{"k": k}]

    run = lab(folder)
    assert [run.cell(of(k)) for k in (1, 2, 1)] == [[{"k": 1}], [{"k": 2}], [{"k": 1}]]
    for text in ("hot", "cold", "hot"):
        run.cell(partial(measure, text=text))
    assert len(calls) == 2
    assert json.loads(run.journal.read_text().splitlines()[-1])["measure"] == "measure"


def test_the_order_in_a_setting_counts_and_that_of_the_settings_does_not(folder):
    run = lab(folder)
    run.cell(measure, text="hot", doses={"a": 1, "b": 2})
    run.cell(measure, doses={"a": 1, "b": 2}, text="hot")
    assert len(calls) == 1
    run.cell(measure, text="hot", doses={"b": 2, "a": 1})  # rows come in its order
    assert len(calls) == 2


def test_models_whose_paths_end_alike_share_no_folder_unless_they_are_the_same(folder, tmp_path):
    for name in ("run1", "run2", "copy"):
        write_model(tmp_path / name / "final", seed=int(name == "run2"))

    def at(name: str, experiment: str = "02_y", **settings: bool) -> Experiment:
        return Experiment(experiment, str(tmp_path / name / "final"), results=tmp_path / "results", **settings)

    run = at("run1")
    run.cell(measure, text="hot")
    said = (
        r"expected what was measured on .*run2/final in .*final, got 02_y, measured on .*run1/final, another model; g"
    )
    for name in ("02_y", "03_z"):
        with pytest.raises(ValueError, match=said):
            at("run2", name)
    run.save(**PAGE)
    with pytest.raises(ValueError, match=said):
        at("run2")
    at("run2", quick=True).cell(measure, text="hot")
    again = at("copy")  # the same weights
    again.cell(measure, text="hot")
    assert len(calls) == 2
    write_model(tmp_path / "run1" / "final", seed=2)  # trained again
    at("run1").cell(measure, text="hot")
    assert len(calls) == 3


def test_settings_that_cannot_be_written_down_are_refused(folder):
    with pytest.raises(ValueError, match="expected settings that JSON can hold, or steering vectors, got Tensor"):
        lab(folder).cell(measure, text="hot", weights=torch.ones(2))
    assert not calls
