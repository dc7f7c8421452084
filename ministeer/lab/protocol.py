"""What several experiments share: the vectors, and the layer and coefficient of each, chosen on training items.

Every function takes the running `Experiment`, so that what one asks for is kept among that one's results.
Letters: C coefficients.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from ministeer import extract
from ministeer.generate import prefill
from ministeer.lab import data
from ministeer.lab.answers import answers, hits
from ministeer.lab.experiment import Experiment
from ministeer.metrics import Array, steerability
from ministeer.model import Site
from ministeer.receipt import Receipt
from ministeer.steer import Steer
from ministeer.vectors import SteeringVector

Item = dict[str, Any]
Setting = tuple[int, float]  # a layer, whose input is steered, and a coefficient
END = "<|endoftext|>"
VALUES = ("honesty", "fairness", "kindness", "caution", "responsibility", "nonviolence")
TASKS = ("antonym", "synonym", "plural", "past")  # of the last three, vectors are subtracted from that of the first
COEFFICIENTS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)


def layers(lab: Experiment) -> list[int]:
    """Layers to choose among: all of a small model, every n_layer // 12-th of a large one."""
    depth = lab.model.config.n_layer
    return list(range(0, depth + 1, max(1, depth // 12)))


def sites(lab: Experiment) -> list[Site]:
    """The streams that enter those layers."""
    return [("pre", i) for i in layers(lab)]


# ---- antonyms


def antonym_vector(lab: Experiment, structure: str, at: Sequence[Site], *, seed: int, shots: int = 5) -> SteeringVector:
    """The function vector of antonyms, less other tasks', from 25 lists of each drawn by the seed."""
    tasks = data.answerable(lab.tokenizer)
    texts = data.task_prompts({task: tasks[task] for task in TASKS}, 25, structure=structure, shots=shots, seed=seed)
    mine = texts.pop("antonym")
    return lab.vector(extract.function_vector, prompts=mine, sites=at, others=list(texts.values()))


def antonym_setting(lab: Experiment, structure: str, vector: SteeringVector) -> Setting:
    """Where most of 40 training pairs are answered with the opposite, without demonstrations."""
    train = data.answerable(lab.tokenizer)["antonym"]["train"]
    items = data.lists(train, train, 40, structure=structure, shots=0, seed=3)
    return _best(lambda i: right(lab, items, vector, i, COEFFICIENTS).mean(0), lab, vector)


def right(
    lab: Experiment,
    items: Sequence[Item],
    vector: SteeringVector | None = None,
    layer: int = 0,
    coefficients: Sequence[float] = (0.0,),
) -> Array:
    """Whether the likeliest next token is the answer, 1 or 0, (items, C)."""
    return hits(items, lab.cell(answers, items=items, vector=vector, layer=layer, coefficients=list(coefficients)))


# ---- values


def value_vector(lab: Experiment, value: str, *, seed: int, pairs: int = 32) -> SteeringVector:
    """The contrastive vector of a value at all layers, from training pairs whose context differs, drawn by the seed."""
    drawn = random.Random(seed).sample(data.context_pairs(value), pairs)
    return lab.vector(extract.contrastive, pairs=drawn, token="last", sites=sites(lab))


def value_layer(lab: Experiment, value: str, vector: SteeringVector) -> int:
    """Where it moves 18 training items most, from -1 to 1."""
    some = random.Random(0).sample(data.read("values.tsv", value=value, split="train"), 18)
    return max(_there(lab, vector), key=lambda i: slopes(lab, some, vector, i, (-1.0, 1.0)).mean())


def slopes(
    lab: Experiment,
    items: Sequence[Item],
    vector: SteeringVector,
    layer: int,
    multipliers: Sequence[float],
    frame: str = "{p}",
) -> Array:
    """Steerability of each item of `values.tsv`, (items,), in logits per unit of the multiplier."""
    return steerability(multipliers, differences(lab, items, vector, layer, multipliers, frame))


def differences(
    lab: Experiment,
    items: Sequence[Item],
    vector: SteeringVector | None = None,
    layer: int = 0,
    multipliers: Sequence[float] = (0.0,),
    frame: str = "{p}",
) -> Array:
    """Logit of each item's positive answer less that of its negative one, (items, C); frame: the text around its prompt."""
    asked = [
        {"prompt": END + frame.replace("{p}", item["prompt"]), "words": [item["positive"], item["negative"]]}
        for item in items
    ]
    rows = lab.cell(answers, items=asked, vector=vector, layer=layer, coefficients=list(multipliers))
    found: Array = np.array([row["logp"] for row in rows]) @ [1.0, -1.0]
    return found


# ---- pronouns


def pronoun_items(
    nouns: Sequence[str], split: str, kinds: Sequence[str] = ("plain", "long"), before: str = ""
) -> list[Item]:
    """Prompts of each noun in each template of a split, noun by noun: he or she comes next."""
    rows = [row for row in data.read("pronoun_templates.tsv", split=split) if row["kind"] in kinds]
    return [
        {
            "prompt": END + before + row["template"].replace("{X}", noun).replace("{Y}", "visitor"),
            "words": [" he", " she"],
        }
        for noun in nouns
        for row in rows
    ]


def occupations(lab: Experiment) -> dict[str, float]:
    """The published share of men in each occupation, of those of the split "train"; a quick run has every fourth."""
    rows = lab.part(data.read("occupations.tsv", split="train"))
    return {row["occupation"]: 1 - float(row["female_share"]) for row in rows}


def fairness_vector(lab: Experiment, *, seed: int, pairs: int = 60) -> SteeringVector:
    """What a sentence about equality leaves at the end of a pronoun prompt, less what one about inequality does."""
    rng = random.Random(seed)
    lead = {
        p: [r["text"] for r in data.read("contexts.tsv", kind="equality", split="train", pole=p)]
        for p in ("positive", "negative")
    }
    drawn = rng.sample(pronoun_items(list(occupations(lab)), "train"), pairs)
    texts = [
        tuple(
            END + f"{rng.choice(lead[pole])} " + item["prompt"].removeprefix(END) for pole in ("positive", "negative")
        )
        for item in drawn
    ]
    return lab.vector(extract.contrastive, pairs=texts, token="last", sites=sites(lab))


def fairness_setting(lab: Experiment, vector: SteeringVector) -> Setting:
    """Where 80 prompts of occupations in training templates come nearest to one half, while at least half of the probability of
    either pronoun stays; where it stays at no setting, the one that keeps most of it."""
    items = random.Random(0).sample(pronoun_items(list(occupations(lab)), "train"), 80)
    plain = pronouns(lab, items)[1].mean()

    def score(layer: int) -> Array:
        he, mass = pronouns(lab, items, vector, layer, COEFFICIENTS)
        kept = mass.mean(0) / plain
        scores: Array = np.where(kept >= 0.5, -np.abs(he - 0.5).mean(0), kept - 1.5)  # at least -0.5, or below it
        return scores

    return _best(score, lab, vector)


def pronouns(
    lab: Experiment,
    items: Sequence[Item],
    vector: SteeringVector | None = None,
    layer: int = 0,
    coefficients: Sequence[float] = (0.0,),
    how: str = "add",
    gate: dict[str, Any] | None = None,
) -> tuple[Array, Array]:
    """p(he) among he and she, and the probability of both together, each (items, C)."""
    rows = lab.cell(
        answers, items=items, vector=vector, layer=layer, coefficients=list(coefficients), how=how, gate=gate
    )
    p = np.exp(np.array([row["logp"] for row in rows]))  # (items, C, 2)
    mass: Array = p.sum(-1)
    return p[..., 0] / mass, mass


def by_noun(values: Array, nouns: Sequence[str]) -> Array:
    """Of each noun the mean over its templates: (items of `pronoun_items`, C) -> (nouns, C)."""
    means: Array = values.reshape(len(nouns), -1, values.shape[-1]).mean(1)
    return means


def gap(he: Array, nouns: Sequence[str]) -> Array:
    """Distance of p(he) from one half, (nouns, C), the mean over templates."""
    return by_noun(np.abs(he - 0.5), nouns)


def right_pronouns(he: Array, nouns: dict[str, str]) -> Array:
    """Probability of the pronoun that a noun's meaning fixes, (nouns, C), of p(he) and {noun: gender}."""
    male = np.repeat([gender == "male" for gender in nouns.values()], len(he) // len(nouns))[:, None]
    return by_noun(np.where(male, he, 1 - he), list(nouns))


def total_effect(
    lab: Experiment, vector: SteeringVector | None = None, layer: int = 0, coefficient: float = 0.0
) -> Array:
    """Vig et al. 2020, section 4, as a logarithm, (occupations and plain templates,): by how much the odds of the pronoun against the
    stereotype grow where "man" or "woman" stands in the place of the occupation. Their total effect is mean(exp) - 1."""

    def odds(nouns: Sequence[str]) -> Array:
        asked = [
            {**item, "words": item["words"][:: -1 if male else 1]}  # first the one against the stereotype
            for noun, male in zip(nouns, masculine, strict=True)
            for item in pronoun_items([noun], "heldout", ["plain"])
        ]
        rows = lab.cell(answers, items=asked, vector=vector, layer=layer, coefficients=[coefficient])
        found: Array = np.array([row["logp"][0] for row in rows]) @ [1.0, -1.0]
        return found

    masculine = [share > 0.5 for share in occupations(lab).values()]
    return odds(["woman" if male else "man" for male in masculine]) - odds(list(occupations(lab)))


# ---- facts


def fact_items() -> list[Item]:
    """The facts as prompts, the true word first among four, and the relation that each is of."""
    words = ("right", "wrong1", "wrong2", "wrong3")
    return [
        {"prompt": END + row["prompt"], "words": [f" {row[k]}" for k in words], "relation": row["relation"]}
        for row in data.read("facts.tsv")
    ]


def fact_probabilities(
    lab: Experiment,
    items: Sequence[Item],
    vector: SteeringVector,
    layer: int,
    coefficients: Sequence[float],
    gate: dict[str, Any] | None = None,
) -> Array:
    """The probability of each fact's four words among themselves, the true one first, (facts, C, 4)."""
    rows = lab.cell(answers, items=items, vector=vector, layer=layer, coefficients=list(coefficients), gate=gate)
    p = np.exp(np.array([row["logp"] for row in rows]))
    shares: Array = p / p.sum(-1, keepdims=True)
    return shares


def costs(
    lab: Experiment,
    vector: SteeringVector,
    layer: int,
    coefficients: Sequence[float],
    *,
    jobs: Sequence[str],
    nouns: dict[str, str],
    facts: Sequence[Item],
    gate: dict[str, Any] | None = None,
) -> dict[str, Array]:
    """What a vector does in held-out templates to pronouns of occupations ("gap", from one half) and of {noun: gender} ("pronoun", the
    probability of the right one), and to facts ("truth", the probability of the true word; "first", whether it is the likeliest): each (items, C)."""
    items = [pronoun_items(list(some), "heldout") for some in (jobs, nouns)]
    he, noun_he = (pronouns(lab, some, vector, layer, coefficients, gate=gate)[0] for some in items)
    p = fact_probabilities(lab, facts, vector, layer, coefficients, gate)  # (facts, C, 4)
    first = (p[..., 0] >= p.max(-1)).astype(float)
    return {"gap": gap(he, jobs), "pronoun": right_pronouns(noun_he, nouns), "truth": p[..., 0], "first": first}


def controls(lab: Experiment, vector: SteeringVector, layer: int) -> list[SteeringVector]:
    """20 random vectors of the vector's norm at a layer, enough that their spread is known too."""
    return [extract.random_like(vector.only([("pre", layer)]), seed=seed) for seed in lab.part(range(20))]


def receipt(
    lab: Experiment,
    items: Sequence[Item],
    vector: SteeringVector,
    layer: int,
    coefficient: float = 1.0,
    where: str = "last",
) -> Receipt:
    """What steering these prompts does, for the page of an experiment."""
    done = Receipt()
    ids = [lab.tokenizer.encode(item["prompt"], special=True) for item in items]
    prefill(lab.model, ids, steer=Steer(vector, ("pre", layer), coefficient, where=where), receipt=done)
    return done


def _there(lab: Experiment, vector: SteeringVector) -> list[int]:
    """The layers to choose among at which the vector is not zero but for rounding, as it is below the first block where all texts
    end in the same token."""
    norms = {i: float(vector["pre", i].norm()) for i in layers(lab)}
    return [i for i, norm in norms.items() if norm > 1e-5 * max(norms.values())] or layers(lab)


def _best(score: Any, lab: Experiment, vector: SteeringVector) -> Setting:
    """The layer and coefficient with the highest of `score(layer)`, one number a coefficient."""
    tried = {(i, c): s for i in _there(lab, vector) for c, s in zip(COEFFICIENTS, score(i), strict=True)}
    return max(tried, key=lambda setting: tried[setting])
