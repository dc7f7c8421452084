"""The command's verbs on files: what they print is what the functions give."""

import contextlib
import functools
import io
import json
import math
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import ministeer
from ministeer import Steer, SteeringVector, calibrate, cli, extract, formats, hub, options, sweep, verbs
from ministeer.pairs import parsed
from ministeer.provenance import Provenance

LOADED = functools.cache(ministeer.load)
PAIRS = [["I love", "I hate"], ["You love it", "You hate it"], ["We love", "We hate"], ["They love", "They hate"]]
PROMPTS = ["I feel", "The house is"]


@pytest.fixture(autouse=True)
def load_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verbs, "load", LOADED)
    monkeypatch.setattr(cli, "load", LOADED)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.jsonl").write_text("\n\n".join(map(json.dumps, PAIRS)))
    (tmp_path / "rows.jsonl").write_text('{"prompt": "I feel"}\n{"prompt": "You are"}\n')
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS) + "\n\n")
    (tmp_path / "list.txt").write_text('"I feel",\n"You are",\n"So"\n')
    return tmp_path


@pytest.fixture
def vector(folder: Path) -> SteeringVector:
    model, tok = LOADED("nano", device="cpu", dtype="float32")
    found = extract.contrastive(model, tok, PAIRS)
    found.save(folder / "love.safetensors")
    return found


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    cli.main(words)
    out, err = capsys.readouterr()
    assert not err
    return out


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    message = capsys.readouterr().err or str(ended.value.code)
    assert "\n" not in message.strip() and ended.value.code != 0
    return message


def same(one: SteeringVector, other: SteeringVector) -> bool:
    return one.sites == other.sites and all(torch.equal(one[site], other[site]) for site in one.sites)


@pytest.mark.parametrize("method", verbs.METHODS)
def test_a_vector_of_a_file_of_pairs_is_that_of_the_pairs(
    method: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = said(capsys, "extract", "pairs.jsonl", "--out", "v.safetensors", "--method", method, "--layers", "2,5")
    model, tok = LOADED("nano", device="cpu", dtype="float32")
    wanted = getattr(extract, method)(model, tok, PAIRS, [("pre", 2), ("pre", 5)])
    found = SteeringVector.load("v.safetensors", model)
    assert same(found, wanted) and found.health == wanted.health
    assert told == said(capsys, "show", "v.safetensors")
    first, two, five, bar = told.splitlines()
    assert "v.safetensors: width 256" in first and wanted.provenance.method in first and "the bar is" in bar
    assert str(wanted.health["pre", 2]) in two and five.startswith("pre   5  |")


def chatty(monkeypatch: pytest.MonkeyPatch, template: str) -> tuple[Any, Any]:
    """nano and its tokenizer with a chat template, which the verbs then load."""
    pytest.importorskip("jinja2")
    model, tok = ministeer.load("nano", dtype="float32")
    tok.chat_template = template
    monkeypatch.setattr(verbs, "load", lambda name, **_: (model, tok))
    return model, tok


def test_pairs_in_a_chat_template_are_read_where_the_answer_begins(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tok = chatty(monkeypatch, "<|endoftext|>{% for m in messages %}You said {{ m.content }}. {% endfor %}I said")
    said(capsys, "extract", "pairs.jsonl", "--out", "v.safetensors", "--chat", "--layers", "5")
    found = SteeringVector.load("v.safetensors", model)
    ids = [[tok.chat([{"role": "user", "content": text}]) for text in pair] for pair in PAIRS]
    texts = [[f"<|endoftext|>You said {text}. I said" for text in pair] for pair in PAIRS]
    assert [[tok.prompt(text) for text in pair] for pair in texts] == ids
    assert same(found, extract.contrastive(model, tok, texts, ("pre", 5), token="last"))
    assert found.provenance == extract.contrastive(model, tok, ids, ("pre", 5), token="last").provenance


@pytest.mark.parametrize(("end", "read"), [(". ", "."), ("<|endoftext|>\n", "")])
def test_in_a_chat_a_prompt_is_the_users_and_the_texts_are_answers_up_to_their_last_word(
    end: str, read: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    turn, opened = "{{ m.role }}: {{ m.content }}" + end, "{% if add_generation_prompt %}!{% endif %}"
    model, tok = chatty(monkeypatch, f"<|endoftext|>{{% for m in messages %}}{turn}{{% endfor %}}{opened}")
    rows = [("How is it", " It is good", "It is bad"), ("Who came", "A friend", "No one")]
    texts = [
        [f"<|endoftext|>user: {asked}{end}assistant: {text.strip()}{read}" for text in pair] for asked, *pair in rows
    ]
    for token in ("answer", "last"):
        named = [dict(zip(("prompt", "chosen", "rejected"), row, strict=True)) for row in rows]
        (folder / "asked.jsonl").write_text("\n".join(map(json.dumps, named)))
        with warnings.catch_warnings():  # two pairs are few
            warnings.simplefilter("ignore")
            cli.main(["extract", "asked.jsonl", "--out", "v.safetensors", "--chat", "--layers", "5", "--token", token])
            wanted = extract.contrastive(model, tok, texts, ("pre", 5), token=token)
        assert same(SteeringVector.load("v.safetensors", model), wanted)
    capsys.readouterr()
    (folder / "asked.jsonl").write_text("\n".join([json.dumps(named[0]), '["a", "b"]']))
    told = refused(capsys, "extract", "asked.jsonl", "--out", "v.safetensors", "--chat")
    assert "expected a prompt in every row, or in none, for --chat, got 1 in 2" in told


@pytest.mark.parametrize("names", [("positive", "negative"), ("chosen", "rejected"), ("plus", "minus")])
def test_pairs_come_by_name_and_from_standard_input_too(
    names: tuple[str, str], vector: SteeringVector, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = "\n".join(json.dumps({**dict(zip(names, pair, strict=True)), "id": 3}) for pair in PAIRS)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((rows).encode())))
    said(capsys, "extract", "-", "--out", "again.safetensors")
    assert same(SteeringVector.load("again.safetensors"), vector)


def test_show_says_in_json_what_it_says_in_words(vector: SteeringVector, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(said(capsys, "show", "love.safetensors", "--json"))
    assert found["width"] == 256 and found["provenance"]["method"] == "contrastive"
    for row, site in zip(found["sites"], vector.sites, strict=True):
        assert row["site"] == list(site) and row["length"] == pytest.approx(vector.norm()[site])
        assert row["agreement"] == vector.health[site].agreement and row["weak"] == vector.health[site].weak


def test_a_weak_layer_is_said_to_be_weak(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise = [["The door is", "My river"], ["He ran", "A cow of"], ["Blue", "Seven people"], ["Near it", "She said so"]]
    (folder / "noise.jsonl").write_text("\n".join(map(json.dumps, noise)))
    assert "weak: " in said(capsys, "extract", "noise.jsonl", "--out", "n.safetensors", "--token", "last")


def test_a_sweep_prints_the_mean_of_its_rows(vector: SteeringVector, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sweep", "love.safetensors", "--prompts", "prompts.txt", "--answers", " love, hate", "--layers", "3,5"]
    rows = [json.loads(line) for line in said(capsys, *words, "--coeffs", "-2,0,2", "--json").splitlines()]
    model, tok = LOADED("nano", device="cpu", dtype="float32")
    ids = [tok.prompt(prompt) for prompt in PROMPTS]
    choices = [[tok.encode(" love"), tok.encode(" hate")]] * 2
    wanted = sweep(model, ids, choices, {"v": vector}, [3, 5], [-2.0, 0.0, 2.0])
    for row, of in zip(rows, wanted, strict=True):
        assert (row["layer"], row["coefficient"], row["prompt"]) == (of["site"][1], of["coeff"], PROMPTS[of["prompt"]])
        assert [*row["log p"].values()] == pytest.approx(of["score"]) and [*row["log p"]] == [" love", " hate"]
    head, columns, *table, last = said(capsys, *words, "--coeffs", "-2,0,2").splitlines()
    plain = [sum(map(math.exp, r["log p"].values())) for r in rows if r["coefficient"] == 0]
    assert f"without the vector the answers have {sum(plain) / len(plain):.2g} of the probability" in last
    assert said(capsys, *words, "--coeffs", "2").splitlines()[-1] == last
    assert said(capsys, *words, "--coeffs", "-2,0,2", "--jsonl").splitlines() == [*map(json.dumps, rows)]
    assert "log p(' love') - log p(' hate'), nats, mean of 2 prompts" in head and columns.split() == [
        "layer",
        "-2",
        "0",
        "2",
    ]
    for line in table:
        layer, *means = line.split()
        for c, mean in zip((-2.0, 0.0, 2.0), means, strict=True):
            odds = [r["log p"][" love"] - r["log p"][" hate"] for r in rows if (r["layer"], r["coefficient"]) == (int(layer), c)]  # fmt: skip
            assert float(mean) == pytest.approx(sum(odds) / 2, abs=0.006)
    assert float(table[0].split()[1]) < float(table[0].split()[2]) < float(table[0].split()[3])


def test_the_first_answer_stands_against_all_others_together() -> None:
    assert verbs._odds([math.log(0.5), math.log(0.1), math.log(0.15)]) == pytest.approx(math.log(0.5 / 0.25))


def test_calibrate_finds_what_the_function_finds(vector: SteeringVector, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["calibrate", "love.safetensors", "--prompts", "prompts.txt", "--layer", "5", "--kl", "0.1"]
    model, tok = LOADED("nano", device="cpu", dtype="float32")
    wanted = calibrate(model, [tok.prompt(p) for p in PROMPTS], Steer(vector, ("pre", 5), 1.0), kl=0.1)
    found = json.loads(said(capsys, *words, "--json"))
    assert found["coeff"] == pytest.approx(wanted.coeff) and found["kl"] == pytest.approx(0.1, rel=0.02)
    assert found["damage"] == pytest.approx(wanted.damage)
    assert f"coefficient {wanted.coeff:.4g}: " in said(capsys, *words)


def test_calibrate_says_that_a_loss_cannot_be_measured(
    vector: SteeringVector, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "calibrate",
        "love.safetensors",
        "--prompts",
        "prompts.txt",
        "--layer",
        "5",
        "--kl",
        "0.1",
        "--where",
        "last",
    ]
    assert json.loads(said(capsys, *words, "--json"))["damage"] is None
    told = said(capsys, *words)
    assert "nats of KL a token (no token follows to measure loss on) over 2 texts" in told


def test_exports_are_read_again(vector: SteeringVector, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "export", "love.safetensors", "--gguf", "love.gguf", "--coeff", "2")
    found = formats.load_gguf(folder / "love.gguf", LOADED("nano", device="cpu", dtype="float32")[0])
    assert found.sites == [("pre", i) for i in range(2, 9)]
    assert torch.allclose(found["pre", 5], 2 * vector["pre", 5])
    said(capsys, "export", "love.safetensors", "--lm-eval", "love.pt", "--layer", "5", "--coeff", "3")
    (entry,) = torch.load(folder / "love.pt", weights_only=True).items()
    assert entry[0] == "h.4" and entry[1]["steering_coefficient"] == 3.0
    assert torch.equal(entry[1]["steering_vector"], vector["pre", 5])


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_printed_hook_steers_a_model_of_transformers(
    family: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = pytest.importorskip("tests.reference")
    ours, theirs = reference.pair(reference.small(family))
    v, ids = reference.random_tensor(ours.config.width, scale=1.0), reference.random_ids(ours, 2, 5)
    SteeringVector({("pre", 2): v}, Provenance("", "", "", "", "")).save("v.safetensors")
    code = said(capsys, "export", "v.safetensors", "--hook", "--coeff", "1.23456789", "--type", family)
    exec(compile(code, "hook", "exec"), {"model": theirs})  # noqa: S102 - what a user does with it
    with torch.no_grad():
        assert reference.relative(ours(ids, adds={("pre", 2): 1.23456789 * v}), theirs(ids).logits) < 1e-4
        assert "1.23456789" in code
        assert reference.relative(ours(ids), theirs(ids).logits) > 1e-2
    formats.save_gguf(SteeringVector({("pre", 2): v}, Provenance("", "", "", "", "")), "v.gguf")
    found: dict[str, Any] = {"model": theirs}
    exec(compile(said(capsys, "export", "v.gguf", "--hook", "--type", family), "hook", "exec"), found)  # noqa: S102
    assert torch.equal(found["vector"]["pre", 2], v)


def test_models_says_what_is_here(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINISTEER_CACHE", str(folder))
    found = json.loads(said(capsys, "models", "--json"))
    assert [*found] == ["nano", *hub.NAMES] and found["nano"] == "bundled" and found[hub.SMOLLM2] is None
    assert "make weights MODEL=smollm2-135m-instruct" in said(capsys, "models")
    (folder / hub.SMOLLM2).mkdir()
    (folder / hub.SMOLLM2 / "model.safetensors").touch()
    assert json.loads(said(capsys, "models", "--json"))[hub.SMOLLM2] == str(folder / hub.SMOLLM2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["download", "no such"], "expected gpt2, "),
        (["estimate", "no such"], "ministeer: expected"),
        (["report", "nowhere"], "ministeer: "),
    ],
)
def test_what_reads_its_words_itself_is_a_verb_too(
    words: list[str], message: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["ministeer"])
    assert message in refused(capsys, *words)


def test_an_estimate_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["ministeer"])
    told = said(capsys, "estimate", "nano")
    found = json.loads(said(capsys, "estimate", "nano", "--json", "--subset", "quick"))
    assert "estimate for nano in float32 on cpu, all items" in told and found["subset"] == "quick"
    assert len(found["seconds"]) == 11 and found["GiB of weights"] < found["GiB at the peak"]


@pytest.mark.parametrize("verb", ["download", "estimate", "report"])
def test_what_reads_its_words_itself_has_help_too(verb: str, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["ministeer"])
    with contextlib.suppress(SystemExit):  # which argparse ends with
        cli.main([verb, "--help"])
    out, err = capsys.readouterr()
    assert f"ministeer {verb} " in out and not err


@pytest.mark.parametrize("words", ["estimate nano", "models"])
def test_a_reader_who_has_gone_is_no_mistake(words: str, tmp_path: Path) -> None:
    run = f"{sys.executable} -m ministeer {words} | true"
    done = subprocess.run(run, shell=True, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert not done.stderr


# ---- several at once in `steer`


def test_coefficients_stand_side_by_side(vector: SteeringVector, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["steer", "I feel", "--vector", "love.safetensors", "--layer", "5", "--tokens", "4"]
    plain, minus, none, plus, *done = said(capsys, *words, "--coeff", "-1,0,1").splitlines()
    for c, line in (("-1", minus), ("1", plus)):
        alone = said(capsys, *words, "--coeff", c).splitlines()
        assert alone[0].split(":", 1)[1].strip() == plain.split(":", 1)[1].strip()
        assert line.split(":", 1) == [f"x {c}", line.split(":", 1)[1]]
        assert alone[1].split(":", 1)[1].strip() == line.split(":", 1)[1].strip()
    assert none.split(":", 1)[1].strip() == plain.split(":", 1)[1].strip() and "nothing was added" in done[1]
    found = json.loads(said(capsys, *words, "--coeff", "-1,0,1", "--json"))
    assert [run["coefficient"] for run in found["steered"]] == [-1.0, 0.0, 1.0]
    several = ["--vector", "love.safetensors:0.5@5", "--vector", "love.safetensors:-1@5"]
    (run,) = json.loads(said(capsys, "steer", "I think you are", "--tokens", "2", "--json", *several))["steered"]
    assert run["coefficient"] == [0.5, -1.0] and "as no --" not in run["done"]
    assert repr(found["steered"][2]["text"]) in plus and found["steered"][2]["done"] in done[2]


def test_a_sweep_of_a_vector_of_length_1_says_that_its_doses_are_faint(folder: Path, capsys: Any) -> None:
    cli.main(["extract", "pairs.jsonl", "--out", "one.safetensors", "--method", "pca", "--layers", "5"])
    words = ["sweep", "one.safetensors", "--prompts", "prompts.txt", "--answers", " love, hate", "--layers", "5"]
    for coeffs, faint in (("-.01,.01", True), ("-9,9", False)):
        capsys.readouterr()
        cli.main([*words, "--coeffs", coeffs])
        err = capsys.readouterr().err
        assert faint == ("of the stream's norm, as the vector is short; give --coeffs up to" in err)


def test_several_vectors_act_together(vector: SteeringVector, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["steer", "-", "--tokens", "4", "--vector", "love.safetensors:2@3", "--vector", "love.safetensors:-.5@6"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"I feel\n")))
        found = json.loads(said(capsys, *words, "--json"))
    model, tok = LOADED("nano", device="cpu", dtype="float32")
    steers = [Steer(vector, ("pre", 3), 2.0), Steer(vector, ("pre", 6), -0.5)]
    ids = tok.prompt("I feel")
    wanted = ministeer.generate(model, ids, max_new_tokens=4, temperature=0, steer=steers, stop=tok.stop)
    assert found["steered"][0]["text"] == tok.decode(wanted[1:])
    assert "pre 3: " in found["steered"][0]["done"] and "pre 6: " in found["steered"][0]["done"]


@pytest.mark.parametrize("ends", [" ", ""])
def test_prompts_that_end_in_a_space_are_told(
    vector: SteeringVector, ends: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("spaced.txt").write_text(f"I feel{ends}\nYou are{ends}\n")
    given = ["love.safetensors", "--prompts", "spaced.txt"]
    for words in (
        ["sweep", *given, "--answers", " love, hate", "--layers", "5"],
        ["calibrate", *given, "--layer", "5"],
        ["steer", f"I feel{ends}", "--vector", "love.safetensors", "--tokens", "1"],
    ):
        cli.main(words)
        assert capsys.readouterr().err.count("in a space, which most tokenizers") == len(ends)


@pytest.mark.parametrize("form", ['["I feel", "You are"]', '[\n "I feel",\n "You are"\n]', '[{"prompt": "I feel"}]'])
def test_prompts_in_a_list_of_json_are_refused(form: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(form)
    with pytest.raises(ValueError, match="expected a prompt on each line of .*; write the texts alone, without JSON"):
        options.lines(str(path))
    path.write_text('"I feel," she said\n[sic] He is\n')
    assert options.lines(str(path)) == ['"I feel," she said', "[sic] He is"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["extract", "nowhere.jsonl", "--out", "v.safetensors"], "expected a file, or - for standard input, got nowhere.jsonl"),
        (["extract", ".", "--out", "v.safetensors"], "expected a file, got the folder ."),
        (["extract", "prompts.txt", "--out", "v.safetensors"], "expected lines of JSON"),
        (["extract", "pairs.jsonl", "--out", "v.bin"], "a path that ends in .safetensors"),
        (["extract", "pairs.jsonl", "--out", "v.safetensors", "--layers", "9"], "expected layers from 0 to 8, the model's, got [9]"),
        (["extract", "pairs.jsonl", "--out", "v.safetensors", "--chat", "--token", "answer"], "expected --token last for --chat"),
        (["extract", "love.safetensors", "--out", "v.safetensors"], "expected text in UTF-8 in love.safetensors"),
        (["show", "pairs.jsonl"], "pairs.jsonl: expected a safetensors file"),
        (["sweep", "love.safetensors", "--prompts", "prompts.txt", "--answers", " love"], "expected two answers or more"),
        (["sweep", "love.safetensors", "--prompts", "prompts.txt", "--answers", " a, a"], "expected answers that differ, got ' a, a'; "),
        (["sweep", "love.safetensors", "--prompts", "prompts.txt", "--answers", " love, hate", "--chat"], "expected a chat model for --chat"),
        (["sweep", "love.safetensors", "--prompts", "prompts.txt", "--answers", " love, hate", "--coeffs", "1,two"], "argument --coeffs: expected a number, got 'two'"),
        (["calibrate", "love.safetensors", "--prompts", "prompts.txt", "--layer", "9"], "expected layers from 0 to 8"),
        (["calibrate", "love.safetensors", "--prompts", "prompts.txt", "--layer", "5", "--kl", "0"], "expected --kl above 0"),
        (["calibrate", "love.safetensors", "--prompts", "prompts.txt", "--layer", "5", "--damage", "0"], "expected --damage above 0"),
        (["export", "love.safetensors", "--hook"], "expected one layer, --layer I, got 9 in love.safetensors"),
        (["export", "love.safetensors"], "one of the arguments --gguf --lm-eval --hook is required"),
        (["sweep", "love.safetensors", "--prompts", "prompts.txt", "--answers", "love, hate"], "expected words that all begin with a space, or none, got love, hate; with a space they are other tokens"),
        (["sweep", "love.safetensors", "--prompts", "prompts.txt", "--answers", " love, hate "], "expected answers without a space at their end, got ' hate '; a word begins with its space"),
        (["sweep", "love.safetensors", "--prompts", "list.txt", "--answers", " love, hate"], "a prompt on each line of list.txt, as it is read, got '\"I feel\",'; write the texts alone, without JSON"),
        (["sweep", "love.safetensors", "--prompts", "rows.jsonl", "--answers", " love, hate"], "a prompt on each line of rows.jsonl, as it is read, got '{\"prompt\": \"I feel\"}'; write the texts alone, without JSON"),
    ],
)  # fmt: skip
def test_wrong_words_end_in_one_sentence(
    words: list[str], message: str, vector: SteeringVector, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, *words)
    assert not Path("v.safetensors").exists()


def test_an_empty_file_of_prompts_is_refused(vector: SteeringVector, folder: Path, capsys: Any) -> None:
    (folder / "none.txt").write_text("\n \n")
    told = refused(capsys, "sweep", "love.safetensors", "--prompts", "none.txt", "--answers", " a, b")
    assert "expected a prompt on each line of none.txt, got none" in told


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("source", ["prompts.txt", "-"])
def test_a_prompt_is_a_line_of_its_file_whatever_letters_it_has(
    end: str, source: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = ["I feel", "one\u2028still one", " two\x0cand\x85more\x1d ", "three"]
    written = "\ufeff" + end.join([*wanted[:2], "", *wanted[2:]]) + end
    (folder / "prompts.txt").write_bytes(written.encode())
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO((written).encode())))
    assert options.lines(source) == wanted


def test_a_prompt_in_quotes_may_hold_lines_of_its_own(folder: Path) -> None:
    wanted = ["Q: yes?\nA:", '"Hello," she said', '"', "so"]
    (folder / "prompts.txt").write_text("\n".join([json.dumps(wanted[0]), *wanted[1:]]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert options.lines("prompts.txt") == wanted
    (folder / "prompts.txt").write_text("Q: yes?\\nA:\nI feel")
    with pytest.warns(UserWarning, match=r"'Q: yes\?.*nA:' holds a backslash and an n"):
        assert options.lines("prompts.txt") == ["Q: yes?\\nA:", "I feel"]
    for name in ("prompts.csv", "prompts.TSV"):
        (folder / name).write_text("prompt\nI feel")
        with pytest.raises(ValueError, match=f"a prompt on each line, got {name}, a table; write one column"):
            options.lines(name)


def test_a_row_of_pairs_is_a_line_of_its_file_whatever_letters_it_has(folder: Path) -> None:
    rows = [["one\u2028still one", "\x85"], ["a", "b"]]
    (folder / "pairs.jsonl").write_bytes(
        "\r\n".join(["\ufeff", *(json.dumps(r, ensure_ascii=False) for r in rows)]).encode()
    )
    assert parsed(options.contents("pairs.jsonl")) == rows
    assert parsed("\ufeff" + json.dumps(rows[0])) == rows[:1]


def test_standard_input_is_utf_8_whatever_the_terminal_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for written, wanted in ("\ufeff\u00e9t\u00e9".encode(), "\u00e9t\u00e9"), (b"I feel", "I feel"):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(written), encoding="cp1252"))
        assert options.contents("-") == wanted
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\xe9t\xe9"), encoding="cp1252"))
    with pytest.raises(ValueError, match="expected text in UTF-8 in -, got other bytes"):
        options.contents("-")


def test_a_prompt_that_begins_with_a_special_token_is_shown_whole(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["steer", "<|endoftext|>I feel", "--plus", "Love", "--minus", "Hate", "--layer", "3", "--coeff", "1"]
    found = json.loads(said(capsys, *words, "--tokens", "2", "--json"))
    plain = json.loads(said(capsys, *words[:1], "I feel", *words[2:], "--tokens", "2", "--json"))
    assert found["unsteered"] == "<|endoftext|>" + plain["unsteered"]
