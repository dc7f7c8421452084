"""Contexts by degrees: a level adds one thing and leaves the rest."""

from itertools import pairwise

import pytest

from ministeer.lab import data
from ministeer.lab.complexity import LEVELS, complicated

PAIRS = [("hot", "cold"), ("up", "down"), ("in", "out"), ("wet", "dry"), ("big", "small")]
OTHERS = [("dog", "animal"), ("red", "color"), ("run", "move"), ("sad", "feeling")]


def text(kind: str, level: int, shown: list[tuple[str, str]] = PAIRS, seed: int = 0) -> str:
    made = complicated(
        ("new", "old"), shown, structure="question_answer", kind=kind, level=level, seed=seed, others=OTHERS
    )
    assert made["words"] == [" old"]
    prompt: str = made["prompt"]
    return prompt


@pytest.mark.parametrize("kind", LEVELS)
def test_query_and_demonstrations_are_the_same_at_every_level(kind: str) -> None:
    for level in LEVELS[kind]:
        prompt = text(kind, level)
        assert prompt.endswith("Q: new\nA:")
        shown = [f"Q: {x}\nA: {y}\n\n" for x, y in PAIRS]
        places = [prompt.index(line) for line in shown]
        assert places == sorted(places)
        assert text(kind, level) == prompt  # drawn by the seed
        assert text(kind, level, []).endswith("Q: new\nA:")


def test_without_a_context_a_prompt_is_a_plain_list() -> None:
    plain, space = data.few_shot_text("question_answer", PAIRS, "new")
    assert space == " "
    for kind in ("distractors", "interleaved"):
        assert text(kind, 0) == plain


def test_distractors_grow_in_front() -> None:
    heads = [text("distractors", level).split("\nQ: hot")[0] for level in LEVELS["distractors"][1:]]
    for shorter, longer in pairwise(heads):
        assert longer.startswith(shorter)
    assert [head.count(".") for head in heads] == [1, 2, 4, 8]


@pytest.mark.parametrize(("kind", "mark"), [("negation", " not "), ("contradiction", "same word|not the opposite")])
def test_sentences_change_one_by_one_and_keep_their_number(kind: str, mark: str) -> None:
    heads = [text(kind, level).split("\nQ: hot")[0].split(". ") for level in LEVELS[kind]]
    assert {len(head) for head in heads} == {4}
    for before, after in pairwise(heads):
        changed = [b for a, b in zip(before, after, strict=True) if a != b]
        assert len(changed) == 1
        assert any(m in changed[0] for m in mark.split("|"))


def test_clauses_say_the_same_acts_between_list_and_query() -> None:
    inside = [text("clauses", level).split("A: small\n\n")[1].removesuffix("Q: new\nA:") for level in LEVELS["clauses"]]
    assert [line.count(" that ") for line in inside] == list(LEVELS["clauses"])
    assert [line.count(".") for line in inside] == [5, 4, 3, 2, 1]


def test_another_tasks_pairs_stand_between_the_demonstrations() -> None:
    lines = text("interleaved", 2).split("\n\n")
    assert [line.split("\n")[0] for line in lines] == [
        "Q: hot",
        "Q: dog",
        "Q: up",
        "Q: red",
        "Q: in",
        "Q: wet",
        "Q: big",
        "Q: new",
    ]


def test_a_level_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"distractors 0 to 8.*got 'negation' and 9"):
        text("negation", 9)
    with pytest.raises(ValueError, match="got 'noise' and 1"):
        text("noise", 1)
    with pytest.raises(ValueError, match="expected 3 pairs of another task .* got 1"):
        complicated(("new", "old"), PAIRS, structure="colon", kind="interleaved", level=3, seed=0, others=OTHERS[:1])
