"""The prompts that experiments share."""

import re
from collections import Counter

import pytest

from ministeer.lab import data
from ministeer.lab.data.balance import balance, main
from ministeer.model_files import find
from ministeer.tokenizer import Tokenizer


def test_a_structure_is_written_as_its_demonstration() -> None:
    text, space = data.few_shot_text("question_answer", [("hot", "cold"), ("up", "down")], "wet")
    assert (text, space) == ("Q: hot\nA: cold\n\nQ: up\nA: down\n\nQ: wet\nA:", " ")
    for row in data.read("structures.tsv"):
        text, space = data.few_shot_text(row["structure"], [("hot", "cold")], "wet")
        form = row["demonstration"].replace("\\n", "\n")
        first, second = (form.replace("{x}", x).replace("{y}", y) for x, y in (("hot", "cold"), ("wet", "dry")))
        assert (first + second).startswith(text + space + "dry")  # the query is written as a demonstration is
    with pytest.raises(ValueError, match="one of question_answer"):
        data.few_shot_text("no_such", [], "wet")


@pytest.mark.parametrize(
    ("name", "wanted", "message"),
    [
        ("value.tsv", {}, "expected one of .*values.tsv.*, got 'value.tsv'"),
        ("values.tsv", {"valeu": "honesty"}, "a column, one of value, level.*, got 'valeu'"),
        ("values.tsv", {"value": "Honesty"}, "honesty.*, got 'Honesty'"),
        ("values.tsv", {"value": "honesty", "split": "test"}, "train, heldout.*, got 'test'"),
    ],
)
def test_a_typo_is_no_empty_table(name: str, wanted: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.read(name, **wanted)


def test_too_few_demonstrations_to_shuffle_are_refused() -> None:
    pairs = [("hot", "cold"), ("up", "down"), ("wet", "dry"), ("old", "new")]
    with pytest.raises(ValueError, match="three demonstrations or more to shuffle, got 2"):
        data.few_shot(pairs[:1], pairs, 1, structure="arrow", shots=2, seed=0, shuffled=True)


def test_context_pairs_differ_in_the_context_alone() -> None:
    rows = data.read("values.tsv", value="kindness", split="train")
    pairs = data.context_pairs("kindness")
    assert len(pairs) == len(rows)
    for (good, bad), row in zip(pairs, rows, strict=True):
        assert good != bad
        assert all(text.endswith(f" {row['prompt']}") for text in (good, bad))
        assert all(row["person"] in text.removesuffix(row["prompt"]) and "{N}" not in text for text in (good, bad))


def test_every_task_is_a_list_of_pairs() -> None:
    tasks = data.word_tasks()
    assert {"antonym", "synonym", "plural", "past", "category", "associate"} <= set(tasks)
    rows = data.read("antonyms.tsv")
    assert sum(len(pairs) for pairs in tasks["antonym"].values()) == 2 * len(rows)
    assert ("big", "little") in tasks["antonym"]["train"] and ("little", "big") in tasks["antonym"]["train"]
    assert not set(tasks["antonym"]["train"]) & set(tasks["antonym"]["heldout"])
    assert all(pairs for splits in tasks.values() for pairs in splits.values())


def test_lists_ask_the_same_queries_and_show_no_word_of_them() -> None:
    train = data.word_tasks()["antonym"]["train"]
    settings = {"structure": "question_answer", "seed": 4}
    shown, bare, mixed = (
        data.few_shot(train, train, 40, shots=shots, shuffled=shuffled, **settings)
        for shots, shuffled in ((5, False), (0, False), (5, True))
    )
    assert len({row["prompt"] for row in bare}) == 40
    pairs = set(train)
    displaced = 0
    for full, alone, wrong in zip(shown, bare, mixed, strict=True):
        assert full["words"] == alone["words"] == wrong["words"]
        query = alone["prompt"]
        assert full["prompt"].endswith(query) and wrong["prompt"].endswith(query)
        demonstrations = [part.split("\nA: ") for part in full["prompt"].removeprefix("Q: ").split("\n\nQ: ")[:-1]]
        assert len(demonstrations) == 5
        assert all(tuple(pair) in pairs for pair in demonstrations)
        word = query.removeprefix("Q: ").removesuffix("\nA:")
        assert (word, full["words"][0].strip()) in pairs
        assert not {word, full["words"][0].strip()} & {w for pair in demonstrations for w in pair}
        others = [part.split("\nA: ") for part in wrong["prompt"].removeprefix("Q: ").split("\n\nQ: ")[:-1]]
        assert [a for a, _ in others] == [a for a, _ in demonstrations]
        assert sorted(b for _, b in others) == sorted(b for _, b in demonstrations)
        displaced += sum(tuple(pair) not in pairs for pair in others)
    assert displaced > 40 * 5 / 2
    assert data.few_shot(train, train, 40, shots=5, **settings) == shown
    assert len(data.few_shot(train[:7], train, 40, shots=2, **settings)) == 7


# ---- the tables for open vocabularies


def tokenizer_of(name: str) -> Tokenizer:
    """SmolLM2's is used where it is in the cache."""
    if name == "gpt2":
        return Tokenizer.gpt2()
    try:
        return find(name).tokenizer()
    except (OSError, ValueError):
        pytest.skip(f"{name} is not in the cache")


@pytest.mark.parametrize("name", ["nano", "gpt2", "smollm2-135m-instruct"])
def test_the_tokenizer_decides_which_tables_are_used(name: str) -> None:
    tokenizer = tokenizer_of(name)
    is_open = name != "nano"
    assert data.wide(tokenizer) is is_open
    few = data.read("facts.tsv")
    assert data.facts(tokenizer) == (few + data.read("facts_more.tsv") if is_open else few)
    train = {row["value"] for row in data.scenarios(tokenizer, split="train", level="complex")}
    assert "caution" in train and data.scenarios(tokenizer)[0].keys() >= {"prompt", "positive", "negative", "person"}
    assert ("coding" in data.scenarios(tokenizer)[0]) is is_open
    with pytest.raises(ValueError, match="train, heldout.*got 'test'"):
        data.scenarios(tokenizer, split="test")
    pairs = sum(len(some) for splits in data.word_tasks().values() for some in splits.values())
    kept = sum(len(some) for splits in data.answerable(tokenizer).values() for some in splits.values())
    assert (kept == pairs) if is_open else 0 < kept <= pairs


@pytest.mark.parametrize("name", ["facts.tsv", "facts_more.tsv"])
def test_a_fact_has_one_true_answer_among_four(name: str) -> None:
    rows = data.read(name)
    for row in rows:
        answers = [row[k] for k in ("right", "wrong1", "wrong2", "wrong3")]
        assert all(cell and cell == cell.strip() for cell in row.values()), row
        assert len(set(answers)) == 4, row
        # else the shorter is at least as likely as the longer, whatever the model knows
        assert not any(a != b and b.startswith(a + " ") for a in answers for b in answers), row
        assert row["subject"] in row["prompt"] and not row["prompt"].endswith((".", ":")), row
        assert not any(answer in row["prompt"].split() for answer in answers) or row["relation"] == "sum", row
    both = data.read("facts.tsv") + data.read("facts_more.tsv")
    assert len({row["prompt"] for row in both}) == len(both) >= 450
    counts = Counter(row["relation"] for row in rows)
    assert len(counts) >= 8 and min(counts.values()) >= 6
    known: dict[
        tuple[str, str], str
    ] = {}  # one subject, one answer: or a wrong answer could be the other row's right one
    for row in both:
        assert known.setdefault((row["relation"], row["subject"]), row["right"]) == row["right"], row


def test_facts_that_can_be_counted_are_right() -> None:
    numbers = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
    for row in data.read("facts.tsv", relation="sum"):
        first, _, second = row["subject"].lower().split()
        assert row["right"] == numbers[numbers.index(first) + numbers.index(second) + 1]
    for row in data.read("facts.tsv", relation="number"):
        assert row["right"] == numbers[numbers.index(row["subject"]) + 1]
    months, days = (data.read("facts.tsv", relation=relation) for relation in ("month", "day"))
    for circle in (months, days):
        assert [row["right"] for row in circle] == [row["subject"] for row in circle[1:] + circle[:1]]


def test_each_word_has_all_its_opposites() -> None:
    pairs = {(r[a], r[b]) for r in data.read("antonyms.tsv") for a, b in (("word", "antonym"), ("antonym", "word"))}
    rows = data.read("antonym_sets.tsv")
    assert {(row["word"], row["answers"].split()[0]) for row in rows} == pairs and len(rows) == len(pairs) == 622
    same = {(r["word"], r["answer"]) for r in data.read("word_tasks.tsv", task="synonym")}
    for row in rows:
        answers = row["answers"].split(" ")
        assert all(answer.isalpha() and answer.islower() for answer in answers), row
        assert len({*answers, row["word"]}) == len(answers) + 1, row
        assert not any((row["word"], answer) in same for answer in answers), row
    assert data.accepted("big") == {"little", "small", "tiny"}
    with pytest.raises(ValueError, match="a word that is there.*got 'steering'"):
        data.accepted("steering")


def test_groups_are_subjects_in_templates() -> None:
    axes = {row["axis"] for row in data.read("groups.tsv")}
    assert len(axes) >= 2
    for axis in axes:
        splits = {split: data.group_prompts(axis, split) for split in ("train", "heldout")}
        train, heldout = ({item["prompt"] for item in items} for items in splits.values())
        assert len(train) >= 160 and heldout and not train & heldout
        for items in splits.values():
            assert len({item["subject"] for item in items}) >= 40
            for item in items:
                assert item["subject"] in item["prompt"] and "{" not in item["prompt"] and item["prompt"][-1].isalpha()
                assert len(set(item["words"])) == 2 and all(word.startswith(" ") for word in item["words"])
                assert not {word.strip() for word in item["words"]} & {*item["prompt"].split()}
    with pytest.raises(ValueError, match="age, origin.*got 'height'"):
        data.group_prompts("height", "train")
    with pytest.raises(ValueError, match="train.*got 'test'"):
        data.group_prompts("age", "test")


def test_only_nouns_that_fix_a_pronoun_are_strict() -> None:
    strict = {gender: data.read("definitional.tsv", strict="yes", gender=gender) for gender in ("male", "female")}
    assert len(strict["male"]) == len(strict["female"]) >= 16
    loose = {row["noun"] for row in data.read("definitional.tsv", strict="no")}
    assert {"actor", "god", "hero", "waiter", "wizard"} <= loose


def test_an_occupation_counted_as_another_is_not_measured() -> None:
    listed = data.read("occupations.tsv", split="train")
    shares = data.occupations("train")
    assert {row["occupation"] for row in listed} - set(shares) == {"pathologist"}
    assert shares["nurse"] > 0.8 and shares["carpenter"] < 0.2 and not set(shares) & set(data.occupations("heldout"))


def test_splits_of_scenarios_share_no_prompt() -> None:
    for rows in (data.read("values.tsv"), data.scenarios(Tokenizer.gpt2())):
        of = {row["prompt"]: row["split"] for row in rows}
        assert all(of[row["prompt"]] == row["split"] for row in rows)
        of = {row["scenario"] + row["value"]: row["split"] for row in rows}
        assert all(of[row["scenario"] + row["value"]] == row["split"] for row in rows)


def test_balance_sees_what_is_uneven() -> None:
    form = {"split": "train", "positive": " waits calmly", "negative": " pushes past"}
    even = [form, {**form, "split": "heldout", "positive": " opens it", "negative": " closes it"}]
    found = balance(even)
    assert (found["as long"], found["longer"], found["not positive"], found["not negative"]) == (1, 0, 0, 0)
    assert (found["start positive"], found["told"], found["mood known"]) == (0.5, 0.5, 0)
    uneven = [
        {**form, "positive": " says a kind word", "negative": " never speaks"},
        {**form, "positive": " fair", "negative": " unfair", "split": "heldout"},
        {**form, "positive": " a kind one", "negative": " without love", "split": "heldout"},
    ]
    found = balance(uneven)
    assert found == {
        "as long": pytest.approx(1 / 3), "longer": pytest.approx(2 / 3), "same start": 0, "start positive": pytest.approx(1 / 3),
        "start negative": pytest.approx(1 / 3), "not positive": 0, "not negative": 1, "mood": found["mood"],
        "mood known": found["mood known"], "told": 0.75,
    }  # fmt: skip
    worse = {**form, "split": "heldout", "positive": " opens it", "negative": " pushes it"}
    assert balance([form, worse])["told"] == 1  # by the word that is bad in training alone
    signs = {row["word"]: row["sign"] for row in data.read("valence.tsv")}
    assert signs["love"] == "1"
    loved = balance([{**form, "positive": " love", "negative": " waits"}, {**form, "negative": " love"}])
    assert (loved["mood"], loved["mood known"]) == (0.5, 1)


def test_scenarios_are_even_in_what_is_no_value() -> None:
    tokenizer = Tokenizer.gpt2()
    rows = data.scenarios(tokenizer)
    for row in rows:
        assert re.search(rf"\b{row['person']}\b", row["prompt"]) and row["prompt"][-1] not in " .:", row
        assert (row["conflict"] == "-") is (row["level"] != "complex"), row
        for answer in (row["positive"], row["negative"]):
            assert answer[0] == " " and answer[1:] == answer.strip() and answer[-1] not in ".,", row
            assert tokenizer.encode(row["prompt"] + answer) == [
                *tokenizer.encode(row["prompt"]),
                *tokenizer.encode(answer),
            ]
    counts = Counter((row["value"], row["level"], row["split"], row["coding"]) for row in rows)
    assert len(counts) == 6 * 3 * 2 * 2 and set(counts.values()) == {10}  # values, levels, splits, codings
    found = balance(rows)
    assert found["as long"] > 0.95 and abs(found["not positive"] - found["not negative"]) < 0.02
    assert max(found["start positive"], found["start negative"]) < 0.1 and 0.4 < found["told"] < 0.6


def test_the_card_shows_the_balance_that_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    assert capsys.readouterr().out in (data.HERE / "README.md").read_text(encoding="utf-8"), "copy what it prints"


def test_a_column_called_name_can_be_asked_for() -> None:
    assert [row["name"] for row in data.read("names.tsv", name="Tom")] == ["Tom"]
