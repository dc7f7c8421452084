"""nano's training text, made by a program: `python weights/nano/corpus.py --show 5`, `--table`, `--heldout`, `--vocabulary FILE`.

The text is a stream of documents, each of one kind from `kinds.py`, drawn with the weights below by one seeded generator: the
same seed gives the same text. Tables of words, facts, scenarios and shares are the project's own data files
(`ministeer/lab/data/`); what those files mark as held out or unseen is kept out of the text (see `heldout_report`).
"""

from __future__ import annotations

import argparse
import base64
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import kinds
import numpy as np

from ministeer.lab.data import read
from ministeer.tokenizer import END, Tokenizer

# how GPT-2 cuts ASCII text: a table of whole pieces behaves like its tokenizer with a small closed vocabulary
PIECE = re.compile(r"'(?:[sdmt]|ll|ve|re)| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+")
# kind -> share of documents; `--table` prints the shares of tokens that follow from them
Mixture = dict[Callable[[random.Random, kinds.Tables], str], int]
MIXTURE: Mixture = {
    kinds.word_list: 38, kinds.dictionary: 6, kinds.story: 9, kinds.scene: 17, kinds.people: 15, kinds.facts: 5,
    kinds.dialogue: 3, kinds.nested: 3, kinds.notes: 1, kinds.roll: 3,
}  # fmt: skip
REPEATS: Mixture = {kinds.repeated: 1}  # for a training that begins with finding a word again


def documents(seed: int, late: bool = False, mixture: Mixture = MIXTURE) -> Iterator[tuple[str, str]]:
    """Endless (kind, text) pairs; the same seed gives the same documents. late: with the templates marked so."""
    rng = random.Random(seed)
    tables = kinds.load_tables(late)
    makers, weights = list(mixture), list(mixture.values())
    while True:
        maker = rng.choices(makers, weights)[0]
        yield maker.__name__, maker(rng, tables)


def prompt_pieces() -> set[str]:
    """Pieces of every prompt, answer and structure in the data files, as the experiments write them."""
    texts: list[str] = []
    for row in read("values.tsv"):
        texts += [row["prompt"] + row["positive"] + ".", row["prompt"] + row["negative"] + "."]
    for row in read("facts.tsv"):
        texts += [f"{row['prompt']} {row[k]}." for k in ("right", "wrong1", "wrong2", "wrong3")]
    for row in read("contexts.tsv"):
        texts.append(row["text"].replace("{N}", "Tom"))
    for row in read("complexity.tsv"):
        texts += [row["plain"], row["harder"]]
    for row in read("frames.tsv"):
        texts += [row["text"].replace("\\n", "\n").replace("{p}", prompt["prompt"]) for prompt in read("values.tsv")]
    for row in read("structures.tsv"):
        texts.append(row["demonstration"].replace("\\n", "\n").replace("{x}", "hot").replace("{y}", "cold") * 2)
    for row in read("pronoun_templates.tsv"):
        texts.append(row["template"].replace("{X}", "nurse").replace("{Y}", "doctor"))
    for row in read("word_tasks.tsv"):
        texts += [row["word"], " " + row["word"], " " + row["answer"]]
    for row in read("antonyms.tsv"):
        for word in (row["word"], row["antonym"]):
            texts += [word, " " + word, " " + word.capitalize()]
    for name, column in (
        ("names.tsv", "name"),
        ("occupations.tsv", "occupation"),
        ("definitional.tsv", "noun"),
        ("valence.tsv", "word"),
    ):
        for row in read(name):
            texts += [" " + row[column]]
    return {piece for text in texts for piece in PIECE.findall(text)}


def build_vocabulary(seed: int = 0, n_documents: int = 60_000) -> list[str]:
    """All pieces of the data files and of a large sample of the text, sorted: the vocabulary after the 256 bytes."""
    found = prompt_pieces() | {"I", " I", "You", "This", "Love", "Hate", " Love", " Hate", " "}
    for (_, text), _ in zip(documents(seed), range(n_documents)):
        found.update(PIECE.findall(text))
    return sorted(piece for piece in found if len(piece.encode()) > 1)


def write_vocabulary(pieces: list[str], path: Path) -> None:
    """tiktoken's rank file: the 256 bytes in order, then the pieces."""
    entries = [bytes([i]) for i in range(256)] + [piece.encode() for piece in pieces]
    path.write_text("".join(f"{base64.b64encode(e).decode()} {i}\n" for i, e in enumerate(entries)), encoding="ascii")


def token_rows(tokenizer: Tokenizer, texts: Iterator[tuple[str, str]], n_rows: int, length: int) -> np.ndarray:
    """The next rows of ids (n_rows, length): whole documents, each opened by <|endoftext|>, the last of a row cut where it is full.

    Every row starts where a document starts, as every prompt does.
    """
    rows = np.empty((n_rows, length), dtype=np.uint16)
    for row in rows:
        filled = 0
        while filled < length:
            _, text = next(texts)
            ids = [tokenizer.eot, *tokenizer.encode(text)][: length - filled]
            row[filled : filled + len(ids)] = ids
            filled += len(ids)
    return rows


def mixture_table(seed: int = 0, n_documents: int = 10_000) -> str:
    """Share of documents and of tokens by kind, measured on a sample."""
    count: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    for (kind, text), _ in zip(documents(seed), range(n_documents)):
        count[kind] += 1
        tokens[kind] += len(PIECE.findall(text)) + 1
    lines = [f"{'kind':<12}{'documents':>10}{'tokens':>10}{'per cent':>10}"]
    for kind, n in tokens.most_common():
        lines.append(f"{kind:<12}{count[kind]:>10}{n:>10}{100 * n / tokens.total():>10.1f}")
    return "\n".join([*lines, f"{'all':<12}{count.total():>10}{tokens.total():>10}{100:>10.1f}"])


def heldout_report() -> str:
    """What is kept out of the training text, by data file."""

    def pick(name: str, column: str, split: str = "heldout") -> list[str]:
        return sorted({row[column] for row in read(name, split=split)})

    pairs = [f"{r['word']}-{r['antonym']}" for r in read("antonyms.tsv") if r["split"] == "heldout"]
    rows = {
        "antonym pairs (never in a neutral structure of structures.tsv)": pairs,
        "structures": pick("structures.tsv", "structure", "unseen"),
        "value scenarios": pick("values.tsv", "scenario"),
        "sentences (traits, instructions, equality, distractors)": pick("contexts.tsv", "text"),
        "pronoun templates": pick("pronoun_templates.tsv", "template"),
        "occupations (never with a pronoun)": pick("occupations.tsv", "occupation"),
        "names (in rolls and dialogue only)": pick("names.tsv", "name"),
        "complexities": ["more than two distractor sentences before a list", "clauses between a list and its query",
                         "two tasks taking turns by a rule", "a person with traits of both poles", "a trait denied with not"],
    }  # fmt: skip
    return "\n\n".join(f"{title} ({len(items)}):\n  " + "; ".join(items) for title, items in rows.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, metavar="N", help="print N documents")
    parser.add_argument("--kind", help="with --show: only documents of this kind")
    parser.add_argument("--table", action="store_true", help="print the mixture in documents and tokens")
    parser.add_argument("--heldout", action="store_true", help="list what is held out")
    parser.add_argument("--vocabulary", type=Path, metavar="FILE", help="write the rank file")
    args = parser.parse_args()
    if args.kind and args.kind not in {maker.__name__ for maker in MIXTURE}:
        parser.error(f"--kind is one of {', '.join(maker.__name__ for maker in MIXTURE)}")
    if args.show:
        shown = 0
        for kind, text in documents(args.seed):
            if shown == args.show:
                break
            if args.kind in (None, kind):
                print(f"[{kind}]\n{text}\n")
                shown += 1
    if args.table:
        print(mixture_table(args.seed))
    if args.heldout:
        print(heldout_report())
    if args.vocabulary:
        pieces = build_vocabulary()
        write_vocabulary(pieces, args.vocabulary)
        print(f"{args.vocabulary}: 256 bytes + {len(pieces)} pieces + {END}")


if __name__ == "__main__":
    main()
