"""The `ministeer` command: what it prints is what the functions give, and wrong words end in one sentence."""

import functools
import io
import itertools
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import ministeer
from ministeer import Receipt, Steer, SteeringVector, cli, extract, formats, generate, options, prefill

TEXTS = ["--plus", "Love", "--minus", "Hate", "--layer", "1", "--tokens", "3"]
LOVE = [*TEXTS, "--coeff", "-2"]
NANO = Path(__file__).parents[1] / "weights" / "nano"
LOADED = functools.cache(ministeer.load)


@pytest.fixture(autouse=True)
def load_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "load", LOADED)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of vectors for nano: one for every position, one for each of two, one of other weights, one of a smaller model, ..."""
    folder = tmp_path_factory.mktemp("vectors")
    model, tok = LOADED("nano", device="cpu", dtype="float32")
    extract.activation_addition(model, tok, "Love", "Hate", ("pre", 1)).save(folder / "front.safetensors")
    every = extract.contrastive(model, tok, [("I love", "I hate")], [("pre", 1), ("pre", 5)], token="last")
    every.save(folder / "every.safetensors")
    formats.save_gguf(every.only(("pre", 5)), folder / "every.gguf", model_hint="gpt2")
    (0 * every).save(folder / "zero.safetensors")
    SteeringVector(every.tensors, replace(every.provenance, model="0" * 16)).save(folder / "others.safetensors")
    extract.contrastive(model, tok, [("I love", "I hate")], ("mid", 3), token="last").save(folder / "mid.safetensors")
    SteeringVector({("pre", 1): torch.ones(64)}, every.provenance).save(folder / "narrow.safetensors")
    (folder / "model").mkdir()
    shutil.copy(NANO / "config.json", folder / "model")
    shutil.copy(NANO / "model.safetensors", folder)
    return folder


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    cli.main(["steer", *arguments])
    return capsys.readouterr().out.splitlines()


def test_a_command_that_is_nearly_one_is_named(capsys):
    assert refused(capsys, "stear", "I feel").rstrip().endswith(", did you mean 'steer'; see ministeer --help")


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_of_standard_input_the_end_of_the_last_line_alone_is_no_prompt(end, capsys, monkeypatch):
    asked = "  I feel\n\n "
    wanted = said(capsys, asked, *TEXTS, "--tokens", "3", "--json")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((asked + end).encode())))
    assert said(capsys, "-", *TEXTS, "--tokens", "3", "--json") == wanted
    assert wanted != said(capsys, asked.strip(), *TEXTS, "--tokens", "3", "--json")


def test_lines_within_a_prompt_end_as_everywhere(capsys, monkeypatch):
    wanted = said(capsys, "I feel\nYou feel\nI", *TEXTS, "--tokens", "3", "--json")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"I feel\r\nYou feel\r\nI\r\n")))
    assert said(capsys, "-", *TEXTS, "--tokens", "3", "--json") == wanted


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_nothing_on_standard_input_is_no_prompt(end, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(end)))
    assert "expected a prompt on standard input, got nothing" in refused(capsys, "steer", "-", *TEXTS)


def test_the_advice_against_noise_names_no_number_that_makes_more_of_it(tmp_path, capsys):
    """--coeff multiplies what a file's own coefficient says."""
    model, tok = LOADED("nano", device="cpu", dtype="float32")
    extract.contrastive(model, tok, [("Love", "Hate")], ("pre", 4), token="last").save(tmp_path / "v.safetensors")
    for coeff, advice in (([], "take a smaller coefficient"), (["--coeff", "2"], "take a smaller --coeff")):
        cli.main(["steer", "I feel", "--tokens", "2", "--vector", f"{tmp_path / 'v.safetensors'}:1000", *coeff])
        assert advice in capsys.readouterr().err


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What the command says in refusing these words: one line, and it fails."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    out, err = capsys.readouterr()
    message = err or f"{ended.value.code}\n"  # a text as the exit's code is printed by Python itself
    assert out == "" and ended.value.code not in (0, None)
    assert message.startswith("ministeer: ") and message.count("\n") == 1
    return message


def test_it_prints_both_texts_and_the_receipt(capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys, "I think you are", *LOVE, "--tokens", "20")
    model, tok = ministeer.load("nano")
    steer = Steer(extract.activation_addition(model, tok, "Love", "Hate", ("pre", 1)), ("pre", 1), -2.0, "front")
    prompt, receipt = [tok.bos, *tok.encode("I think you are")], Receipt()
    settings: dict[str, Any] = {"max_new_tokens": 20, "temperature": 0, "stop": tok.stop}
    plain, steered = (
        generate(model, prompt, **settings),
        generate(model, prompt, steer=steer, receipt=receipt, **settings),
    )
    assert plain != steered
    assert lines == [
        f"unsteered: {tok.decode(plain[1:])!r}",
        f"steered:   {tok.decode(steered[1:])!r}",
        f"done:      {receipt}",
    ]


@pytest.mark.parametrize(
    ("arguments", "touched"),
    [
        (["--vector", "every.safetensors"], "7 of 7 positions (0 to 6)"),
        (["--vector", "every.safetensors", "--where", "last"], "3 of 7 positions (4 to 6)"),
        (["--vector", "every.gguf", "--layer", "5"], "7 of 7 positions (0 to 6)"),
        (["--vector", "mid.safetensors", "--site", "mid", "--layer", "3"], "mid 3: 7 of 7 positions (0 to 6)"),
        (["--plus", "Love", "--minus", "Hate", "--site", "mid", "--layer", "6"], "mid 6: 1 of 7 positions (1 to 1)"),
        (["--vector", "front.safetensors"], "1 of 7 positions (1 to 1)"),  # as activation addition's first is nothing
        (["--vector", "front.safetensors", "--where", "front"], "1 of 7 positions (1 to 1)"),
        (["--plus", "Love", "--minus", "Hate"], "1 of 7 positions (1 to 1)"),
        (["--plus", "Love", "--minus", "Hate", "--where", "last"], "3 of 7 positions (4 to 6)"),
        (["--plus", "Love", "--minus", "Hate", "--where", "generated"], "2 of 7 positions (5 to 6)"),
    ],
)
def test_it_steers_where_it_is_told_or_where_such_a_vector_goes(
    arguments: list[str], touched: str, files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files)
    assert touched in said(capsys, "I think you are", "--layer", "1", "--tokens", "3", *arguments)[2]


@pytest.mark.parametrize(
    ("arguments", "layer"),
    [
        (["--plus", "Love", "--minus", "Hate"], "1"),  # of 8
        (["--plus", "Love", "--minus", "Hate", "--where", "all"], "4"),
        (["--vector", "every.safetensors"], "5"),  # it has 1 and 5
        (["--vector", "front.safetensors"], "1"),
        (["--vector", "mid.safetensors", "--site", "mid"], "3"),
        (["--vector", "every.safetensors:2@1", "--vector", "every.gguf"], "5 for every.gguf"),
    ],
)
def test_where_no_layer_is_given_the_usual_one_or_the_files_nearest_is_taken_and_said(
    arguments: list[str], layer: str, files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files)
    done = said(capsys, "I think you are", "--tokens", "2", *arguments)[2]
    assert f"layer {layer}, as no --layer was given; " in done


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_the_texts_grow_in_a_line_that_is_gone_afterwards(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = said(capsys, "I feel", *LOVE)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert said(capsys, "I feel", *LOVE) == usual
    shown = terminal.getvalue().split("\r\x1b[K")
    assert shown[0] == shown[4] == shown[-1] == "" and len(shown) == 9  # three tokens of each text, then nothing
    for name, lines, whole in zip(("unsteered", "x -2"), (shown[1:4], shown[5:8]), usual, strict=False):
        texts = [line.removeprefix(f"{name}: ") for line in lines]
        assert all(after.startswith(before) for before, after in itertools.pairwise(texts))
        assert repr("I feel" + texts[-1]) in whole
    monkeypatch.setattr(sys, "stderr", quiet := Terminal())
    said(capsys, "I feel", *LOVE, "--json")
    assert not quiet.getvalue()


def test_sampling_comes_from_the_seed(capsys: pytest.CaptureFixture[str]) -> None:
    first, again, other = (
        said(capsys, "I feel", *LOVE, "--tokens", "9", "--temperature", "1", "--seed", seed) for seed in ("1", "1", "2")
    )
    assert first == again != other
    assert said(capsys, "I feel", *LOVE, "--seed", str(2**64 - 1))


# --- how strongly


@pytest.mark.parametrize("layer", ["1", "2"])
def test_without_a_coefficient_it_takes_one_that_steers_and_says_which(
    layer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["I feel", *TEXTS, "--layer", layer, "--tokens", "12"]
    plain, steered, done = said(capsys, *arguments)
    assert "hate" in plain and "love" in steered and "hate" not in steered
    number, share = done.split()[2].rstrip(","), float(done.split("added ")[1].split()[0])
    assert share == pytest.approx(cli.SHARE, rel=0.01)  # which Receipt measures and the command only aims at
    assert said(capsys, *arguments, "--coeff", number) == [plain, steered, f"done:      {done.split('; ', 1)[1]}"]


def test_without_a_coefficient_it_adds_what_tokens_after_the_prompt_can_bear_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """After the last block of nano their streams are a fourth as long as those of some prompts."""
    cli.main(["steer", "I feel", *TEXTS, "--layer", "8", "--where", "all"])
    out, err = capsys.readouterr()
    assert err == ""
    assert float(out.split("(at most ")[1].split(")")[0]) < 2 * cli.SHARE


def test_a_half_of_the_streams_norm_steers_and_twice_of_it_is_noise() -> None:
    """The two numbers of the command, where they were measured on nano: added at every position."""
    model, tok = LOADED("nano", device="cpu", dtype="float32")
    site = ("pre", 2)
    vector = extract.contrastive(model, tok, [("<|endoftext|>Love", "<|endoftext|>Hate")], site, token="last")
    texts = ("She looked at me and", "I think you are", "The man said that he")
    prompts = [[tok.bos, *tok.encode(text)] for text in texts for _ in range(3)]
    half = [cli.fitting(model, ids, len(ids), Steer(vector, site)) for ids in prompts]
    assert cli.NOISE == 4 * cli.SHARE
    steer = Steer(vector, site, [times * coeff for coeff, times in zip(half, [0.0, 1.0, 4.0] * 3, strict=True)])
    good, bad = (
        [tok.single(f" {word}") for word in words.split()] for words in ("love happy kind", "hate sad terrible")
    )
    p = prefill(model, prompts, steer=steer).softmax(-1)
    plain, steered, _ = (p[:, good].sum(-1) / p[:, bad].sum(-1)).log().view(3, 3).mean(0)
    assert steered > plain + 1
    rows = generate(model, prompts, max_new_tokens=12, temperature=0, steer=steer)
    new = torch.tensor([len(set(row[-12:])) for row in rows]).view(3, 3).sum(0).tolist()  # different ones
    assert new[1] > 0.8 * new[0] and new[2] < 0.6 * new[0], new


@pytest.mark.parametrize("value", ["-1e1", "-1E+2", "1000000"])
def test_more_than_the_stream_can_bear_is_warned_of(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["steer", "I feel", *TEXTS, "--coeff", value])
    out, err = capsys.readouterr()
    share = out.split("added ")[1].split()[0]
    assert err.startswith(f"ministeer: what was added is up to {share} times as long as the stream at --layer 1")
    assert err.count("\n") == 1 and "beyond 2" in err


@pytest.mark.parametrize("value", ["2", "-2", "-.5"])
def test_what_is_usual_is_not_warned_of(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["steer", "I feel", *TEXTS, "--coeff", value])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("value", ["-1e1", "-.5", "-1E+2", "-10", "-2.5e-1"])
@pytest.mark.parametrize("form", [["--coeff", "{}"], ["--coeff={}"]])
def test_a_negative_number_is_a_number_on_every_python(value: str, form: list[str]) -> None:
    words = ["steer", "I feel", *TEXTS, *(part.format(value) for part in form)]
    assert cli.parser().parse_args(options.joined(words)).coeff == [float(value)]


def test_what_begins_with_a_dash_is_a_text_where_one_is_due_and_nowhere_else() -> None:
    assert options.joined(["--plus", "-sad", "--minus", "--layer"]) == ["--plus=-sad", "--minus", "--layer"]
    assert options.joined(["--chat", "-5", "--coeff", "-h", "--seed=-1", "-2"]) == ["--chat", "-5", "--coeff", "-h", "--seed=-1", "-2"]  # fmt: skip


# --- what is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: prompt"),
        (["I", "feel", *TEXTS], "unrecognized arguments: feel; put a text of several words between quotes"),
        (["I feel", *TEXTS, "nano"], "unrecognized arguments: nano; write --model nano"),
        (["I feel", *TEXTS, "--max-new-tokens", "0"], "unrecognized arguments: --max-new-tokens 0; see ministeer --help"),
        (["", *TEXTS], "argument prompt: expected one that is not empty"),
        (["\x00", *TEXTS, "--model", "without NUL"], "characters that the model has tokens for, got '\\x00'"),
        (["\udcff", *TEXTS], "argument prompt: expected text in UTF-8, got '\\udcff'"),
        (["I feel", *TEXTS, "--minus", "\udcff"], "argument --minus: expected text in UTF-8"),
        (["so " * 300, *TEXTS], "expected a prompt and new tokens within the context of 256, got"),
        (["I feel", *TEXTS, "--tokens", "300"], "within the context of 256, got 3 + 300"),
        (["I feel", "--layer", "1"], "expected --vector FILE, or --plus TEXT and --minus TEXT, got neither; give one"),
        (["I feel", "--plus", "Love", "--layer", "1"], "--plus TEXT and --minus TEXT, got --plus; add --minus TEXT"),
        (["I feel", "--minus", "Hate", "--layer", "1"], "got --minus; add --plus TEXT"),
        (["I feel", *TEXTS, "--vector", "v.safetensors"], "got --vector and --plus and --minus; give one of the two"),
        (["I feel", "--plus", "Love", "--layer", "1", "--model", "nanoo"], "got --plus"),  # before it is looked for
        (["I feel", *TEXTS, "--plus", "so " * 300], "expected --plus and --minus of at most 255 tokens, the model's context"),
        (["I feel", *TEXTS, "--minus", "so " * 300, "--where", "last"], "expected --plus and --minus of at most 255 tokens"),
        (["I feel", *TEXTS, "--plus", "Love is all that we need"], "expected a prompt of 9 tokens or more, as --plus and --minus have, got 3; lengthen the prompt, or add --where all"),
        (["I feel", *TEXTS, "--plus", "Hate"], "expected two texts that differ"),
        (["I feel", *TEXTS, "--plus", "Hate", "--where", "last"], "expected two texts that differ"),
        (["I feel", *TEXTS, "--layer", "99"], "expected --layer from 0 to 8, the model's layers, got 99"),
        (["I feel", *TEXTS, "--layer", "8"], "expected --layer below 8 for --where front"),
        (["I feel", *TEXTS, "--layer", "8", "--site", "mid"], "expected --layer from 0 to 7, the model's layers, got 8"),
        (["I feel", *TEXTS, "--layer", "7", "--site", "mid"], "expected --layer below 7 for --where front"),
        (["I feel", *TEXTS, "--site", "head"], "argument --site: invalid choice: 'head'"),
        (["I feel", *TEXTS, "--layer", "-1"], "argument --layer: expected a whole number from 0 up, got '-1'"),
        (["I feel", *TEXTS, "--layer", "middle"], "argument --layer: expected a whole number from 0 up, got 'middle'"),
        (["I feel", *TEXTS, "--where", "first"], "argument --where: invalid choice: 'first'"),
        (["I feel", *TEXTS, "--where", "generated", "--tokens", "1"], "expected a run of two new tokens or more, got 1"),
        (["I feel", *TEXTS, "--tokens", "0"], "argument --tokens: expected a whole number from 1 up, got '0'"),
        (["I feel", *TEXTS, "--temperature", "-1"], "argument --temperature: expected a number from 0 up, got '-1'"),
        (["I feel", *TEXTS, "--temperature", "nan"], "argument --temperature: expected a number from 0 up, got 'nan'"),
        (["I feel", *TEXTS, "--seed", "-1"], "argument --seed: expected a whole number from 0 to 18446744073709551615, got '-1'"),
        (["I feel", *TEXTS, "--seed", str(2**70)], "argument --seed: expected a whole number from 0 to"),
        (["I feel", *TEXTS, "--seed", "1e3"], "argument --seed: expected a whole number from 0 to"),
        (["I feel", *TEXTS, "--coeff", "two"], "argument --coeff: expected a number, got 'two'"),
        (["I feel", *TEXTS, "--coeff", "-inf"], "argument --coeff: expected a number, got '-inf'"),
        (["I feel", *TEXTS, "--coeff", "0"], "nothing was added"),
        (["I feel", *TEXTS, "--coeff", "1e39"], "expected a --coeff whose vector torch.float32 can hold, got 1e+39 times that of --plus and --minus; take a smaller one"),
        (["I feel", *TEXTS, "--coeff", "3e4", "--dtype", "float16"], "expected a --coeff whose vector torch.float16 can hold"),
        (["I feel", *TEXTS, "--chat"], "expected a chat model for --chat, got nano, without a template; leave out --chat"),
        (["I feel", *TEXTS, "--device", "gpu"], 'expected a device that torch can use here, such as "cpu", got "gpu"'),
        (["I feel", *TEXTS, "--dtype", "int8"], "expected dtype"),
        (["I feel", *TEXTS, "--model", ""], "argument --model: expected one that is not empty"),
        (["I feel", *TEXTS, "--model", "llama"], 'expected "nano", "gpt2", "gpt2-medium"'),
        (["I feel", *TEXTS, "--model", "gpt-2"], 'got "gpt-2", where nothing is; did you mean "gpt2"?'),
        (["I feel", *TEXTS, "--model", "SmolLM2"], 'did you mean "smollm2-135m-instruct"?'),
        (["I feel", *TEXTS, "--model", "model"], "model: expected model.safetensors or model.safetensors.index.json in this folder"),
        (["I feel", "--layer", "1", "--vector", "."], ".: expected a file that SteeringVector.save wrote, found a folder"),
        (["I feel", "--layer", "1", "--vector", "none.safetensors"], "none.safetensors: expected a file that SteeringVector.save wrote, found none"),
        (["I feel", "--layer", "1", "--vector", ""], "argument --vector: expected one that is not empty"),
        (["I feel", "--layer", "1", "--vector", "model/config.json"], "config.json: expected a safetensors file, got one that cannot be read"),
        (["I feel", "--layer", "1", "--vector", "model.safetensors"], "expected a vector written by SteeringVector.save, got another safetensors file"),
        (["I feel", "--layer", "1", "--vector", "narrow.safetensors"], "expected a vector of the model's width 256, got 64; it was read from another model"),
        (["I feel", "--layer", "2", "--vector", "every.safetensors"], "expected a site that every.safetensors has a vector for, --layer 1, --layer 5, got --layer 2; take one of these"),
        (["I feel", "--layer", "3", "--vector", "mid.safetensors"], "expected a site that mid.safetensors has a vector for, --site mid --layer 3, got --layer 3; take"),
        (["I feel", "--layer", "1", "--vector", "zero.safetensors"], "expected a vector that is not zero, got that of zero.safetensors"),
        (["I feel", "--layer", "1", "--vector", "every.safetensors", "--where", "front"], "expected --where other than front for the vector in every.safetensors, one for every position, got front; leave out --where"),
        (["I feel", "--layer", "1", "--vector", "front.safetensors", "--where", "last"], "expected --where front for the vector in front.safetensors, one for each position (activation addition), got last; leave out --where"),
    ],
)  # fmt: skip
def test_wrong_words_end_in_one_sentence(
    arguments: list[str],
    message: str,
    files: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(files)
    if "without NUL" in arguments:  # a model whose table has not every byte: SmolLM2's has not
        model, tok = LOADED("nano", device="cpu", dtype="float32")
        monkeypatch.setattr(cli, "load", lambda *_, **__: (model, tok))
        monkeypatch.setattr(tok, "encode", lambda text, **how: [])
    assert message in refused(capsys, "steer", *arguments)


@pytest.mark.parametrize("writer", ["llama", "control vector of a narrow model"])
def test_a_gguf_file_that_is_no_vector_of_the_model_is_refused(
    writer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gguf = pytest.importorskip("gguf")
    file, message = str(tmp_path / "v.gguf"), "expected a control vector, found the architecture 'llama'"
    if writer == "llama":
        wrote = gguf.GGUFWriter(file, "llama")
        wrote.write_header_to_file()
        wrote.write_kv_data_to_file()
        wrote.close()
    else:
        message = f"{file}: expected a vector of the model's width 256, found 64"
        model, _ = LOADED("nano", device="cpu", dtype="float32")
        vector = SteeringVector(
            {("pre", 5): torch.ones(64)}, ministeer.vectors.Provenance.of(model, "ones", [], "none")
        )
        formats.save_gguf(vector, file, model_hint="gpt2")
    assert message in refused(capsys, "steer", "I feel", "--vector", file, "--layer", "5")


def test_a_gguf_file_that_says_it_is_another_architectures_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gguf")
    model, _ = LOADED("nano", device="cpu", dtype="float32")
    vector = SteeringVector({("pre", 5): torch.ones(256)}, ministeer.vectors.Provenance.of(model, "ones", [], "none"))
    formats.save_gguf(vector, tmp_path / "v.gguf", model_hint="llama")
    cli.main(["steer", "I feel", "--vector", str(tmp_path / "v.gguf"), "--layer", "5", "--tokens", "2"])
    assert "made for 'llama', as its model_hint says, and the model is 'gpt2'" in capsys.readouterr().err


def test_a_vector_of_other_weights_is_warned_of_in_one_line(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["steer", "I feel", "--vector", str(files / "others.safetensors"), "--layer", "1", "--tokens", "2"])
    out, err = capsys.readouterr()
    assert out.count("\n") == 3
    assert err.startswith(f"ministeer: {files / 'others.safetensors'}: this vector was read from weights 0000")
    assert err.count("\n") == 1


# --- the terminal


def test_alone_it_shows_its_help_and_it_knows_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main([])
    out = capsys.readouterr().out
    assert "ministeer steer" in out and out.isascii()
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"ministeer {ministeer.__version__}\n"
    with pytest.raises(SystemExit, match="0"):
        cli.main(["steer", "--help"])
    out = capsys.readouterr().out
    assert "--plus" in out and out.isascii()
    with pytest.raises(SystemExit, match="0"):
        cli.main(["play", "--help"])
    out = capsys.readouterr().out
    assert "--no-browser" in out and "owner/name" in out and out.isascii()


def test_a_terminal_without_a_letter_gets_it_as_repr_writes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    cli.main(["steer", "café 你好 🙂", *LOVE])
    printed = terminal.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]
    assert printed.startswith(r"unsteered: 'caf\xe9 \u4f60\u597d \U0001f642") and printed.count("\n") == 3


def test_words_in_utf_8_are_understood_in_any_locale(capsys: pytest.CaptureFixture[str]) -> None:
    as_in_c = "café".encode().decode("ascii", "surrogateescape")
    assert as_in_c != "café" and said(capsys, as_in_c, *LOVE) == said(capsys, "café", *LOVE)


def interrupted(*_: Any) -> str:
    raise KeyboardInterrupt


def test_an_interrupt_ends_it_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "steered", interrupted)
    with pytest.raises((SystemExit, KeyboardInterrupt)) as ended:
        cli.main(["steer", "I feel", *LOVE])
    assert isinstance(ended.value, SystemExit) and ended.value.code == 130
    assert capsys.readouterr().err == ""


def test_an_interrupt_while_torch_is_imported_is_quiet_too(tmp_path: Path) -> None:
    """By the line of setup.py that makes the command."""
    root = Path(__file__).parents[1]
    module, function = re.findall(r'"ministeer = (\w[\w.]*):(\w+)"', (root / "setup.py").read_text("utf-8"))[0]
    (tmp_path / "torch.py").write_text("raise KeyboardInterrupt")
    command = [sys.executable, "-c", f"from {module} import {function}; {function}()", "--version"]
    settings = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(root)])}
    run = subprocess.run(command, capture_output=True, text=True, env=settings, cwd=tmp_path, timeout=120, check=False)
    assert (run.stdout, run.stderr, run.returncode) == ("", "", 130)
    (tmp_path / "torch.py").unlink()
    run = subprocess.run(command, capture_output=True, text=True, env=settings, cwd=tmp_path, timeout=120, check=False)
    assert (run.stdout, run.returncode) == (f"ministeer {ministeer.__version__}\n", 0)


def test_a_full_disk_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit, match="ministeer: .*No space left"):
            cli.main(["--version"])


@pytest.mark.parametrize(
    ("words", "settings"), [(["steer", "I feel", *LOVE], {}), (["steer", "--help"], {"PYTHONUNBUFFERED": "1"})]
)
def test_a_closed_pipe_is_no_error(words: list[str], settings: dict[str, str]) -> None:
    """`ministeer steer ... | head -1`: Python complains in printing or, where it waits with that, when it ends."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"} | settings
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "ministeer", *words]
    run = subprocess.run(
        command, stdout=write, stderr=subprocess.PIPE, text=True, env=environment, timeout=120, check=False
    )
    os.close(write)
    assert (run.stderr, run.returncode) == ("", 0)


def test_the_token_that_ends_an_answer_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = said(capsys, "I feel", *LOVE)
    model, tok = LOADED("nano", device="cpu", dtype="float32")
    last = generate(model, tok.prompt("I feel"), max_new_tokens=3, temperature=0)[-1]
    monkeypatch.setattr(tok, "stop", (last,))
    plain = said(capsys, "I feel", *LOVE)[0]
    assert plain == whole[0].removesuffix(repr(tok.decode([last]))[1:]) + "'"
