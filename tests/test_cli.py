"""The `ministeer` command: what it prints is what the functions give, and wrong words end in one sentence."""

import subprocess
import sys
from pathlib import Path

import pytest

import ministeer
from ministeer import Receipt, Steer, cli, extract, generate
from ministeer.lab import data

LOVE = ["--plus", "Love", "--minus", "Hate", "--layer", "1", "--coeff", "-2"]


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    cli.main(["steer", *arguments])
    return capsys.readouterr().out.splitlines()


def test_it_prints_both_texts_and_the_receipt(capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys, "I think you are", *LOVE)
    model, tok = ministeer.load("nano")
    steer = Steer(extract.activation_addition(model, tok, "Love", "Hate", ("pre", 1)), ("pre", 1), -2.0, "front")
    prompt, receipt = [tok.eot, *tok.encode("I think you are")], Receipt()
    settings = {"max_new_tokens": 20, "temperature": 0, "stop": [tok.eot]}
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


def test_a_vector_from_a_file_steers_where_it_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, tok = ministeer.load("nano")
    pairs = data.context_pairs("honesty")[:8]
    extract.contrastive(model, tok, pairs, ("pre", 5), token="last").save(tmp_path / "v.safetensors")
    arguments = ["The answer is", "--vector", str(tmp_path / "v.safetensors"), "--layer", "5", "--where", "last"]
    assert "pre 5: 3 of 6 positions (3 to 5) in 1 of 1 rows" in said(capsys, *arguments, "--tokens", "3")[2]


def test_sampling_comes_from_the_seed(capsys: pytest.CaptureFixture[str]) -> None:
    first, again, other = (
        said(capsys, "I feel", *LOVE, "--temperature", "1", "--seed", seed) for seed in ("1", "1", "2")
    )
    assert first == again != other


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["I feel", "--layer", "1"], "expected --vector FILE, or --plus TEXT and --minus TEXT"),
        (["I feel", "--plus", "Love", "--layer", "1"], "expected --vector FILE, or"),
        (["I feel", *LOVE, "--vector", "v.safetensors"], "give one of the two"),
        (["I feel", *LOVE, "--model", "nanoo"], 'got "nanoo"'),
        (["I feel", *LOVE, "--chat"], "leave out --chat"),
        (
            ["I feel", "--plus", "Love", "--layer", "1", "--model", "nanoo"],
            "expected --vector FILE, or",
        ),  # before it is looked for
        (["I feel", "--vector", "none.safetensors", "--layer", "1"], "none.safetensors"),
        (["I feel", *LOVE[:-1], "0"], "nothing was added"),
        (
            ["I feel", "--plus", "Love", "--minus", "Hate", "--layer", "9"],
            "expected --layer from 0 to 8, the model's layers, got 9",
        ),
    ],
)
def test_wrong_words_end_in_one_sentence(arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["steer", *arguments])
    assert message in str(ended.value)
    assert str(ended.value).startswith("ministeer: ")


def test_it_is_a_command() -> None:
    run = subprocess.run([sys.executable, "-m", "ministeer", "steer", "--help"], capture_output=True, text=True, timeout=120, check=False)  # fmt: skip
    assert run.returncode == 0 and "--plus" in run.stdout
