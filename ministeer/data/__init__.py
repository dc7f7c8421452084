"""Word pairs, facts, occupations, contrast pairs: small tables that the experiments and nano's corpus share."""

import csv
from pathlib import Path


def read(name: str, **wanted: str) -> list[dict[str, str]]:
    """The rows of one of the `.tsv` files here, by column name; with `column="value"`, those that have it there."""
    with open(Path(__file__).parent / name, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [row for row in rows if wanted.items() <= row.items()]
