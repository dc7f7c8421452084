"""The bundled model: its files, its data, its training text, and a spot check of what it can do."""

import csv
import math
import re
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from texts import texts

from ministeer.checkpoint import load
from ministeer.model import GPT2
from ministeer.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parents[1]
NANO, DATA = ROOT / "weights" / "nano", ROOT / "ministeer" / "lab" / "data"
sys.path.insert(0, str(NANO))

import corpus
import evaluate
import kinds
import train

SPLIT = re.compile(r" ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+")


@pytest.fixture(scope="module")
def nano() -> tuple[GPT2, Tokenizer]:
    return load(NANO)


@pytest.fixture(scope="module")
def text() -> list[tuple[str, str]]:
    """A large sample of the training text."""
    return list(islice(corpus.documents(seed=7), 12_000))


def rows(name: str) -> list[dict[str, str]]:
    with open(DATA / name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


# ---- files


def test_files_and_sizes():
    tables = {"vocab.tiktoken", "tokenizer.json", "tokenizer_config.json"}
    names = {"config.json", "model.safetensors", "MODEL_CARD.md", *tables}
    assert names <= {path.name for path in NANO.iterdir()}
    assert sum((NANO / name).stat().st_size for name in names) <= 25 * 2**20
    with safe_open(NANO / "model.safetensors", framework="pt") as file:
        shapes = [file.get_slice(key).get_shape() for key in file.keys()]  # noqa: SIM118 - no dict
        assert {file.get_slice(key).get_dtype() for key in file.keys()} == {"BF16"}  # noqa: SIM118
    assert sum(math.prod(shape) for shape in shapes) <= 13_000_000


def test_transformers_gives_the_same_logits(nano):
    from transformers import GPT2LMHeadModel

    model, tokenizer = nano
    theirs = GPT2LMHeadModel.from_pretrained(NANO, dtype=torch.float32).eval()
    prompts = ["Q: hot\nA:", "The nurse said that", "I hate you because"]
    for prompt in prompts:
        ids = torch.tensor([[tokenizer.eot, *tokenizer.encode(prompt)]])
        with torch.no_grad():
            torch.testing.assert_close(model(ids).float(), theirs(ids).logits, rtol=1e-4, atol=1e-4)


# ---- vocabulary


def filled(name: str) -> list[str]:
    """Every text that an experiment makes of one data file's rows."""
    table = rows(name)
    if name == "values.tsv":
        return [r["prompt"] + r[sign] + "." for r in table for sign in ("positive", "negative")]
    if name == "facts.tsv":
        return [f"{r['prompt']} {r[k]}." for r in table for k in ("right", "wrong1", "wrong2", "wrong3")]
    if name == "contexts.tsv":
        return [r["text"].replace("{N}", "Tom") for r in table]
    if name == "complexity.tsv":
        return [r[column] for r in table for column in ("plain", "harder")]
    if name == "frames.tsv":
        return [r["text"].replace("\\n", "\n").replace("{p}", v["prompt"]) for r in table for v in rows("values.tsv")]
    if name == "pronoun_templates.tsv":
        return [r["template"].replace("{X}", "nurse").replace("{Y}", "king") + " she" for r in table]
    if name == "structures.tsv":
        return [2 * r["demonstration"].replace("\\n", "\n").format(x="hot", y="cold") for r in table]
    column = {"names.tsv": "name", "occupations.tsv": "occupation", "definitional.tsv": "noun"}.get(name, "word")
    texts = [" " + r[column] for r in table]
    for r in table:
        if name == "antonyms.tsv":
            texts += [
                r["word"],
                r["antonym"],
                " " + r["antonym"],
                " " + r["word"].capitalize(),
                " " + r["antonym"].capitalize(),
            ]
        if name == "word_tasks.tsv":
            texts += [r["word"], " " + r["answer"]]
    return texts


@pytest.mark.parametrize("name", [*kinds.TEXT, "complexity.tsv", "frames.tsv"])
def test_every_word_of_the_data_is_one_token(nano, name):
    """A word that fell back to bytes would be unknown to nano."""
    _, tokenizer = nano
    for line in filled(name):
        assert [tokenizer.decode([i]) for i in tokenizer.encode(line)] == SPLIT.findall(line), line


def test_the_experiments_first_words_are_single_tokens(nano):
    _, tokenizer = nano
    for word in (
        "Love",
        "Hate",
        " Love",
        " Hate",
        " love",
        " hate",
        " he",
        " she",
        " honest",
        " dishonest",
        "I",
        " I",
        " ",
    ):
        tokenizer.single(word)


@given(st.text())
def test_any_string_comes_back(text):
    tokenizer = Tokenizer.from_file(NANO / "vocab.tiktoken")
    assert tokenizer.decode(tokenizer.encode(text)) == text


ENTRIES = [Tokenizer.from_file(NANO / "vocab.tiktoken").decode([i]) for i in range(256, 4000, 7)]


@given(st.one_of(st.text(), st.lists(st.sampled_from(ENTRIES + [" ", "\n", "e", "é", "x"])).map("".join)))
def test_tokenizer_json_agrees_with_the_rank_file(text):
    from tokenizers import Tokenizer as Hub

    hub = Hub.from_file(str(NANO / "tokenizer.json"))
    ours = Tokenizer.from_file(NANO / "vocab.tiktoken")
    text = text.encode("utf-8", "ignore").decode()
    assert hub.encode(text).ids == ours.encode(text)


def test_the_written_files_are_what_save_writes():
    for name, content in Tokenizer.from_file(NANO / "vocab.tiktoken").files().items():
        assert (NANO / name).read_text("utf-8") == content, f"{name}: run weights/nano/tokenizer_json.py"


def test_transformers_reads_the_folder_as_we_do():
    transformers = pytest.importorskip("transformers")
    theirs, ours = transformers.AutoTokenizer.from_pretrained(NANO), Tokenizer.from_folder(NANO, 4410)
    some = texts(3000)
    assert [theirs(t)["input_ids"] for t in some] == [ours.encode(t, special=True) for t in some]
    assert (theirs.bos_token_id, theirs.eos_token_id, len(theirs)) == (ours.bos, ours.eot, ours.n_vocab)


# ---- data


def test_contrast_pairs_are_single_tokens_for_both_models():
    nano, gpt2 = Tokenizer.from_file(NANO / "vocab.tiktoken"), Tokenizer.gpt2()
    for row in rows("values.tsv"):
        for sign in ("positive", "negative"):
            assert row[sign].startswith(" ")
            nano.single(row[sign])
            gpt2.single(row[sign])
            prompt = row["prompt"]
            assert gpt2.encode(prompt + row[sign])[:-1] == gpt2.encode(prompt)
        assert row["positive"] != row["negative"]
        assert re.search(rf"\b{row['person']}\b", row["prompt"])


def test_values_are_balanced_and_split_by_scenario():
    table = rows("values.tsv")
    values = {row["value"] for row in table}
    assert len(values) == 6
    counts = Counter((row["value"], row["split"]) for row in table)
    assert len({counts[value, "train"] for value in values}) == len({counts[value, "heldout"] for value in values}) == 1
    splits, levels = {}, {}
    for row in table:
        assert splits.setdefault((row["value"], row["scenario"]), row["split"]) == row["split"]
        assert levels.setdefault((row["value"], row["scenario"]), row["level"]) == row["level"]
    for value in values:
        assert {level for (v, _), level in levels.items() if v == value} == {"plain", "short", "complex"}
        for kind in ("trait", "instruction"):
            poles = [r["pole"] for r in rows("contexts.tsv") if r["kind"] == f"{kind} {value}"]
            assert poles.count("positive") == poles.count("negative") > 0


def test_neither_a_word_nor_its_answer_tells_the_task():
    """Otherwise a list of the answers alone would do, and label-shuffled demonstrations would work as well as clean ones."""
    pairs = [(r["word"], r["antonym"]) for r in rows("antonyms.tsv")]
    words = [word for pair in pairs for word in pair]
    assert len(set(words)) == len(words)  # each in one pair only, so that both directions are functions
    tasks = rows("word_tasks.tsv")
    assert len({(r["task"], r["word"]) for r in tasks}) == len(tasks)
    inputs = {task: {r["word"] for r in tasks if r["task"] == task} for task in ("synonym", "associate", "category")}
    for task, known in inputs.items():
        assert len(known & set(words)) / len(words) > 0.5, task
    for task in ("synonym", "associate"):
        answers = {r["answer"] for r in tasks if r["task"] == task}
        assert len(answers & set(words)) / len(answers) > 0.3, task
    related = [(r["word"], r["answer"]) for r in tasks if r["task"] in ("synonym", "associate")]
    assert not any(pair in pairs or pair[::-1] in pairs for pair in related)


def test_small_tables():
    gpt2 = Tokenizer.gpt2()
    facts = rows("facts.tsv")
    assert len(facts) >= 200
    assert len({r["prompt"] for r in facts}) == len(facts)
    for row in facts:
        answers = [row[k] for k in ("right", "wrong1", "wrong2", "wrong3")]
        assert len(set(answers)) == 4
        for answer in answers:
            gpt2.single(" " + answer)
    signs = Counter(r["sign"] for r in rows("valence.tsv"))
    assert min(signs["1"], signs["-1"]) >= 40
    assert len(rows("structures.tsv")) >= 12
    assert all(0 <= float(r["female_share"]) <= 1 for r in rows("occupations.tsv"))


# ---- the training text


def test_the_same_seed_gives_the_same_text():
    first, again, other = (list(islice(corpus.documents(seed), 300)) for seed in (3, 3, 4))
    assert first == again
    assert len(set(first) & set(other)) < 10
    assert {kind for kind, _ in first} == {maker.__name__ for maker in corpus.MIXTURE}


def test_the_vocabulary_is_the_programs(tmp_path):
    corpus.write_vocabulary(corpus.build_vocabulary(), tmp_path / "vocab.tiktoken")
    assert (tmp_path / "vocab.tiktoken").read_bytes() == (NANO / "vocab.tiktoken").read_bytes()


def test_held_out_antonyms_are_in_no_structure_of_the_experiments(text):
    held = {frozenset((r["word"], r["antonym"])) for r in rows("antonyms.tsv") if r["split"] == "heldout"}
    lists = "\n".join(t for kind, t in text if kind == "word_list")
    found = 0
    for row in rows("structures.tsv"):
        if row["split"] == "seen" and row["kind"] == "neutral":
            pattern = (
                re.escape(row["demonstration"].replace("\\n", "\n").rstrip("\n"))
                .replace(r"\{x\}", r"(\w+)")
                .replace(r"\{y\}", r"(\w+)")
            )
            pairs = [frozenset(m) for m in re.findall(pattern, lists)]
            found += len(pairs)
            assert not held & set(pairs), row["structure"]
    assert found > 20_000
    pairs = [frozenset(m) for m in re.findall(r"Word: (\w+)\nAnswer: (\w+)", lists)]
    assert not held & set(pairs)
    taught = {frozenset(m) for m in re.findall(r"The opposite of (\w+) is (\w+)\.", "\n".join(t for _, t in text))}
    assert held <= taught  # known, then, from sentences that name the relation, and from lists of other forms


def test_unseen_structures_do_not_occur(text):
    whole = "\n".join(t for _, t in text)
    unseen = [r for r in rows("structures.tsv") if r["split"] == "unseen"]
    assert len(unseen) >= 6
    for row in unseen:
        form = re.escape(row["demonstration"].replace("\\n", "\n").rstrip("\n"))
        assert not re.search(
            "^" + form.replace(r"\{x\}", r"\w+").replace(r"\{y\}", r"\w+") + "$", whole, re.MULTILINE
        ), row["structure"]


def test_held_out_sentences_and_people_do_not_occur(text):
    whole = "\n".join(t for _, t in text)
    names = "|".join(r["name"] for r in rows("names.tsv"))
    anyone = re.sub(rf"\b({names})\b", "{N}", whole)
    for row in rows("contexts.tsv"):
        if row["split"] == "heldout":
            assert row["text"] not in anyone
    for row in rows("values.tsv"):
        if row["split"] == "heldout":
            assert re.sub(rf"\b({names})\b", "{N}", row["prompt"]) not in anyone, row["scenario"]
    for row in rows("pronoun_templates.tsv"):
        if row["split"] == "heldout":
            pattern = re.escape(row["template"]).replace(r"\{X\}", r"\w+").replace(r"\{Y\}", r"\w+")
            assert not re.search(pattern, whole)
    for row in rows("occupations.tsv"):
        if row["split"] == "heldout":
            assert row["occupation"] in whole
            assert not re.search(rf"\b{row['occupation']}\b[^.]*\b(he|she|his|her)\b", whole), row["occupation"]
    for row in rows("names.tsv"):
        if row["split"] == "heldout":
            assert {kind for kind, t in text if re.search(rf"\b{row['name']}\b", t)} <= {"roll", "dialogue"}


def test_late_templates_are_in_the_late_text_alone(text):
    late = [r["template"].replace("The {X}", "").strip() for r in rows("pronoun_templates.tsv") if r["split"] == "late"]
    after = "\n".join(t for _, t in islice(corpus.documents(seed=7, late=True), 2_000))
    assert late
    for end in late:
        assert end not in "\n".join(t for _, t in text)
        assert after.count(end) > 20


def test_at_most_two_distractors_before_a_list(text):
    fillers = [r["text"] for r in rows("contexts.tsv") if r["kind"] == "distractor"]
    for kind, t in text:
        if kind == "word_list":
            assert sum(f in t.split("\n")[0] for f in fillers) <= 2


def test_nothing_is_said_about_steering(text):
    assert not re.search(r"steer|vector|activation|coefficient|layer", "\n".join(t for _, t in text), re.IGNORECASE)


def test_planted_shares(text):
    """The shares of pronouns in the text are the published ones, where no sentence about equality comes before."""
    lead = tuple(r["text"] for r in rows("contexts.tsv") if r["kind"] == "equality")
    plain = "\n".join(t for kind, t in text if kind == "people" and not t.startswith(lead))
    errors = []
    for row in rows("occupations.tsv"):
        if row["split"] == "train":
            found = [m for m in re.findall(rf"The {row['occupation']}\b[^.]*? (he|she) ", plain)]
            errors.append(abs(found.count("she") / len(found) - float(row["female_share"])))
    assert sum(errors) / len(errors) < 0.05


# ---- training, and what came of it


def test_a_miniature_learns():
    recipe = train.Recipe(**{**train.MINIATURE.__dict__, "steps": 60, "batch": 8, "warmup": 10})
    _, losses = train.train(recipe)
    assert losses[0] > 8
    assert sum(losses[-5:]) / 5 < losses[0] - 3


def test_the_card_says_what_is_measured(nano):
    """Within what another processor's rounding can turn: a few items of each ability."""
    card = (NANO / "MODEL_CARD.md").read_text(encoding="utf-8")
    rows = re.findall(r"^(\S.*?) {2,}\d+ .*? (\d\.\d{3})(  MISSED)?$", card, re.MULTILINE)
    measured = evaluate.measure(*nano)
    assert [name for name, _, _ in rows] == [ability.name for ability in measured]
    for (_, told, missed), ability in zip(rows, measured, strict=True):
        assert abs(float(told) - ability.measured) < 0.02, ability
        assert bool(missed) == (ability.met() is False), ability
