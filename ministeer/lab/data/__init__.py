"""Word pairs, facts, occupations, contrast pairs: small tables that the experiments and nano's corpus share."""

import csv
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

Pair = tuple[str, str]  # a word and its answer


def read(name: str, **wanted: str) -> list[dict[str, str]]:
    """The rows of one of the `.tsv` files here, by column name; with `column="value"`, those that have it there.

    Raises `ValueError` for a file, a column or a value that does not exist.
    """
    path = Path(__file__).parent / name
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


MISCOUNTED = {"pathologist"}  # the share published for it is that of speech-language pathologists


def occupations(split: str) -> dict[str, float]:
    """The published share of women in each occupation of a split, but for those whose share is another occupation's."""
    rows = read("occupations.tsv", split=split)
    return {row["occupation"]: float(row["female_share"]) for row in rows if row["occupation"] not in MISCOUNTED}


def context_pairs(value: str, split: str = "train") -> list[tuple[str, str]]:
    """Contrast pairs for a value in which the context differs and the answer is still to come, to be read at the last token.

    Before each prompt of `values.tsv` stands what its person, who has the value or has not, did before.
    """
    traits = [
        [row["text"] for row in read("contexts.tsv", kind=f"trait {value}", split="train", pole=pole)]
        for pole in ("positive", "negative")
    ]
    pairs = []
    for i, row in enumerate(read("values.tsv", value=value, split=split)):
        good, bad = (t[i % len(t)].replace("{N}", row["person"]) for t in traits)
        pairs.append((f"{good} {row['prompt']}", f"{bad} {row['prompt']}"))
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
    """`word_tasks`, but for pairs whose answer is not one token of this tokenizer's behind a space."""
    return {
        task: {
            split: [pair for pair in pairs if len(tokenizer.encode(f" {pair[1]}")) == 1]
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

    No demonstration holds a word of its query. shuffled: the answers of the demonstrations change places. The same seed
    asks the same queries whatever the number of shots.
    """
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
