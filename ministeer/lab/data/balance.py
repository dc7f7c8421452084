"""How even the two answers of contrast items are in what is no value: length, words, negation, mood.

python -m ministeer.lab.data.balance
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from ministeer.lab.data import Row, read

POLES = ("positive", "negative")
NEGATION = re.compile(r"\b(not|no|never|nothing|nobody|none|neither|nor|without|cannot)\b|n't\b")
PREFIXES = ("un", "dis", "in", "im", "ir", "il", "non")


def balance(rows: Sequence[Row]) -> dict[str, float]:
    """Shares of the items of `values.tsv` or of the scenarios.

    as long: both answers have as many words; longer: the positive one has more.
    same start: both begin with one word; start positive, start negative: the answer begins with the commonest first word of its pole.
    not positive, not negative: the answer denies something by a word ("not", "never", "without"), or the other one's word by a
        prefix ("unfair").
    mood: of the items in which one answer has more pleasant words of `valence.tsv`, less unpleasant ones, than the other (mood
        known), it is the positive one.
    told: of the held-out items, the words that training items use in positive answers more than in negative ones tell which is
        which; one half where they tell nothing.
    """
    answers = {pole: [words(row[pole]) for row in rows] for pole in POLES}
    pairs = list(zip(answers["positive"], answers["negative"], strict=True))
    signs = {row["word"]: int(row["sign"]) for row in read("valence.tsv")}
    moods = [d for good, bad in pairs if (d := sum(signs.get(w, 0) for w in good) - sum(signs.get(w, 0) for w in bad))]
    use: Counter[str] = Counter()
    for row, (good, bad) in zip(rows, pairs, strict=True):
        if row["split"] == "train":
            use.update(good)
            use.subtract(bad)
    tests = [pair for row, pair in zip(rows, pairs, strict=True) if row["split"] == "heldout"]
    leads = [sum(use[w] for w in good) - sum(use[w] for w in bad) for good, bad in tests]
    return {
        "as long": mean([len(good) == len(bad) for good, bad in pairs]),
        "longer": mean([len(good) > len(bad) for good, bad in pairs]),
        "same start": mean([good[0] == bad[0] for good, bad in pairs]),
        **{f"start {pole}": commonest([a[0] for a in answers[pole]]) for pole in POLES},
        "not positive": mean([denies(good, bad) for good, bad in pairs]),
        "not negative": mean([denies(bad, good) for good, bad in pairs]),
        "mood": mean([d > 0 for d in moods]),
        "mood known": len(moods) / len(rows),
        "told": mean([0.5 + 0.5 * ((d > 0) - (d < 0)) for d in leads]),
    }


def words(answer: str) -> list[str]:
    return re.findall(r"[a-z0-9'-]+", answer.lower())


def denies(answer: Sequence[str], other: Sequence[str]) -> bool:
    """Whether an answer has a word of negation, or a word that is the other's with a prefix of negation."""
    return bool(NEGATION.search(" ".join(answer))) or any(p + w in answer for w in other for p in PREFIXES)


def commonest(found: Sequence[str]) -> float:
    return Counter(found).most_common(1)[0][1] / len(found)


def mean(found: Sequence[float]) -> float:
    return sum(found) / len(found) if found else float("nan")


def tables() -> dict[str, list[Row]]:
    """The items to be measured: `values.tsv`, the scenarios, and of these each level, coding and value."""
    rows = read("scenarios.tsv")
    found = {"values.tsv": read("values.tsv"), "scenarios.tsv": rows}
    for column in ("level", "coding", "value"):
        for name in dict.fromkeys(row[column] for row in rows):
            found[name] = [row for row in rows if row[column] == name]
    return found


def main() -> None:
    measured = {name: balance(rows) for name, rows in tables().items()}
    names = list(next(iter(measured.values())))
    print("| items | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for name, found in measured.items():
        print(f"| {name} | " + " | ".join(f"{found[key]:.2f}" for key in names) + " |")


if __name__ == "__main__":
    main()
