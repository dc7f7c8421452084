"""From a name or a path to the files of a model: GGUF beside safetensors, what a folder may hold, and what is never opened."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from reference import TOLERANCE, relative

from ministeer import checkpoint, model_files
from ministeer.layouts import LAYOUTS
from ministeer.llama import LlamaConfig
from ministeer.model import GPT2Config
from ministeer.model_files import find
from ministeer.tokenizer import Tokenizer

pytest.importorskip("gguf", reason="the package gguf is not installed")
import test_gguf_model as made
from test_tokenizer import gguf_metadata

IDS = torch.tensor([[5, 95, 0, 17, 42, 17, 8, 9, 9, 20], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]])
NANO = Path(__file__).parents[1] / "weights" / "nano"
MODELS = {
    "llama": made.llama,
    "llama, tied": lambda: made.llama(tie_word_embeddings=True),
    "llama 3": lambda: made.llama(rope_parameters={**made.LLAMA3, "rope_theta": 500000.0}, head_dim=64),
    "qwen2": made.qwen2,
    "gpt2": made.gpt2,
}


def same_scaling(mine: Any, theirs: Any) -> dict[str, Any]:
    """The factor of a GGUF file has gone through float32."""
    found, scaling = getattr(mine, "rope_scaling", None), getattr(theirs, "rope_scaling", None)
    if found is None or scaling is None:
        return {}
    assert found.factor == pytest.approx(scaling.factor, rel=1e-5)
    return {"rope_scaling": replace(scaling, factor=found.factor)}


@pytest.fixture(params=MODELS)
def pair(request, tmp_path):
    """A model of transformers, and the GGUF file that llama.cpp's converter would make of it."""
    model, more = made.theirs(MODELS[request.param]()), None
    if request.param == "llama 3":  # the file has what the rule makes of the speeds, not the rule
        speeds, _ = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["llama3"](model.config, "cpu")
        plain = 1 / 500000.0 ** (torch.arange(0, 64, 2) / 64)
        more = {"rope_freqs.weight": (plain / speeds).float().numpy()}
    return model, made.save(tmp_path / "model.gguf", model, more=more)


def test_a_gguf_file_gives_the_logits_of_transformers(pair):
    model, file = pair
    ours = checkpoint.load_model(file)
    with torch.no_grad():
        assert relative(ours(IDS), model(IDS).logits) < TOLERANCE
    expected = checkpoint.from_transformers(model).config
    assert ours.config == replace(expected, **same_scaling(ours.config, expected))
    assert checkpoint.read_config(file) == ours.config
    half = checkpoint.load_model(file, dtype="bfloat16")
    for name, weight in half.state_dict().items():
        assert torch.equal(weight, ours.get_parameter(name).bfloat16())


def test_a_gguf_file_in_float32_is_mapped_but_for_rows_that_were_put_in_order(pair):
    """Its numbers are the file's own, and a change of one does not reach the file."""
    _, file = pair
    content = file.read_bytes()
    model = checkpoint.load_model(file)
    places = [p.data_ptr() for name, p in model.named_parameters() if not name.endswith((".q.weight", ".k.weight"))]
    assert max(places) - min(places) < len(content)
    for weight in model.parameters():
        weight.zero_()
    assert file.read_bytes() == content


def test_a_quantised_gguf_file_is_exact_in_float32_and_saved_as_such(pair, tmp_path):
    model, _ = pair
    file = made.save(tmp_path / "small.gguf", model, kind=made.KINDS.Q8_0)
    ours = checkpoint.load_model(file)
    stored = {entry.key: entry for entry in find(file).entries(lambda _: None)}
    expected = stored["wte.weight" if "wte.weight" in stored else "model.embed_tokens.weight"].read()
    assert expected.dtype == torch.float32
    assert torch.equal(ours.wte.weight, expected)
    assert not torch.equal(expected, model.get_input_embeddings().weight)
    checkpoint.save_model(ours, tmp_path / "again")
    again = checkpoint.load_model(tmp_path / "again")
    assert again.config == ours.config
    assert torch.equal(again(IDS), ours(IDS))


def test_a_folder_with_one_gguf_file_is_that_model(pair, tmp_path):
    _, file = pair
    assert find(tmp_path).weights == file
    (tmp_path / "other.gguf").write_bytes(b"")
    with pytest.raises(ValueError, match="expected one model in this folder, found 2 GGUF files; name one of them"):
        find(tmp_path)
    checkpoint.save_model(checkpoint.load_model(file), tmp_path)
    assert find(tmp_path).weights == tmp_path / "model.safetensors"


def test_a_damaged_gguf_file_is_one_sentence(pair):
    _, file = pair
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(ValueError, match=f"^{re.escape(str(file))}: expected [^\n]*$"):
        checkpoint.load_model(file)


# --- pickles ---


def convert(folder: Path) -> bool:
    """Refused, never opened; the command of the message, if there is one, makes a folder that loads."""
    with pytest.raises(ValueError, match="pickles can run code, so they are never opened") as caught:
        checkpoint.load_model(folder)
    command = re.search(r'python -c "(.*)"$', str(caught.value))
    if command:
        subprocess.run([sys.executable, "-c", command[1]], check=True)
    return command is not None


@pytest.mark.parametrize(
    "files", ["pytorch_model.bin", "beside a trainer's state", "shards", "ckpt.pt", "lightning.ckpt", "two"]
)
def test_the_command_that_converts_is_for_the_model_among_the_pickles(files, tmp_path):
    model = made.theirs(made.gpt2())
    model.config.save_pretrained(tmp_path)
    state = model.state_dict()
    names = list(state)
    if files == "shards":
        for number, some in enumerate((names[:9], names[9:]), start=1):
            part = {name: state[name] for name in some}
            torch.save(part, tmp_path / f"pytorch_model-0000{number}-of-00002.bin")
    elif files == "ckpt.pt":
        torch.save({"model": state, "iter_num": 3}, tmp_path / files)
    elif files == "lightning.ckpt":
        torch.save({"state_dict": state, "epoch": 3, "model": "a name"}, tmp_path / files)
    elif files == "two":
        for name in ("one.pt", "other.pt"):
            torch.save(state, tmp_path / name)
    else:
        torch.save(state, tmp_path / "pytorch_model.bin")
    if files == "beside a trainer's state":
        torch.save(state, tmp_path / "pytorch_model_1.bin")
        for name in ("optimizer.bin", "scheduler.pt", "training_args.bin", "rng_state.pth", "random_states_0.pkl"):
            torch.save({"state": {}}, tmp_path / name)
    assert convert(tmp_path) is (files != "two")
    if files != "two":
        with torch.no_grad():
            assert relative(checkpoint.load_model(tmp_path)(IDS), model(IDS).logits) < TOLERANCE


@pytest.mark.parametrize(
    ("there", "name", "words"),
    [
        (
            ["rng_state_0.pth", "optimizer.pt", "random_states_0.pkl", "sampler.bin", "scaler.pt", "dl_state_dict.bin"],
            "",
            "expected model.safetensors or .* found neither; is it a model's",
        ),
        (
            ["optimizer.bin", "pytorch_model.bin"],
            "optimizer.bin",
            "this is a trainer's own state: name the folder of the model",
        ),
        (["zero_to_fp32.py"], "", "found neither; run `python zero_to_fp32.py . .` there"),
        (["consolidated.00.pth"], "", "its tensors have Meta's names: take the model in the hub's layout"),
        (["adapter_config.json", "adapter_model.bin"], "", "found an adapter of peft; merge it"),
        (
            ["pytorch_model-1-of-2.bin", "pytorch_model-1-of-3.bin"],
            "",
            "convert the model among them with safetensors$",
        ),
        (
            ["pytorch_model-1-of-2.bin", "pytorch_model-2-of-2.bin", "pytorch_model.bin", "optimizer.bin"],
            "pytorch_model-2-of-2.bin",
            "pytorch_model-1-of-2.bin', .*-2-of-2",
        ),
    ],
)
def test_pickles_that_no_command_would_make_a_model_of_get_none(there, name, words, tmp_path):
    for file in there:
        (tmp_path / file).write_bytes(b"")
    with pytest.raises((ValueError, FileNotFoundError), match=words) as caught:
        find(tmp_path / name)
    assert ("python -c" in str(caught.value)) == ("', " in words)


def test_a_path_that_a_command_could_not_name_gets_no_command(tmp_path):
    (tmp_path / "it's").mkdir()
    (tmp_path / "it's" / "model.pt").write_bytes(b"")
    with pytest.raises(ValueError, match="convert the model among them with safetensors$"):
        find(tmp_path / "it's")


def test_a_model_with_an_adapter_beside_it_is_read_without_and_says_so(tmp_path):
    shutil.copytree(NANO, tmp_path / "both")
    (tmp_path / "both" / "adapter_config.json").write_text("{}")
    with pytest.warns(UserWarning, match="found an adapter of peft beside it; the model is read without it") as said:
        model, _ = checkpoint.load(tmp_path / "both")
    assert said[0].filename == __file__ and model.config == find(NANO).config


def test_a_name_that_is_a_path_too_says_which_was_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(NANO, tmp_path / "nano")
    (tmp_path / "nano" / "config.json").write_text("{}")
    with pytest.warns(
        UserWarning, match='"nano" is the model known by this name, not the path .* write "./nano"$'
    ) as said:
        model, _ = checkpoint.load("nano")
    assert said[0].filename == __file__
    assert model.config == find(NANO).config
    for path in ("./nano", Path("nano")):
        with pytest.raises(ValueError, match="config.json: expected model_type"):
            checkpoint.load(path)


# --- tokenizers ---


def test_a_gguf_file_brings_its_tokenizer(pair, monkeypatch):
    _, file = pair
    told = gguf_metadata() | {"tokenizer.chat_template": "{{ messages }}"}
    monkeypatch.setattr(model_files, "metadata", lambda path: told if path == file else None)
    expected = Tokenizer.from_gguf(told).encode("the the 19")
    _, tok = checkpoint.load(file)
    assert (tok.encode("the the 19"), tok.chat_template) == (expected, "{{ messages }}")


@pytest.mark.parametrize("config", [GPT2Config(270, 16, 8, 1, 2), LlamaConfig(270, 16, 8, 8, 1, 2, 1, 4)])
def test_a_model_is_saved_with_its_tokenizer_as_any_client_reads_it(config, tmp_path, monkeypatch):
    model = LAYOUTS[type(config)].model(config)
    tok = Tokenizer.from_gguf(gguf_metadata())
    for folder in ("a", "b"):
        checkpoint.save_model(model, tmp_path / folder, tokenizer=tok)
    files = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert {*files} == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()}
    again, mine = checkpoint.load(tmp_path / "a")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "a")
    for text in ("the the 19", "<|im_end|>"):
        assert mine.encode(text, special=True) == tok.encode(text, special=True) == theirs(text).input_ids
    assert all(map(torch.equal, again.state_dict().values(), model.state_dict().values()))
    reader = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "a")
    read = theirs("the the 19", return_tensors="pt")
    with torch.no_grad():
        assert relative(reader(**read).logits, model(read["input_ids"])) < TOLERANCE
    assert (reader.dtype, reader.generation_config.eos_token_id) == (torch.float32, [0, 2])
    said = json.loads(files["config.json"])
    assert (said["bos_token_id"], said["eos_token_id"]) == (tok.bos, [0, 2])

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="no space left"):
        checkpoint.save_model(again, tmp_path / "a", tokenizer=Tokenizer.from_gguf(gguf_metadata(eos_token_id=0)))
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    small = LAYOUTS[type(config)].model(replace(config, vocab_size=200))
    with pytest.raises(ValueError, match="a tokenizer of at most 200 tokens, the model's vocab_size, got 262; give"):
        checkpoint.save_model(small, tmp_path / "new", tokenizer=tok)
    assert not (tmp_path / "new").exists()
