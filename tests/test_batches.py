"""Texts as batches: every text once, no batch too large, and what they share."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ministeer.batches import PASS, SLACK, batches_of, extent, texts_of

ROWS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1, max_size=12)


@given(ROWS, st.integers(1, 60))
def test_every_text_is_in_one_batch_and_no_batch_of_several_is_too_large(prompts: list[list[int]], most: int) -> None:
    texts = texts_of(prompts, None)
    batches = list(batches_of(texts, most))
    assert sorted(text.prompt for batch in batches for text in batch) == list(range(len(prompts)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(len(text.ids) for text in batch) <= most
        apart = sum(extent([text]).work for text in batch)
        assert extent(batch).work <= SLACK ** len(batch) * (apart + PASS * (len(batch) - 1))


@given(ROWS, ROWS)
def test_the_extent_of_two_batches_is_that_of_their_texts(some: list[list[int]], others: list[list[int]]) -> None:
    a, b = ([text for texts in texts_of(rows, None) for text in texts] for rows in (some, others))
    assert extent(a) | extent(b) == extent(a + b)


def test_what_all_begin_with_is_counted_once() -> None:
    beginning = [7] * 10
    together = [text for texts in texts_of([[*beginning, i, i] for i in range(5)], None) for text in texts]
    assert (extent(together).shared, extent(together).work) == (10, 10 + 5 * 2)
    # of a prompt that is no more than the beginning the last token is read
    assert extent([*together, *texts_of([beginning], None)[0]]).shared == 9


def test_answers_that_begin_alike_are_one_text_and_stay_with_their_prompt() -> None:
    (texts,) = texts_of([[1, 2]], [[[3], [4], [5, 6], [5, 7]]])
    assert [(text.ids, text.length, [number for number, _ in text.answers]) for text in texts] == [
        ((1, 2), 2, [0, 1]),
        ((1, 2, 5), 2, [2, 3]),
    ]


@pytest.mark.parametrize("alike", [True, False])
def test_work_grows_straight_with_the_prompts(monkeypatch: pytest.MonkeyPatch, alike: bool) -> None:
    """Each prompt is looked at once, however large its batch."""
    seen: list[int] = []
    monkeypatch.setattr("ministeer.batches.extent", lambda texts: seen.append(len(texts)) or extent(texts))
    draw = random.Random(0)
    prompts = [[1] * 8 + [draw.randrange(9)] if alike else [draw.randrange(9) for _ in range(9)] for _ in range(2000)]
    assert len(list(batches_of(texts_of(prompts, None), 10**9))) == 1
    assert sum(seen) == 2000
