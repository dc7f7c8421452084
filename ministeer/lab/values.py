"""Values: the vector of one, how it is read and where it is added, how far it moves the answers to scenarios, and what that says of the claims.

Doses are tenths of the stream's norm at the site: a multiplier of 1 adds a tenth of it, whatever the vector.
Letters: N items, V vectors, L layers, C multipliers.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ministeer import extract
from ministeer.lab import data, figures, protocol
from ministeer.lab.answers import answers, disturbance, log_probabilities
from ministeer.lab.claims import MOVES, evidence
from ministeer.lab.experiment import Experiment
from ministeer.lab.protocol import Item, beside, felt, sites, tenth
from ministeer.metrics import Array
from ministeer.steer import Where
from ministeer.vectors import SteeringVector

VALUES = ("honesty", "fairness", "kindness", "caution", "responsibility", "nonviolence")
LEVELS = ("plain", "short", "complex")
ENDS = (-1.0, 1.0)
LOUD = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # multipliers among which that of equal disturbance lies
# where the two texts of a pair differ, and at which token they are read
READINGS = {"context": "last", "answer": "answer", "end of the answer": "last"}
# vectors of either reading move training scenarios of SmolLM2 further so than from the last token on
WHERE: Where = "all"
ROUNDING = 1e-3  # nats per unit: a slope nearer to 0 is no movement
Row = Mapping[str, Any]


def items(lab: Experiment, value: str, split: str) -> list[dict[str, str]]:
    """The rows of a value's scenarios; a quick run has every fourth scenario of a level, two at least."""
    rows = data.scenarios(lab.tokenizer, value=value, split=split)
    some: set[str] = set()
    for level in LEVELS:
        scenarios = list(dict.fromkeys(row["scenario"] for row in rows if row["level"] == level))
        some.update(lab.part(scenarios) if len(lab.part(scenarios)) > 1 else scenarios[:2])
    return [row for row in rows if row["scenario"] in some]


def first(rows: Sequence[Any]) -> list[Any]:
    """One phrasing of each scenario."""
    found: dict[Any, Any] = {}
    for row in rows:
        found.setdefault((row["value"], row["scenario"]), row)
    return list(found.values())


def contrasts(value: str, rows: Sequence[Item], reading: str) -> list[tuple[str, str]]:
    """Pairs of texts for a value's vector: its scenarios with either answer, or after what a person did who has the value or has not."""
    if reading != "context":
        return [(row["prompt"] + row["positive"], row["prompt"] + row["negative"]) for row in rows]
    return data.context_pairs(value, rows)


def valence(lab: Experiment, value: str, reading: str) -> SteeringVector:
    """The same reading of the same prompts, where only pleasant and unpleasant words make the difference."""
    rows = items(lab, value, "train")[::2]
    good, bad = ([r["word"] for r in data.read("valence.tsv", sign=sign)] for sign in ("1", "-1"))
    if reading == "context":
        pairs = data.after(rows, [f"{{N}} feels {w}." for w in good], [f"{{N}} feels {w}." for w in bad])
    else:
        texts = [[f"{row['prompt']} {w[i % len(w)]}" for w in (good, bad)] for i, row in enumerate(rows)]
        pairs = [(plus, minus) for plus, minus in texts]
    return _scaled(lab, value, pairs, reading)


def vector(
    lab: Experiment,
    value: str,
    *,
    seed: int,
    pairs: int = 32,
    reading: str = "context",
    rows: Sequence[Item] | None = None,
) -> SteeringVector:
    """The contrastive vector of a value at all layers, a tenth of the stream long, from pairs drawn by the seed of training scenarios, all
    or these rows."""
    everything = contrasts(value, items(lab, value, "train") if rows is None else rows, reading)
    return _scaled(
        lab, value, random.Random(seed).sample(everything, min(pairs, len(everything) * 2 // 3 + 1)), reading
    )


def setting(lab: Experiment, value: str) -> tuple[str, int]:
    """The reading and the layer at which the vector from every other training scenario moves the scenarios between them most. The vector
    never saw what it is tried on: an answer would teach its own words."""
    train = items(lab, value, "train")
    seen = set(list(dict.fromkeys(row["scenario"] for row in train))[::2])
    known, unseen = ([row for row in train if (row["scenario"] in seen) == which] for which in (True, False))
    best: tuple[float, str, int] = (-np.inf, "", 0)
    for reading in READINGS:
        made = vector(lab, value, seed=0, reading=reading, rows=known)
        gain, at = _best(lab, first(unseen), made)
        best = max(best, (gain, reading, at))
    return best[1:]


def layer(lab: Experiment, value: str, vector: SteeringVector) -> int:
    """Where a vector moves the training scenarios most."""
    return _best(lab, first(items(lab, value, "train")), vector)[1]


def _best(lab: Experiment, rows: Sequence[Item], vector: SteeringVector) -> tuple[float, int]:
    """The steerability of the rows at the layer where the vector moves them most, and that layer: first every other one is tried, from the
    first quarter on, then those beside the best."""
    at = felt(lab, vector)

    def tried(layers: Sequence[int]) -> list[tuple[float, int]]:
        slopes = moved(lab, rows, {"vector": vector}, layers, ENDS) @ [-0.5, 0.5]  # (N, 1, L)
        return [(float(slope), i) for slope, i in zip(slopes.mean((0, 1)), layers, strict=True)]

    coarse = tried(at[len(at) // 4 :: 2])
    around = beside(at, max(coarse)[1])
    return max(coarse + (tried(around) if around else []))


def moved(
    lab: Experiment,
    rows: Sequence[Item],
    vectors: Mapping[str, SteeringVector] | None,
    layers: Sequence[int] = (),
    multipliers: Sequence[float] = (0.0,),
    *,
    randoms: Mapping[str, Any] | None = None,
    form: str = "plain",
    system: str = "",
    frame: str = "{p}",
) -> Array:
    """Log-probability of each item's positive answer minus that of its negative one, whole answers, in nats, (N, V, L, C).

    randoms: as in `answers`; V is then their number. frame: the text around its prompt.
    """
    asked = [
        {"prompt": frame.replace("{p}", row["prompt"]), "words": [row["positive"], row["negative"]]} for row in rows
    ]
    steered = {
        "vectors": vectors,
        "layers": [*layers],
        "coefficients": [*multipliers],
        "where": WHERE,
        "randoms": randoms,
    }
    found = lab.cell(answers, items=asked, form=form, system=system, **steered)
    differences: Array = log_probabilities(found) @ [1.0, -1.0]
    return differences


def sayings(value: str) -> list[tuple[str, str]]:
    """Ways to say a value and its opposite: instructions, and what is true of the person, `{N}`, whom a scenario is about."""

    def said(kind: str) -> list[tuple[str, str]]:
        poles = (
            data.read("contexts.tsv", kind=f"{kind} {value}", split="train", pole=p) for p in ("positive", "negative")
        )
        return [(good["text"], bad["text"]) for good, bad in zip(*poles, strict=True)]

    return [*said("instruction"), said("trait")[0]]


def told(lab: Experiment, saying: tuple[str, str], rows: Sequence[Item], form: str) -> Array:
    """By how much the value said in words moves each item, (N,): half the difference between its two poles, in nats.

    An instruction is the chat's system message, or stands before the plain prompt; what is true of a person stands before the prompt.
    """

    def differences(text: str) -> Array:
        if "{N}" not in text:
            return moved(lab, rows, None, form=form, system=text)[:, 0, 0, 0]
        known = [{**row, "prompt": f"{text.replace('{N}', row['person'])} {row['prompt']}"} for row in rows]
        return moved(lab, known, None, form=form)[:, 0, 0, 0]

    plus, minus = map(differences, saying)
    found: Array = (plus - minus) / 2
    return found


def said_best(lab: Experiment, value: str, form: str) -> tuple[str, str]:
    """The saying that moves training scenarios most."""
    rows = first(items(lab, value, "train"))[::2]
    return max(sayings(value), key=lambda saying: float(told(lab, saying, rows, form).mean()))


def as_loud(lab: Experiment, saying: tuple[str, str], vector: SteeringVector, layer: int, form: str) -> dict[str, Any]:
    """The multiplier at which the vector, added and subtracted, changes unrelated text as much as a saying and its opposite do: on straight
    lines between logarithms, or the largest tried. A row, with the KL of the saying, of a neutral sentence and of a multiplier of 1, in nats a token."""
    known = {"texts": data.passages()[::2], "form": form}
    person = data.read("values.tsv")[0]["person"]
    neutral = data.read("contexts.tsv", kind="distractor")[0]["text"]
    words = {}
    for text in (*saying, neutral):
        said = {"before": text.replace("{N}", person)} if "{N}" in saying[0] else {"system": text}
        words[text] = float(np.mean([row["kl"] for row in lab.cell(disturbance, **said, **known)]))
    of_saying = (words[saying[0]] + words[saying[1]]) / 2
    doses = [sign * c for c in LOUD for sign in ENDS]
    found = lab.cell(disturbance, vectors={"vector": vector}, layer=layer, coefficients=doses, **known)
    by_dose = np.mean([row["kl"] for row in found], axis=(0, 1)).reshape(len(LOUD), 2).mean(1)
    by_dose = np.maximum(by_dose, 1e-9)  # a vector of zeros costs nothing
    dose = float(np.exp(np.interp(np.log(of_saying), np.log(by_dose), np.log(LOUD))))
    costs = {
        "KL of saying it": of_saying,
        "KL of a neutral sentence": words[neutral],
        "KL of a tenth": float(by_dose[LOUD.index(1.0)]),
    }
    return {"said": saying[0], **costs, "dose of equal KL": dose}


def halves(
    lab: Experiment,
    rows: Sequence[Item],
    vectors: Mapping[str, SteeringVector],
    layer: int,
    form: str = "plain",
    dose: float = 1.0,
    **settings: Any,
) -> Array:
    """Half the difference between the vector added and subtracted, of each item and vector, (N, V): at a dose of 1 the slope."""
    ends = [end * dose for end in ENDS]
    found: Array = moved(lab, rows, vectors, [layer], ends, form=form, **settings)[:, :, 0] @ [-0.5, 0.5]
    return found


def chance(
    lab: Experiment, value: str, rows: Sequence[Item], vector: SteeringVector, layer: int
) -> list[dict[str, Any]]:
    """`tidy` slopes of items by random vectors in the place of the vector, "random 0" ...: of each that is drawn, and of its opposite, which
    is as likely to be drawn and has the same slope with the other sign."""
    drawn = protocol.randoms(lab, [row["prompt"] for row in items(lab, value, "train")])
    drawn["count"] = (drawn["count"] + 1) // 2
    slopes = halves(lab, rows, {"vector": vector}, layer, randoms=drawn)
    both = np.concatenate([slopes, -slopes], 1)
    return tidy(rows, [f"random {i}" for i in range(both.shape[1])], both)


def tidy(rows: Sequence[Item], names: Sequence[str], slopes: Array, form: str = "plain") -> list[dict[str, Any]]:
    """A dict for each vector and item, of slopes (N, V): the item with "vector", "form", "slope" and the group it is resampled in."""
    items = [{**row, "group": f"{row['value']} {row['scenario']}"} for row in rows]
    return figures.tidy(slopes, "slope", item=items, of=[{"vector": name, "form": form} for name in names])


def claims_of(rows: Sequence[Row], seeds: Sequence[int], form: str) -> dict[str, Any]:
    """The evidence for the claims on values.

    rows: a dict for each item, vector and form: "value", "level", "scenario", "prompt", "form", "vector" ("own 0" by seed, "valence", and of
    plain items the name of another value, and "random 0" ... for one phrasing), its "slope", nats for a tenth of the stream's norm, and
    "group", what it is resampled in. Of "told", the value said in words, and of "loud 0" by seed, the vector at the dose that changes
    unrelated text as much, the slope is the whole shift. form: that in which the model is told, "chat" where it has a template; in it, and
    of "loud", one phrasing is enough.
    """
    table: dict[tuple[str, str], dict[tuple[str, str], Row]] = {}
    for row in rows:
        table.setdefault((row["form"], row["vector"]), {})[row["value"], row["prompt"]] = row

    def of(name: str, some: Sequence[tuple[str, str]], form: str = "plain") -> Array:
        return np.array([table[form, name][item]["slope"] for item in some])

    own = table["plain", "own 0"]
    level = {which: [item for item, row in own.items() if row["level"] == which] for which in LEVELS}

    def groups(some: Sequence[tuple[str, str]]) -> list[str]:
        return [own[item]["group"] for item in some]

    names = [name for form, name in table if name.startswith("random")]
    few = [item for item in level["plain"] if item in table["plain", names[0]]]
    random = np.array([of(name, few) for name in names])  # (random vectors, items)
    plain = level["plain"]
    others = np.array([
        np.mean([table["plain", v][value, prompt]["slope"] for v in VALUES if v != value]) for value, prompt in plain
    ])  # fmt: skip
    rival = max(others, of("valence", plain), key=np.mean)
    wrong = {which: {s: of(f"own {s}", some) < -ROUNDING for s in seeds} for which, some in level.items()}
    everything = [item for which in LEVELS for item in level[which]]
    once = [item for item in everything if item in table[form, "loud 0"]]
    mean = float(np.mean([of(f"own {s}", everything) for s in seeds]))
    still = None if mean >= MOVES else f"nothing to steer: the vectors move items by {mean:.2g} nats a tenth on average"
    found = {
        "values": evidence(
            {s: of(f"own {s}", few) - random.mean(0) for s in seeds}, groups(few),
            controls=(random.mean(1) - random.mean()).tolist(),
        ),
        "values_specific": evidence({s: of(f"own {s}", plain) - rival for s in seeds}, groups(plain)),
        "inconsistent": evidence(
            {s: np.concatenate([wrong[which][s] for which in LEVELS]) for s in seeds}, groups(everything), void=still),
        "inconsistent_complex": evidence(
            wrong["complex"], groups(level["complex"]), minus=wrong["plain"], minus_groups=groups(plain), void=still),
        "prompting": evidence({s: of(f"loud {s}", once, form) - of("told", once, form) for s in seeds}, groups(once)),
        "chat": evidence(
            {s: of(f"own {s}", once, form) - of(f"own {s}", once) / 2 for s in seeds}, groups(once),
            void=still if form == "chat" else "nothing to compare: the model has no chat template"),
    }  # fmt: skip
    return found


def _scaled(lab: Experiment, value: str, pairs: Sequence[tuple[str, str]], reading: str) -> SteeringVector:
    made = lab.vector(
        extract.contrastive, pairs=[list(pair) for pair in pairs], token=READINGS[reading], sites=sites(lab)
    )
    return tenth(lab, made, [row["prompt"] for row in items(lab, value, "train")])
