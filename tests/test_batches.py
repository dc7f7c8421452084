"""Texts as batches: every text once, no batch too large, and what they share."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ministeer.batches import PASS, batches_of, extent, rows_of, texts_of

ROWS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1, max_size=12)


@given(ROWS, st.integers(1, 60), st.sampled_from([0.1, 3.0, PASS]))
def test_every_text_is_in_one_batch_and_no_batch_of_several_is_too_large(
    prompts: list[list[int]], most: int, alone: float
) -> None:
    texts = texts_of(prompts, None)
    batches = batches_of(texts, most, alone)
    assert sorted(text.prompt for batch in batches for text in batch) == list(range(len(prompts)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(len(text.ids) for text in batch) <= most
        apart = sum(extent([text]).work for text in batch)
        assert extent(batch).work <= apart + alone * (len(batch) - 1)


def test_texts_come_together_by_length_or_by_how_they_begin_whichever_is_less_to_run() -> None:
    short, long = ([[i, *([9] * n)] for i in range(8)] for n in (2, 40))
    mixed = [row for pair in zip(short, long, strict=True) for row in pair]
    assert [[len(text.ids) for text in batch] for batch in batches_of(texts_of(mixed, None), 10**9, PASS)] == [
        [3] * 8,
        [41] * 8,
    ]
    beginnings = [[[i] * 40 + [j] * (j + 1) for j in range(4)] for i in range(3)]
    some = texts_of([row for rows in beginnings for row in rows], None)
    assert [{text.ids[0] for text in batch} for batch in batches_of(some, 10**9, 20.0)] == [{0}, {1}, {2}]


@given(ROWS, ROWS)
def test_the_extent_of_two_batches_is_that_of_their_texts(some: list[list[int]], others: list[list[int]]) -> None:
    a, b = (texts_of(rows, None) for rows in (some, others))
    assert extent(a) | extent(b) == extent(a + b)


def test_what_all_begin_with_is_counted_once() -> None:
    beginning = [7] * 10
    together = texts_of([[*beginning, i, i] for i in range(5)], None)
    assert (extent(together).shared, extent(together).work) == (10, 10 + 5 * 2)
    # of a prompt that is no more than the beginning the last token is read
    assert extent([*together, *texts_of([beginning], None)]).shared == 9


def test_answers_stand_behind_their_prompt_as_a_tree_whose_beginnings_are_there_once() -> None:
    (text,) = texts_of([[1, 2]], [[[3], [4], [5, 6], [5, 7, 8], [9, 6, 7]]])
    assert text.ids == (1, 2, 5, 7, 9, 6), "5, 5 7, 9 and 9 6: of each answer all but its last"
    assert text.follows == (1, 2, 1, 4)
    assert text.answers == (
        ((3,), (0,)),
        ((4,), (0,)),
        ((5, 6), (0, 1)),
        ((5, 7, 8), (0, 1, 2)),
        ((9, 6, 7), (0, 3, 4)),
    )
    assert rows_of(texts_of([[1, 2], [3]], [[[4, 5, 6], [4]], [[7]]]))[2] is None, "they do not branch"
    _, positions, seen = rows_of([text, *texts_of([[1]], None)])
    assert positions.tolist() == [[0, 1, 2, 3, 2, 3], [0, -1, -1, -1, -1, -1]]
    assert [[j for j in range(6) if row[j]] for row in seen[0].tolist()] == [
        [0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 4], [0, 1, 4, 5]
    ]  # fmt: skip


@pytest.mark.parametrize("alike", [True, False])
def test_work_grows_straight_with_the_prompts(monkeypatch: pytest.MonkeyPatch, alike: bool) -> None:
    """Each prompt is looked at once, however large its batch."""
    seen: list[int] = []
    monkeypatch.setattr("ministeer.batches.extent", lambda texts: seen.append(len(texts)) or extent(texts))
    draw = random.Random(0)
    prompts = [[1] * 8 + [draw.randrange(9)] if alike else [draw.randrange(9) for _ in range(9)] for _ in range(2000)]
    assert len(batches_of(texts_of(prompts, None), 10**9, PASS)) == (1 if alike else 9), "they share a token of nine"
    assert sum(seen) == 2 * 2000, "once in each order"
