"""Contexts by degrees: a level adds one thing and leaves the rest."""

import random
from itertools import pairwise

import pytest

from ministeer.lab import claims, data
from ministeer.lab.antonyms import SHOWN, VECTOR
from ministeer.lab.complexity import LEVELS, complexity_claims, complicated

SEEDS, CLAIMS = (0, 1, 2), {claim.key: claim for claim in claims.CLAIMS}

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


# ---- the claim, of planted rows


def rows(vector: tuple[float, float], shown: tuple[float, float], right: float = 0.9) -> list[dict[str, object]]:
    """Gains by a vector and by demonstrations at the lowest and the highest level, of two kinds of context."""
    rng, found = random.Random(0), []
    for kind in ("clauses", "negation"):
        for pair in range(40):
            easy = rng.gauss(0, 0.2)
            for end, level in enumerate((0, 4)):
                at = {"kind": kind, "level": level, "pair": f"pair {pair}", "right": right}
                found += [
                    {**at, "way": VECTOR, "seed": s, "gain": vector[end] + easy + rng.gauss(0, 0.1)} for s in SEEDS
                ]
                found.append({**at, "way": SHOWN, "seed": 0, "gain": shown[end] + easy + rng.gauss(0, 0.1)})
    return found


@pytest.mark.parametrize(
    ("vector", "shown", "word"),
    [
        ((2.0, 1.0), (3.0, 3.0), claims.SUPPORTED),  # only the vector falls
        ((2.0, 1.0), (3.0, 2.0), claims.NOT_SUPPORTED),  # the model falls as far
        ((2.0, 2.0), (3.0, 3.0), claims.NOT_SUPPORTED),  # nothing falls
        ((0.0, 0.0), (3.0, 3.0), claims.CANNOT),  # there is nothing to fall
        ((0.0, 0.0), (3.0, 1.0), claims.CANNOT),
        ((2.0, 1.0), (0.5, 0.5), claims.SUPPORTED),  # it knows the task by its answers
    ],
)
def test_the_claims_are_of_the_fall_beyond_the_models_own(
    vector: tuple[float, float], shown: tuple[float, float], word: str
) -> None:
    found = complexity_claims(rows(vector, shown), SEEDS)
    assert [*found] == ["complexity_clauses", "complexity_negation"]
    assert {claims.judge(CLAIMS[key], evidence).word for key, evidence in found.items()} == {word}


def test_a_kind_is_judged_by_itself() -> None:
    """The kinds pull apart: what one takes from the vector, another's gain does not give back, and a vector that is worth nothing in one
    has nothing to lose there."""
    falls, stays, worthless = rows((2.0, 1.0), (3.0, 3.0)), rows((2.0, 3.0), (3.0, 3.0)), rows((0.0, 0.0), (3.0, 3.0))
    for other, word in ((stays, claims.NOT_SUPPORTED), (worthless, claims.CANNOT)):
        mixed = [row for row in falls if row["kind"] == "clauses"] + [row for row in other if row["kind"] == "negation"]
        words = [claims.judge(CLAIMS[key], found).word for key, found in complexity_claims(mixed, SEEDS).items()]
        assert words == [claims.SUPPORTED, word]


def test_there_is_a_claim_for_each_kind() -> None:
    assert {f"complexity_{kind}" for kind in LEVELS} == {key for key in CLAIMS if key.startswith("complexity_")}


def test_a_model_without_the_task_is_told_nothing_of() -> None:
    for key, found in complexity_claims(rows((2.0, 1.0), (0.5, 0.5), right=0.2), SEEDS).items():
        verdict = claims.judge(CLAIMS[key], found)
        assert verdict.word == claims.CANNOT and "does not know the task" in verdict.reason
