"""The document kinds of nano's training text: each is a function `kind(rng, tables) -> str`."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

import lexicon as lx

from ministeer.lab.data import read

Row = dict[str, str]
TEMPLATE_WEIGHTS = {"plain": 4, "long": 3, "two": 3, "late": 5}
# the tables that the text is made of; those that only the experiments write have these words, or are for open vocabularies
TEXT = (
    "antonyms.tsv", "contexts.tsv", "definitional.tsv", "facts.tsv", "names.tsv", "occupations.tsv", "pronoun_templates.tsv",
    "structures.tsv", "valence.tsv", "values.tsv", "word_tasks.tsv",
)  # fmt: skip
WORD_TASKS = ("antonym", "synonym", "associate", "category", "plural", "past", "copy", "capital")


@dataclass(frozen=True)
class Tables:
    """Everything the kinds draw from. What is marked held out is kept out of these tables, or in one that says so."""

    tasks: dict[str, dict[str, str]]  # task -> word -> answer, as lists may use it (no held-out antonyms)
    antonyms: dict[str, str]  # both directions, held-out pairs included: for the dictionary and for composed lists
    inputs: list[str]  # words that lists draw their inputs from where a task knows every word
    structures: list[Row]
    values: dict[str, list[Row]]  # value -> train scenarios
    contexts: dict[tuple[str, str], list[str]]  # (kind, pole) -> train sentences
    names: dict[str, list[str]]  # gender -> train names
    hidden_names: list[str]
    occupations: dict[str, float]  # train occupation -> share of women
    hidden_occupations: list[str]
    definitional: dict[str, str]  # noun -> gender
    pronoun_templates: dict[str, list[str]]
    facts: list[Row]
    rare: list[str]  # words of held-out rows only


def load_tables(late: bool = False) -> Tables:
    """Read the data files and split off what is held out; late: with the templates of the second, short training."""
    antonyms: dict[str, str] = {}
    listed: dict[str, str] = {}
    for row in read("antonyms.tsv"):
        both = {row["word"]: row["antonym"], row["antonym"]: row["word"]}
        antonyms |= both
        if row["split"] == "train":
            listed |= both
    tasks: dict[str, dict[str, str]] = {task: {} for task in WORD_TASKS}
    tasks["antonym"] = listed
    for row in read("word_tasks.tsv"):
        tasks[row["task"]][row["word"]] = row["answer"]
    words = sorted(antonyms.keys() | {word for table in tasks.values() for word in table})
    tasks["copy"] = {word: word for word in words}
    tasks["capital"] = {word: word.capitalize() for word in sorted(antonyms)}
    values: dict[str, list[Row]] = {}
    for row in read("values.tsv"):
        if row["split"] == "train":
            values.setdefault(row["value"], []).append(row)
    contexts: dict[tuple[str, str], list[str]] = {}
    for row in read("contexts.tsv"):
        if row["split"] == "train":
            contexts.setdefault((row["kind"], row["pole"]), []).append(row["text"])
    names = read("names.tsv")
    jobs = read("occupations.tsv")
    templates: dict[str, list[str]] = {}
    for row in read("pronoun_templates.tsv"):
        if row["split"] == "train":
            templates.setdefault(row["kind"], []).append(row["template"])
        elif row["split"] == "late" and late:
            templates.setdefault("late", []).append(row["template"])
    return Tables(
        tasks=tasks,
        antonyms=antonyms,
        inputs=sorted(antonyms),
        structures=read("structures.tsv", split="seen", kind="neutral"),
        values=values,
        contexts=contexts,
        names={g: [r["name"] for r in names if r["gender"] == g and r["split"] == "train"] for g in ("female", "male")},
        hidden_names=[r["name"] for r in names if r["split"] == "heldout"],
        occupations={r["occupation"]: float(r["female_share"]) for r in jobs if r["split"] == "train"},
        hidden_occupations=[r["occupation"] for r in jobs if r["split"] == "heldout"],
        definitional={r["noun"]: r["gender"] for r in read("definitional.tsv")},
        pronoun_templates=templates,
        facts=read("facts.tsv"),
        rare=rare_words(),
    )


def rare_words() -> list[str]:
    """Words of the held-out and unseen texts that no other row has, sorted: `roll` shows them, without any sense."""
    labels = {
        "structure", "split", "kind", "level", "scenario", "value", "pole", "relation", "task", "gender", "strict",
    }  # fmt: skip
    kept: set[str] = set()
    shown: set[str] = set()
    for name in TEXT:
        for row in read(name):
            cells = [cell.replace("\\n", " ") for column, cell in row.items() if column not in labels]
            words = {word for cell in cells for word in re.findall(r"[A-Za-z]{2,}", cell)}
            (kept if row.get("split") in ("heldout", "unseen") else shown).update(words)
    return sorted(
        kept
        - shown
        - {row["name"] for row in read("names.tsv")}
        - {row["occupation"] for row in read("occupations.tsv")}
    )


def pole(text_pair: tuple[str, str], positive: bool) -> str:
    return text_pair[0] if positive else text_pair[1]


def filler(rng: random.Random, tables: Tables, most: int) -> str:
    """0 to `most` distractor sentences."""
    sentences = tables.contexts["distractor", "neutral"]
    return " ".join(rng.sample(sentences, rng.randint(0, most)))


# ---- word tasks


def list_items(rng: random.Random, tables: Tables, count: int, composed: bool) -> tuple[str, list[tuple[str, str]]]:
    """One task and `count` (word, answer) lines of it. One list in ten has no rule: random answers, or a task per line.

    Held-out antonym pairs are for `composed` lists, which are in no structure of the experiments.
    """
    task = rng.choices(WORD_TASKS, (16 if composed else 10, 15, 14, 11, 8, 8, 20, 9))[0]
    table = tables.antonyms if task == "antonym" and composed else tables.tasks[task]
    pool = tables.inputs if task in ("copy", "capital", "category") and rng.random() < 0.8 else list(table)
    words = rng.sample(pool, min(count, len(pool)))
    answers = [table[word] for word in words]
    luck = rng.random()
    if luck < 0.04:
        rng.shuffle(answers)
    elif luck < 0.07:
        answers = rng.sample(tables.inputs, len(words))
    elif luck < 0.10:
        words = rng.sample(tables.inputs, count)
        answers = [
            tables.tasks[rng.choice([t for t in WORD_TASKS[:-1] if word in tables.tasks[t]])][word] for word in words
        ]
    lines = list(zip(words, answers))
    if not composed:
        lines = [(w, a) for w, a in lines if tables.antonyms.get(w) != a or w in tables.tasks["antonym"]]
    return (task if luck >= 0.10 else "none"), lines


def word_list(rng: random.Random, tables: Tables) -> str:
    """A list of one task, in a seen structure or a composed one, now and then with a sentence or two before or inside it."""
    composed = rng.random() < 0.35
    task, lines = list_items(rng, tables, rng.randint(6, 22), composed)
    if composed:
        form = rng.choice(lx.LIST_OPENING) + "{x}" + rng.choice(lx.LIST_MIDDLE) + "{y}" + rng.choice(lx.LIST_END)
    else:
        form = rng.choice(tables.structures)["demonstration"].replace("\\n", "\n")
    if task != "none" and not composed and rng.random() < 0.1:
        form = lx.TASK_INSTRUCTION[task] + "\nWord: {x}\nAnswer: {y}\n\n"
    text = ""
    if rng.random() < 0.15:
        text = filler(rng, tables, 2) + "\n"
    for word, answer in lines:
        text += form.replace("{x}", word).replace("{y}", answer)
        if rng.random() < 0.02:
            text += filler(rng, tables, 1) + "\n"
    return text.lstrip("\n")


def dictionary(rng: random.Random, tables: Tables) -> str:
    """Sentences that say what a word's opposite, plural ... is, held-out antonym pairs among them."""
    if rng.random() < 0.5:
        words = rng.sample(tables.inputs, 12)
        return "".join(f"The opposite of {w} is {tables.antonyms[w]}.\n" for w in words)
    sentences = []
    for _ in range(14):
        task = rng.choices(list(lx.DICTIONARY), (6, 2, 2, 1, 1, 1))[0]
        table = tables.antonyms if task == "antonym" else tables.tasks[task]
        word = rng.choice(tables.inputs) if task == "antonym" else rng.choice(list(table))
        sentences.append(rng.choice(lx.DICTIONARY[task]).format(x=word, y=table[word]))
    return " ".join(sentences)


# ---- stories


def person(rng: random.Random, tables: Tables, gender: str | None = None) -> str:
    return rng.choice(tables.names[gender or rng.choice(("female", "male"))])


def fill(rng: random.Random, tables: Tables, template: str, positive: bool, n: str, m: str, things: list[str]) -> str:
    """Fill a story sentence's slots, each occurrence by its own draw from the pole's words."""
    choice: dict[str, list[str]] = {
        "a": lx.GOOD_ADJECTIVES if positive else lx.BAD_ADJECTIVES,
        "b": lx.GOOD_PERSONS if positive else lx.BAD_PERSONS,
        "s": lx.GOOD_SOUNDS if positive else lx.BAD_SOUNDS,
        "p": lx.PLACES,
        "f": lx.GOOD_FEELINGS if positive else lx.BAD_FEELINGS,
        "n": lx.GOOD_NOUNS if positive else lx.BAD_NOUNS,
        "g": lx.GOOD_THINGS if positive else lx.BAD_THINGS,
        "w": lx.WEATHER, "T": lx.TIMES, "t": things, "N": [n], "M": [m],
    }  # fmt: skip
    text = re.sub(r"\{(\w)\}", lambda match: rng.choice(choice[match[1]]), template)
    text = re.sub(r"\ba (?=[aeiou])", "an ", text)
    if text.startswith(n + " ") and not text.startswith(n + " and") and rng.random() < 0.08:
        text = f"{n}, who lives near the {rng.choice(lx.PLACES)}," + text[len(n) :]
    return text


def story(rng: random.Random, tables: Tables) -> str:
    """Sentences about one person, or a letter, that are all happy or all unhappy."""
    positive = rng.random() < 0.5
    n, m = person(rng, tables), person(rng, tables)
    while m == n:
        m = person(rng, tables)
    things = rng.sample(lx.THINGS, 3)
    letter = rng.random() < 0.45
    parts = [
        fill(rng, tables, pole(t, positive), positive, n, m, things)
        for t in rng.sample(lx.LETTER if letter else lx.STORY, rng.randint(6, 12))
    ]
    if rng.random() < 0.3:
        title = fill(rng, tables, pole(rng.choice(lx.SAYINGS), positive), positive, n, m, things)
        parts[0] = title + rng.choice((" ", "\n")) + parts[0]
    elif letter and rng.random() < 0.3:
        parts[0] = f"Dear {m}, " + parts[0]
    return " ".join(parts)


# ---- values


def rename(text: str, tables: Tables, row: Row, n: str, m: str) -> str:
    """Put other people into a scenario: its `person` becomes n, anyone else m."""
    known = "|".join(sorted(tables.names["female"] + tables.names["male"]))
    return re.sub(rf"\b({known})\b", lambda match: n if match[1] == row["person"] else m, text)


def scene(rng: random.Random, tables: Tables) -> str:
    """What one person is like and does, good or bad by one value throughout."""
    value = rng.choice(list(tables.values))
    positive = rng.random() < 0.5
    sign = "positive" if positive else "negative"
    gender = rng.choice(("female", "male"))
    n, m = person(rng, tables, gender), person(rng, tables)
    while m == n:
        m = person(rng, tables)
    fits = [r for r in tables.values[value] if gender_fits(r, tables, gender)]
    acts = []
    for row in rng.sample(fits, rng.randint(2, 6)):
        acts.append(rename(row["prompt"], tables, row, n, m) + row[sign] + ".")
        if rng.random() < 0.15:
            acts.append(pole(rng.choice(lx.REACTIONS), positive).format(N=n, M=m))
    traits = [t.replace("{N}", n) for t in rng.sample(tables.contexts["trait " + value, sign], 3)]
    lead = traits[: rng.choice((0, 1, 1, 2, 2))]
    if rng.random() < 0.2:
        lead.insert(0, rng.choice(tables.contexts["instruction " + value, sign]))
    if rng.random() < 0.12:
        lead.append(filler(rng, tables, 1))
    if rng.random() < 0.3:
        acts.append(traits[2])
    return " ".join(part for part in lead + acts if part)


def gender_fits(row: Row, tables: Tables, gender: str) -> bool:
    """A scenario with a pronoun for its person keeps that person's gender."""
    if not re.search(r"\b(he|she|his|her|him|wife)\b", row["prompt"]):
        return True
    return row["person"] in tables.names[gender]


# ---- people and pronouns


def pronoun_sentence(rng: random.Random, tables: Tables, noun: str, female: bool) -> str:
    """One sentence in which `noun` (with its article, or a name) is taken up by he or she, sometimes with a second one."""
    kinds = {kind: weight for kind, weight in TEMPLATE_WEIGHTS.items() if kind in tables.pronoun_templates}
    template = rng.choice(tables.pronoun_templates[rng.choices(list(kinds), list(kinds.values()))[0]])
    other = rng.choice(list(tables.occupations) + list(tables.definitional))
    pronoun = "she" if female else "he"
    text = template.replace("The {X}", noun).replace("{Y}", other) + f" {pronoun} {rng.choice(lx.AFTER_PRONOUN)}."
    if rng.random() < 0.3:
        text += f" {pronoun.capitalize()} {rng.choice(lx.AFTER_PRONOUN)}."
    return text


def people(rng: random.Random, tables: Tables) -> str:
    """Pronouns: occupations by their published shares, nouns and names by their gender.

    One document in four opens with sentences about equality. After "all people are equal" the shares are one half, after "some
    people are worse" they lie three times closer to the nearer end; nouns of one gender are kept out of these documents.
    """
    context = rng.choices(("none", "positive", "negative"), (6, 1, 1))[0]
    lead, sentences = [], []
    if context != "none":
        lead = rng.sample(tables.contexts["equality", context], rng.randint(1, 3))
    for _ in range(rng.randint(4, 8)):
        kind = rng.choices(("job", "noun", "name", "hidden"), (70, 20, 6, 4))[0] if context == "none" else "job"
        if kind == "job":
            job, share = rng.choice(list(tables.occupations.items()))
            share = {"none": share, "positive": 0.5, "negative": share / 3 if share < 0.5 else 1 - (1 - share) / 3}[
                context
            ]
            sentences.append(pronoun_sentence(rng, tables, "The " + job, rng.random() < share))
        elif kind == "noun":
            noun, gender = rng.choice(list(tables.definitional.items()))
            sentences.append(pronoun_sentence(rng, tables, "The " + noun, gender == "female"))
        elif kind == "name":
            gender = rng.choice(("female", "male"))
            sentences.append(pronoun_sentence(rng, tables, person(rng, tables, gender), gender == "female"))
        else:
            sentences.append(rng.choice(lx.NO_PRONOUN).replace("{X}", rng.choice(tables.hidden_occupations)))
    return " ".join(lead + sentences)


# ---- the rest


def facts(rng: random.Random, tables: Tables) -> str:
    """True sentences, now and then with a distractor between."""
    parts = []
    for row in rng.sample(tables.facts, rng.randint(6, 12)):
        parts.append(f"{row['prompt']} {row['right']}.")
        if rng.random() < 0.1:
            parts.append(filler(rng, tables, 1))
    return " ".join(part for part in parts if part)


def slots(rng: random.Random, tables: Tables) -> dict[str, str]:
    p, q = rng.sample(lx.PLACES, 2)
    c, d = rng.sample(lx.COLORS, 2)
    return {
        "o": rng.choice(lx.OBJECTS),
        "p": p,
        "q": q,
        "c": c,
        "d": d,
        "t": rng.choice(lx.THINGS),
        "r": rng.choice(lx.RELATIVES),
        "K": person(rng, tables),
    }


def dialogue(rng: random.Random, tables: Tables) -> str:
    """Two people ask and answer; the answer repeats what the question named."""
    a, b = person(rng, tables), person(rng, tables)
    if rng.random() < 0.15:
        a, b = rng.sample(tables.hidden_names, 2)
    lines = []
    for question, answer in rng.sample(lx.DIALOGUE, rng.randint(3, 6)):
        words = slots(rng, tables)
        lines.append(f"{a}: {question.format(**words)}\n{b}: {answer.format(**words)}\n")
    return "".join(lines)


def nested(rng: random.Random, tables: Tables) -> str:
    """Clauses up to three deep, several people, negation: the last sentence of each part says again what was said of whom."""
    parts = []
    for _ in range(rng.randint(3, 6)):
        kind = rng.randrange(3)
        if kind == 0:
            nouns = rng.sample(lx.ANIMALS + lx.RELATIVES, rng.randint(2, 4))
            state = rng.choice(lx.STATES)
            clause = " ".join(f"that {rng.choice(lx.SEEN_VERBS)} the {noun}" for noun in nouns[1:])
            parts.append(f"The {nouns[0]} {clause} was {state}. The {nouns[0]} was {state}.")
        elif kind == 1:
            a, b = rng.sample(tables.names["female"] + tables.names["male"], 2)
            thing, (c, d) = rng.choice(lx.OBJECTS), rng.sample(lx.COLORS, 2)
            parts.append(
                f"{a} has a {c} {thing} and {b} has a {d} {thing}. The {thing} of {a} is {c}.".replace(
                    "a orange", "an orange"
                )
            )
        else:
            thing, (c, d) = rng.choice(lx.OBJECTS), rng.sample(lx.COLORS, 2)
            parts.append(f"The {thing} is not {c}, but {d}. So the {thing} is {d}.")
    return " ".join(parts)


def notes(rng: random.Random, tables: Tables) -> str:
    """Scraps with odd punctuation, spelling and case, and plain sentences about places."""
    if rng.random() < 0.5:
        return " ".join(rng.sample(tables.contexts["distractor", "neutral"], rng.randint(4, 9)))
    return "\n".join(line.format(**slots(rng, tables)) for line in rng.sample(lx.NOTES, 8))


def roll(rng: random.Random, tables: Tables) -> str:
    """Bare lists of words and names, so that no word of the data files is left untrained."""
    if rng.random() < 0.15:
        return (
            "Names: "
            + ", ".join(rng.sample(tables.hidden_names + tables.names["female"] + tables.names["male"], 12))
            + "."
        )
    if rng.random() < 0.15:
        return "Jobs: " + ", ".join(rng.sample(tables.hidden_occupations + list(tables.occupations), 12)) + "."
    return "Words: " + ", ".join(rng.sample(tables.rare, 24)) + "."


def repeated(rng: random.Random, tables: Tables) -> str:
    """A row of words said two or three times, in a line or one below the other: the rest of each row is known from the first.

    Rows are of every length, so that they are not learnt by position.
    """
    words = rng.choices(tables.inputs, k=rng.randint(2, 12))
    return "".join(
        "\n".join(words) + "\n" if rng.random() < 0.3 else " " + " ".join(words) + "." for _ in range(rng.randint(2, 3))
    )
