"""The README: its code runs as it stands there, its commands exist, its links lead somewhere."""

import re
from pathlib import Path

import torch

import ministeer

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
    for link in re.findall(r"\]\((?!https?://)([^)#]+)", README):
        assert (ROOT / link).exists(), link
