"""The prompts that experiments share."""

import pytest

from ministeer.lab import data


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
