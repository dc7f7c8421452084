"""Where pairs of texts are read: at the answer, or at the end; and what is said where the two are mistaken for one another."""

import json
import warnings
from typing import Any

import pytest
import torch
from reference import both

import ministeer
from ministeer import extract
from ministeer.lab import data
from ministeer.pairs import parsed
from ministeer.tokenizer import Tokenizer

BOTH = both(3, 257, 96, 48, 3, 4)
MODEL, THEIRS = BOTH["gpt2"]
BYTES = Tokenizer({bytes([byte]): byte for byte in range(256)}, eot=256)
WARNING = "go on alike after the words in which they differ"
CONTEXTS = [("Be good. Was he asked", "Be a bad one. Was he asked"), ("He is kind. She said", "He is mean. She said")]


def told(pairs: Any, **how: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        extract.read(MODEL, BYTES, pairs, ("pre", 1), **how)
    return [str(one.message) for one in seen]


@pytest.mark.parametrize(
    "pairs",
    [
        CONTEXTS,
        [("Say very good, yes", "Say good, yes")],  # a word more
        [("<|endoftext|>honest: say\n\tyes?", "<|endoftext|>crafty: say\n\tyes?")],
        [("say honest<|endoftext|>me\n\n", "say crafty<|endoftext|>me\n\n")],  # as a template that ends in a role
        [*CONTEXTS, ("Was it? A", "Was it? B")],  # most of them
    ],
)
def test_pairs_that_differ_in_their_context_and_are_read_there_are_told(pairs: Any) -> None:
    (said,) = told(pairs)
    contexts = sum(not minus.endswith("B") for _, minus in pairs)
    assert f"the texts of {contexts} of {len(pairs)} pairs {WARNING}" in said and 'token="last"' in said
    assert told(pairs, token="last") == []


def test_personas_that_answer_one_question_each_in_their_own_words_are_told() -> None:
    asked = [f"Now, how was your {x} at the sea?" for x in ("day", "walk", "lunch")]
    answers = [("I won", "That hurt"), ("It is fine", "We never go"), ("Good, good", "So sad!")]
    contexts = [(f"You like {q} {good}", f"They hate {q} {bad}") for q, (good, bad) in zip(asked, answers)]
    (said,) = told(contexts)
    assert f"the texts of 3 of 3 pairs {WARNING}" in said
    assert told(contexts, token="last") == []
    told_at_length = [
        (f"{x} I saw it as so{' big' * 16}", f"{x} No, I saw it as so{' sad' * 16}") for x in ("a:", "b:")
    ]
    assert told(told_at_length) == []


def test_a_context_in_a_script_without_spaces_is_told() -> None:
    (said,) = told([("你很快乐。今天怎么样", "你很悲伤。今天怎么样"), ("他很快乐。他说", "他很悲伤。他说")])
    assert f"the texts of 2 of 2 pairs {WARNING}" in said


@pytest.mark.parametrize("more", [[], [("I liked it", "I did not")]])
def test_sentences_that_share_no_beginning_and_are_read_at_their_first_word_are_told(more: Any) -> None:
    pairs = [("I love it all", "That show was bad"), ("We had fun", "My day was grey"), *more]
    (said,) = told(pairs)
    assert f"the texts of 2 of {len(pairs)} pairs begin with different words and are read there" in said
    assert told(pairs, token="last") == []
    assert told([("Love", "Hate"), ("Joy", "Grief"), ("I love it", "We do not")]) == []  # words, most of them


def test_a_word_that_ends_all_texts_of_one_kind_is_told() -> None:
    plain = ["I won it", "That is fine", "He goes on"]
    (said,) = told([(f"{text}, matey!", f"{text}, sir.") for text in plain], token="last")
    assert said.startswith(
        "all positive texts, and 0 of the others, end in ', matey!', and are read there: the vector may be"
    )
    ends = ("sir.", "my, matey!", "my")
    (said,) = told([(f"{text}, matey!", f"{text}, {end}") for text, end in zip(plain, ends)], token="last")
    assert "all positive texts, and 1 of the others, end in" in said
    (said,) = told([(text, f"{text[:-1]}, but no") for text in plain], token="last")
    assert "all negative texts" in said
    for mark in ("!", "?", " \N{SLIGHTLY SMILING FACE}"):  # read there, it is as much a difference as a word
        (said,) = told([(f"{text}{mark}", f"{text}.") for text in plain], token="last")
        assert f"end in {mark.strip()!r}, and are read there" in said and "or all alike" in said
    for fine in (
        [(f"so, {text} now", f"no, {text} now") for text in plain],  # both
        [(f"so, {text} now", f"no, {text} {end}") for text, end in zip(plain, ("now", "now", "not"))],  # most
        [(f"{text}, matey!", f"{text}, sir.") for text in plain[:2]],  # too few
    ):
        assert told(fine, token="last") == []


def test_texts_that_stand_in_many_pairs_are_told() -> None:
    positive, negative = ["I won it", "He sang", "So it goes"], ["Now she left", "Rain fell", "The end"]
    crossed = [(a, b) for a in positive for b in negative]
    (said,) = told(crossed, token="last")
    assert said.startswith("9 pairs hold 3 different texts of one kind, so items depend on each other")
    against = [(a, b) for a, b in zip([*positive, *negative], ["Oh no", "I see"] * 3)]
    (said,) = told(against, token="last")
    assert said.startswith("6 pairs hold 2 different texts of one kind")
    assert told([*zip(positive, negative), ("One more", "Rain fell")], token="last") == []


def test_texts_that_are_read_at_a_space_are_told() -> None:
    spaced = [("good: so ", "bad: no "), ("fine: yes ", "grim: yet ")]
    (said,) = told(spaced, token="last")
    assert said.startswith("4 of 4 texts end in a space, which most tokenizers have at the beginning of the next word")
    assert told([(plus.strip(), minus.strip()) for plus, minus in spaced], token="last") == []
    for prompts, words in (
        (["A: ", "B: ", "C:"], "2 of 3 texts end in"),
        (["A:", "B:", "C: "], "1 of 3 texts ends in"),
    ):
        with pytest.warns(UserWarning, match=f"{words} a space"):
            extract.function_vector(MODEL, BYTES, prompts, ("pre", 1))


def test_pairs_that_are_read_after_the_same_beginning_are_one_item() -> None:
    happy, sad = "You are a happy one. ", "You are a sad one. "
    pairs = [(happy + a, sad + b) for a, b in (("I won", "I lost"), ("It is fine", "All is bad"), ("Go on", "No"))]
    (said,) = told(pairs)
    assert said.startswith(
        "3 pairs are read after 1 different beginning, so many of them are one item again; read them"
    )
    assert told(pairs, token="last") == []
    (said,) = told([("so A", "so B")] * 3, token="last")
    assert said.endswith("one item again; let what comes before differ from pair to pair")
    again = [("so yes", "so no"), *[("is yes", "is no")] * 6]
    (said,) = told([*again, again[0]])
    assert said.startswith("8 pairs are read after 2 different beginnings")


def test_pairs_that_come_again_are_told() -> None:
    pairs = [(f"so {a}", f"so {b}") for a, b in ("ab", "cd", "ef", "gh", "ij", "kl", "mn", "op", "qr", "st")]
    for token in ("answer", "last"):
        (said,) = told(pairs * 2, token=token)
        assert said.startswith("10 of 20 pairs repeat earlier ones, so their health counts one item as several")
        assert told([*pairs, pairs[0]], token=token) == []  # one of eleven says little


@pytest.mark.parametrize(
    "pairs",
    [
        [("Choose: (A)", "Choose: (B)"), ("Choose: (B).", "Choose: (A).")],
        [
            ("Was it? A.\n<|endoftext|>", "Was it? B.\n<|endoftext|>")
        ],  # a special token's name has letters, and is no word
        [("Do you? Yes, I would.", "Do you? No, I would never do that."), ("Who? He that did", "Who? She who had it")],
        [("It was joyful", "It was sorrowful"), ("so hateful!", "so loveful!")],  # the rest of a word is not a word
        [("x", "y"), ("no: yes", "no: not at all, no")],
        [*CONTEXTS, ("Was it? A", "Was it? B"), ("So? A", "So? B")],  # no more than half
    ],
)
def test_pairs_that_differ_in_their_answers_are_not(pairs: Any) -> None:
    assert told(pairs) == []


@pytest.mark.once
def test_the_projects_own_pairs_are_told_apart() -> None:
    """Read at the first word that differs, the direction for honesty is another one, and its health looks good."""
    model, tok = ministeer.load("nano")
    rows = data.read("values.tsv", value="honesty", split="train")
    answered = [[f"<|endoftext|>{r['prompt']}{r[sign]}" for sign in ("positive", "negative")] for r in rows]
    context = data.context_pairs("honesty")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        extract.read(model, tok, answered, ("pre", 5))
        last = extract.contrastive(model, tok, context, ("pre", 5), token="last")["pre", 5]
    with pytest.warns(UserWarning, match=f"the texts of 51 of 51 pairs {WARNING}") as seen:
        wrong = extract.contrastive(model, tok, context, ("pre", 5))
    assert seen[0].filename == __file__
    assert float(last @ wrong["pre", 5] / last.norm() / wrong["pre", 5].norm()) < 0.2
    assert not wrong.health["pre", 5].weak


def test_a_pair_begins_with_bos_whether_it_says_so_or_not() -> None:
    plain = extract.contrastive(MODEL, BYTES, [("so A", "so B")])
    marked = extract.contrastive(MODEL, BYTES, [("<|endoftext|>so A", "<|endoftext|>so B")])
    assert all((plain[site] == marked[site]).all() for site in plain.sites)
    love, hate = "<|endoftext|>Love", "<|endoftext|>Hate"
    once, twice = (
        extract.activation_addition(MODEL, BYTES, *texts, ("pre", 1)) for texts in (("Love", "Hate"), (love, hate))
    )
    assert (once["pre", 1] == twice["pre", 1]).all()


def test_a_misspelt_keyword_is_not_passed_over() -> None:
    with pytest.raises(TypeError, match="tokne"):
        extract.pca(MODEL, BYTES, CONTEXTS, tokne="last")


def test_pairs_of_ids_are_read_as_they_are() -> None:
    texts, site = [("so A", "so B"), ("is A", "is B")], ("pre", 1)
    ids = [[BYTES.prompt(text) for text in pair] for pair in texts]
    assert (
        extract.contrastive(MODEL, BYTES, ids, site)[site] == extract.contrastive(MODEL, BYTES, texts, site)[site]
    ).all()
    bare = extract.read(MODEL, BYTES, [[row[1:] for row in pair] for pair in ids], site)  # nothing is put before them
    tape = [site]
    MODEL(torch.tensor([BYTES.encode("so A")]), tape=tape)
    torch.testing.assert_close(bare.streams[site][0, 0], tape[0][0, -1].detach())


def test_ids_that_were_padded_are_told() -> None:
    texts = ["I feel happy", "I feel sad", "It is a joy to see", "It is a pity"]
    ids = [BYTES.prompt(text) for text in texts]
    longest = max(map(len, ids))
    padded = [[*row, *[0] * (longest - len(row))] for row in ids]
    (said,) = told([(padded[0], padded[1]), (padded[2], padded[3])], token="last")
    assert "expected each row as long as its text" in said and "padding is read as text" in said
    assert told([(ids[0], ids[1]), (ids[2], ids[3])], token="last") == []


@pytest.mark.parametrize("ends", ["", ")", "."])
def test_a_letter_that_stands_for_the_answer_in_all_texts_of_a_kind_is_told(ends: str) -> None:
    """The vector of (A) minus (B) is that of any texts with these letters, whatever they ask; read there, its health is the best."""
    asked = ["Was it good?", "Did he go?", "Is she here?", "Do we win?"]
    pairs = [(f"{q} (A{ends}", f"{q} (B{ends}") for q in asked]
    (said,) = told(pairs)
    assert said.startswith(
        "all positive texts answer 'A' and all negative ones 'B', so the vector may be of these letters alone"
    )
    assert told(pairs[:2]) == []
    assert told([pairs[0], pairs[1][::-1], *pairs[2:]]) == []  # one the other way round
    assert told([(f"{q} Aye", f"{q} Bah") for q in asked]) == []  # the letter begins a word


def test_the_names_of_columns_are_no_pair() -> None:
    with pytest.raises(
        ValueError, match=r"expected pairs of texts, got \('positive', 'negative'\), the names of columns, as number 0"
    ):
        extract.read(MODEL, BYTES, [("positive", "negative"), ("so good", "so bad")])


@pytest.mark.parametrize("pair", [([1, 2], []), ([1.5], [2]), ("a", None), ([["a"]], "b")])
def test_what_is_neither_a_text_nor_ids_is_refused(pair: Any) -> None:
    with pytest.raises(ValueError, match="expected pairs of two texts"):
        extract.read(MODEL, BYTES, [pair])
    with pytest.raises(ValueError, match="expected"):
        extract.read(MODEL, BYTES, [([1, 2], [1, 9999])])


@pytest.mark.parametrize("names", [("chosen", "rejected"), ("positive", "negative")])
def test_a_prompt_goes_before_both_texts_as_it_stands(names: tuple[str, str]) -> None:
    row = dict(zip(names, (" happy", " sad"), strict=True))
    notes = {"id": "a 3", "source": ["x"], "margin": 0.5, "seen": True, "of": None, "input": "", "n": [], "row": 0}
    for given in ([row | notes | {"prompt": "I feel"}], json.dumps(row | notes | {"prompt": "I feel"})):
        assert parsed(given) == [["I feel happy", "I feel sad"]]
    with pytest.warns(
        UserWarning, match="1 of 1 prompts end in a space, and their texts begin with one, as in 'I feel  happy'"
    ):
        parsed([row | {"prompt": "I feel "}])
    with pytest.raises(ValueError, match="expected lines of JSON"):  # of a name that comes twice json takes the last
        parsed('{"positive": "so", "positive": "no", "negative": "go"}')
    assert parsed([row]) == parsed([row | {"prompt": None}]) == parsed([row | {"prompt": ""}]) == [[" happy", " sad"]]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"question": "So?"}, "expected nothing but a prompt beside chosen and rejected in pair 1, got 'question'; "),
        ({"prompt": "So", "context": "He sang."}, "got 'context'; write it into both texts"),
        ({"history": ["Hello"]}, "got 'history'"),
        ({"positive": "good"}, "beside positive and negative|got 'positive'"),
        ({"prompt": [{"role": "user", "content": "Hi"}]}, "expected a text as the prompt of pair 1, got "),
        ({"prompt": 3}, "expected a text as the prompt of pair 1, got 3"),
    ],
)  # fmt: skip
def test_what_may_belong_to_the_texts_is_not_left_out_in_silence(more: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parsed([{"chosen": "yes", "rejected": "no"} | more])


def test_prompts_joined_without_a_space_are_told(recwarn: pytest.WarningsRecorder) -> None:
    """As sets of preferences have them: a question, and two answers."""
    row = {"prompt": "I feel", "chosen": "very happy", "rejected": "very sad"}
    told = "1 of 2 prompts are joined to their texts as they stand, without a space, as in 'I feelvery happy'"
    with pytest.warns(UserWarning, match=told):
        parsed([row, row | {"prompt": "I feel "}])
    recwarn.clear()
    for fine in (
        row | {"prompt": "I feel ("},
        row | {"prompt": "Yes?", "chosen": "(A", "rejected": "(B"},
        row | {"chosen": " happy", "rejected": " sad"},
        row | {"prompt": None},
        {"prompt": "你好吗？", "chosen": "很好", "rejected": "不好"},
    ):
        parsed([fine])
    assert not recwarn.list
    with pytest.warns(UserWarning, match=r"as in 'How are you\?very happy'"):
        parsed([row | {"prompt": "How are you?"}])
