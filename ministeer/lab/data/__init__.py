"""Word pairs, facts, occupations, contrast pairs: small tables that the experiments and nano's corpus share."""

import csv
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
Pair = tuple[str, str]  # a word and its answer
Row = dict[str, str]
OPEN = 1.6  # tokens a word: an open vocabulary takes fewer
MISCOUNTED = {"pathologist"}  # the share published for it is that of speech-language pathologists


def read(name: str, /, **wanted: str) -> list[Row]:
    """The rows of one of the `.tsv` files here, by column name; with `column="value"`, those that have it there.

    Raises `ValueError` for a file, a column or a value that does not exist.
    """
    path = HERE / name
    if not path.is_file():
        known = sorted(file.name for file in path.parent.glob("*.tsv"))
        raise ValueError(f"expected one of {', '.join(known)}, got {name!r}")
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    for column, value in wanted.items():
        if column not in rows[0]:
            raise ValueError(f"{name}: expected a column, one of {', '.join(rows[0])}, got {column!r}")
        values = list(dict.fromkeys(row[column] for row in rows))
        if value not in values:
            raise ValueError(f"{name}: expected a {column} that is there, {', '.join(values[:12])} ..., got {value!r}")
    return [row for row in rows if wanted.items() <= row.items()]


def wide(tokenizer: Any) -> bool:
    """Whether a tokenizer has an open vocabulary: the prompts of `facts_more.tsv` take fewer than 1.6 of its tokens a word.

    They take 1.1 of GPT-2's and of SmolLM2's, and 2.5 of nano's, which knows whole words only and writes others letter by letter.
    """
    prompts = [row["prompt"] for row in read("facts_more.tsv")]
    tokens = sum(len(tokenizer.encode(prompt)) for prompt in prompts)
    return tokens < OPEN * sum(len(prompt.split()) for prompt in prompts)


def facts(tokenizer: Any) -> list[Row]:
    """The facts that a model with this tokenizer can be asked: `facts.tsv`, and with an open vocabulary `facts_more.tsv` after it."""
    return read("facts.tsv") + (read("facts_more.tsv") if wide(tokenizer) else [])


def scenarios(tokenizer: Any, **wanted: str) -> list[Row]:
    """The contrast items for values: `values.tsv`, or with an open vocabulary the scenarios written for one; wanted as in `read`."""
    return read("scenarios.tsv" if wide(tokenizer) else "values.tsv", **wanted)


def accepted(word: str) -> set[str]:
    """All words that pass for the opposite of a word of `antonyms.tsv`, the table's own among them."""
    (row,) = read("antonym_sets.tsv", word=word)
    return set(row["answers"].split())


def passages(**wanted: str) -> list[str]:
    """Unrelated text, three sentences each; wanted as in `read`."""
    sentences = [row["text"] for row in read("contexts.tsv", kind="distractor", **wanted)]
    return [" ".join(sentences[i : i + 3]) for i in range(0, len(sentences), 3)]


def neutral(tokenizer: Any, name: str, tokens: int) -> list[str]:
    """Unrelated sentences, of so many tokens together or the fewest more. There are few, which come again in another order; the name decides the orders."""
    sentences, draw = [row["text"] for row in read("contexts.tsv", kind="distractor")], random.Random(name)
    said: list[str] = []
    while True:
        for text in draw.sample(sentences, len(sentences)):
            if tokens <= 0:
                return said
            said.append(text)
            tokens -= len(tokenizer.continuation(f" {text}"))


def group_prompts(axis: str, split: str) -> list[dict[str, Any]]:
    """Prompts of an axis of `groups.tsv`, `[{"prompt", "words", "subject"}]`, the words its two answers: each subject in each template
    of the split, subject by subject."""
    subjects = [row["subject"] for row in read("groups.tsv", axis=axis, split="-")]
    templates = read("groups.tsv", axis=axis, split=split)
    return [
        {"prompt": row["template"].replace("{X}", x), "words": [row["first"], row["second"]], "subject": x}
        for x in subjects
        for row in templates
    ]


def occupations(split: str) -> dict[str, float]:
    """The published share of women in each occupation of a split, but for those whose share is another occupation's."""
    rows = read("occupations.tsv", split=split)
    return {row["occupation"]: float(row["female_share"]) for row in rows if row["occupation"] not in MISCOUNTED}


def context_pairs(value: str, rows: Sequence[Row] | None = None) -> list[tuple[str, str]]:
    """Contrast pairs for a value in which the context differs and the answer is still to come, to be read at the last token.

    Before the prompt of each of the rows, by default those of `values.tsv` to extract from, stands what its person, who has the
    value or has not, did before.
    """
    rows = read("values.tsv", value=value, split="train") if rows is None else rows
    good, bad = (
        [row["text"] for row in read("contexts.tsv", kind=f"trait {value}", split="train", pole=pole)]
        for pole in ("positive", "negative")
    )
    return after(rows, good, bad)


def after(rows: Sequence[Row], good: Sequence[str], bad: Sequence[str]) -> list[tuple[str, str]]:
    """The prompt of each row after a sentence of either list in turn, `{N}` in it the row's person."""
    pairs = []
    for i, row in enumerate(rows):
        plus, minus = (some[i % len(some)].replace("{N}", row["person"]) for some in (good, bad))
        pairs.append((f"{plus} {row['prompt']}", f"{minus} {row['prompt']}"))
    return pairs


def few_shot_text(structure: str, demonstrations: Sequence[Pair], query: str) -> tuple[str, str]:
    """A prompt of demonstrations (x, y) and a query, in a structure of `structures.tsv`, and the space before its answer.

    The prompt ends right before the answer. GPT-2's tokens begin with their space, so the space belongs to the answer:
    it is returned by itself, " " or "".
    """
    forms = _forms()
    if structure not in forms:
        raise ValueError(f"expected a structure, one of {', '.join(forms)}, got {structure!r}")
    form = forms[structure]
    text = "".join(form.replace("{x}", x).replace("{y}", y) for x, y in demonstrations)
    head = form.split("{y}")[0].replace("{x}", query)
    return text + head.rstrip(" "), " " if head.endswith(" ") else ""


@cache
def _forms() -> dict[str, str]:
    return {row["structure"]: row["demonstration"].replace("\\n", "\n") for row in read("structures.tsv")}


def word_tasks() -> dict[str, dict[str, list[Pair]]]:
    """The pairs of every word task, `{task: {split: [(word, answer)]}}`; antonyms in both directions, the others "train" alone."""
    tasks: dict[str, dict[str, list[Pair]]] = {"antonym": {"train": [], "heldout": []}}
    for row in read("antonyms.tsv"):
        tasks["antonym"][row["split"]] += [(row["word"], row["antonym"]), (row["antonym"], row["word"])]
    for row in read("word_tasks.tsv"):
        tasks.setdefault(row["task"], {"train": []})["train"].append((row["word"], row["answer"]))
    return tasks


def answerable(tokenizer: Any) -> dict[str, dict[str, list[Pair]]]:
    """`word_tasks`; without an open vocabulary, but for pairs whose answer is not one token of this tokenizer's after a space."""
    if wide(tokenizer):
        return word_tasks()
    return {
        task: {
            split: [pair for pair in pairs if len(tokenizer.continuation(f" {pair[1]}")) == 1]
            for split, pairs in splits.items()
        }
        for task, splits in word_tasks().items()
    }


def few_shot(
    queries: Sequence[Pair],
    demonstrations: Sequence[Pair],
    count: int,
    *,
    structure: str,
    shots: int,
    seed: int,
    shuffled: bool = False,
) -> list[dict[str, Any]]:
    """Few-shot prompts with different queries, `[{"prompt", "words", "pair"}]`, the one word its answer with its space;
    pair is the same both ways round.

    No demonstration holds a word of its query. shuffled: the answers of the demonstrations are put in a random order, as by Todd et al.
    2024, in which one of a list stays in its place on average. The same seed asks the same queries whatever the number of shots.
    """
    if shuffled and shots < 3:
        raise ValueError(
            f"expected three demonstrations or more to shuffle, got {shots}, of which most stay in their place"
        )
    chosen = random.Random(seed).sample(list(queries), min(count, len(queries)))
    made = []
    for number, (x, y) in enumerate(chosen):
        rng = random.Random(f"{seed} {number}")
        shown = rng.sample([pair for pair in demonstrations if not {x, y} & {*pair}], shots)
        labels = [b for _, b in shown]
        if shuffled:
            rng.shuffle(labels)
        text, space = few_shot_text(structure, [(a, b) for (a, _), b in zip(shown, labels)], x)
        made.append({"prompt": text, "words": [space + y], "pair": " ".join(sorted((x, y)))})
    return made


def task_prompts(
    tasks: dict[str, dict[str, list[Pair]]], count: int, *, structure: str, shots: int, seed: int
) -> dict[str, list[str]]:
    """`few_shot` of each task's own training pairs, the prompts alone: what a function vector and those to subtract are taken from."""
    return {
        task: [
            item["prompt"]
            for item in few_shot(splits["train"], splits["train"], count, structure=structure, shots=shots, seed=seed)
        ]
        for task, splits in tasks.items()
    }
