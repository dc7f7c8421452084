"""Pronouns: by how much the odds of he against she differ from one occupation to another, and two ways to make them more alike.

What is measured of an occupation is l = log p(he) - log p(she), the mean over templates. Over all occupations its mean is the model's
*offset*, the mean distance from that mean its *spread*, and its *slope* is that on the logit of the published share of men. A fair
model has no spread; an offset alone treats all occupations alike.

Letters: I items (subjects times templates), N subjects, V vectors, L layers, C doses, W answers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ministeer import extract
from ministeer.lab import data
from ministeer.lab.answers import answers, content, divergences, log_probabilities
from ministeer.lab.experiment import Experiment
from ministeer.lab.protocol import Item, beside, felt, randoms, receipt, sites, tenth
from ministeer.metrics import Array
from ministeer.receipt import Receipt
from ministeer.vectors import SteeringVector

BOUND = 0.5  # nats of KL on unrelated text that a way of steering may cost
MASS = 0.5  # share of p(he) + p(she) that it must leave
LEAST = 0.2  # logits of spread below which there is nothing to steer


class Way(NamedTuple):
    """A way to steer for fairness, and the doses to choose among."""

    name: str
    how: str  # as in `answers`
    doses: tuple[float, ...]
    make: Callable[[Experiment, int], SteeringVector]  # of a seed


class Chosen(NamedTuple):
    """A way of steering with its layer and dose, and what they were chosen by."""

    way: Way
    layer: int
    dose: float
    tried: list[dict[str, Any]]  # a row for each way, layer and dose

    def settings(self, vector: SteeringVector, doses: Sequence[float] | None = None) -> dict[str, Any]:
        """What `answers` and `divergences` are told of it: the chosen dose, or these."""
        coefficients = [self.dose] if doses is None else [*doses]
        return {
            "vectors": {"vector": vector},
            "layers": [self.layer],
            "coefficients": coefficients,
            "how": self.way.how,
        }

    def asked(
        self,
        lab: Experiment,
        items: Sequence[Item],
        doses: Sequence[float] | None = None,
        *,
        seed: int = 0,
        **settings: Any,
    ) -> Array:
        """Log-probabilities of the items' answers, (I, C, W), at the chosen dose or at these."""
        return asked(lab, items, **self.settings(self.way.make(lab, seed), doses), **settings)[:, 0, 0]

    def receipt(self, lab: Experiment, items: Sequence[Item]) -> Receipt:
        vector = content(self.way.make(lab, 0), ("pre", self.layer), self.way.how)
        return receipt(lab, items, vector, self.layer, self.dose)

    def __str__(self) -> str:
        unit = "tenths of the stream's norm" if self.way.how == "add" else "of the direction"
        return f"{self.way.name}, layer {self.layer}, {self.dose:g} {unit}"


# ---- what is asked
def prompts(
    nouns: Sequence[str], split: str, kinds: Sequence[str] = ("plain", "long"), each: int | None = None
) -> list[Item]:
    """Prompts of each noun in each template of a split, noun by noun, or in `each` of each kind: he or she comes next."""
    rows = []
    for kind in kinds:
        some = data.read("pronoun_templates.tsv", split=split, kind=kind)
        rows += some if each is None else random.Random(0).sample(some, each)
    return [
        {
            "prompt": row["template"].replace("{X}", noun).replace("{Y}", "visitor"),
            "words": [" he", " she"],
            "subject": noun,
        }
        for noun in nouns
        for row in rows
    ]


def occupations(lab: Experiment) -> dict[str, float]:
    """The published share of men in each occupation. Of a model without an open vocabulary, nano, only those whose pronouns are in its
    training text; a quick run has every fourth."""
    shares = data.occupations("train") | (data.occupations("heldout") if data.wide(lab.tokenizer) else {})
    return {occupation: 1 - shares[occupation] for occupation in lab.part(list(shares))}


def halves(lab: Experiment) -> tuple[dict[str, float], dict[str, float]]:
    """The occupations in two halves of like shares: every second in the order of their shares. What is chosen is chosen on the first."""
    ordered = sorted(occupations(lab).items(), key=lambda item: item[1])
    return dict(ordered[::2]), dict(ordered[1::2])


def nouns() -> tuple[dict[str, str], dict[str, str]]:
    """The nouns whose meaning fixes the pronoun, with their gender, in two halves: every second one. What is made of nouns, the direction
    of gender and a gate, is made of the first; what nouns pay is measured on the second."""
    gender_of = {row["noun"]: row["gender"] for row in data.read("definitional.tsv", strict="yes")}
    ordered = list(gender_of.items())
    return dict(ordered[::2]), dict(ordered[1::2])


def definitional(lab: Experiment, gender_of: Mapping[str, str], split: str, **settings: Any) -> list[Item]:
    """`prompts` of nouns whose meaning fixes the pronoun; the right one is the first of the words."""
    turn = {"male": 1, "female": -1}
    return [
        {**item, "words": item["words"][:: turn[gender_of[item["subject"]]]]}
        for item in prompts(lab.part(list(gender_of)), split, **settings)
    ]


# ---- the ways to steer
def equality(lab: Experiment, seed: int) -> SteeringVector:
    """The fairness vector: what a sentence about equality leaves at the end of a pronoun prompt, minus what one about inequality does;
    of 60 prompts of the first half's occupations, a tenth as long as the stream."""
    rng = random.Random(seed)
    lead = {
        p: [r["text"] for r in data.read("contexts.tsv", kind="equality", split="train", pole=p)]
        for p in ("positive", "negative")
    }
    drawn = rng.sample(prompts(list(halves(lab)[0]), "train"), 60)
    texts = [tuple(f"{rng.choice(lead[pole])} {item['prompt']}" for pole in ("positive", "negative")) for item in drawn]
    found = lab.vector(extract.contrastive, pairs=texts, token="last", sites=sites(lab))
    return tenth(lab, found, [item["prompt"] for item in searched(lab)])


def gender(lab: Experiment, seed: int) -> SteeringVector:
    """The direction of gender: prompts of nouns whose meaning says male, minus such that say female, 60 pairs in training templates, of
    the first half of `nouns`."""
    rng = random.Random(seed)
    known = {g: [noun for noun, gender in nouns()[0].items() if gender == g] for g in ("male", "female")}
    templates = [row["template"] for row in data.read("pronoun_templates.tsv", split="train", kind="plain")]
    texts = []
    for _ in range(60):
        template = rng.choice(templates)
        texts.append(tuple(template.replace("{X}", rng.choice(known[g])) for g in ("male", "female")))
    return lab.vector(extract.contrastive, pairs=texts, token="last", sites=sites(lab))


WAYS = (
    Way("fairness vector added", "add", (1.0, 2.0, 4.0, 8.0, 12.0), equality),
    Way("gender projected out", "project_out", (0.25, 0.5, 0.75, 1.0, 1.25, 1.5), gender),
)


# ---- what is measured
def asked(lab: Experiment, items: Sequence[Item], *, coefficients: Sequence[float] = (0.0,), **settings: Any) -> Array:
    """Log-probabilities of the items' answers, (I, V, L, C, W), whole; settings as in `answers`. A dose may stand there twice."""
    once = list(dict.fromkeys(coefficients))
    found = log_probabilities(lab.cell(answers, items=[*items], coefficients=once, **settings))
    return found[:, :, :, [once.index(c) for c in coefficients]]


def plainly(lab: Experiment, items: Sequence[Item], **settings: Any) -> Array:
    """Log-probabilities of the items' answers, (I, W), unsteered."""
    return asked(lab, items, **settings)[:, 0, 0, 0]


def by_subject(values: Array, items: Sequence[Item]) -> Array:
    """The mean over templates, (I, ...) -> (N, ...), in the order of the subjects."""
    subjects = dict.fromkeys(item["subject"] for item in items)
    means: Array = values.reshape(len(subjects), -1, *values.shape[1:]).mean(1)
    return means


def odds(logp: Array, items: Sequence[Item]) -> Array:
    """The log-odds of the first answer against the second, (I, ..., 2) -> (N, ...), in nats."""
    return by_subject(logp[..., 0] - logp[..., 1], items)


def mass(logp: Array) -> Array:
    """The probability of all answers together, (I, ..., W) -> (...), the mean over items."""
    found: Array = np.exp(logp).sum(-1).mean(0)
    return found


def distances(log_odds: Array) -> Array:
    """How far each subject lies from the mean of all, (N, ...), in logits; their mean is the spread."""
    found: Array = np.abs(log_odds - log_odds.mean(0))
    return found


def falls(before: Array, after: Array) -> Array:
    """By how much each subject comes nearer to the mean of all, (N, ...), as a share of the spread before: 1 is all of it."""
    start = distances(before)
    share: Array = (start - distances(after)) / start.mean(0)
    return share


def void(lab: Experiment) -> str | None:
    """Why nothing can be told of steering for fairness, of the half of the occupations that is measured; None where something can."""
    jobs = prompts(list(halves(lab)[1]), "heldout")
    spread = distances(odds(plainly(lab, jobs), jobs)).mean()
    told = f"the unsteered spread is {spread:.2f} logits, less than {LEAST:g}: there is nothing to steer"
    return told if spread < LEAST else None


def slope(log_odds: Array, shares: Mapping[str, float]) -> float:
    """Of log-odds (N,) on the logits of the published shares: 1 where the model says what the statistics say."""
    men = np.array([*shares.values()])
    return float(np.polyfit(np.log(men / (1 - men)), log_odds, 1)[0])


def summary(logp: Array, items: Sequence[Item], shares: Mapping[str, float]) -> dict[str, float]:
    """What there is to say of one model, steered or not, of logp (I, 2): slope, spread, offset and mass, apart."""
    log_odds = odds(logp, items)
    return {
        "slope": slope(log_odds, shares),
        "spread": float(distances(log_odds).mean()),
        "offset": float(log_odds.mean()),
        "mass": float(mass(logp)),
    }


# ---- what is chosen, on the first half of the occupations
def searched(lab: Experiment) -> list[Item]:
    """Where layers and doses are chosen: the first half of the occupations, each in a plain and a long training template."""
    return prompts(list(halves(lab)[0]), "train", each=1)


def unrelated(lab: Experiment) -> list[str]:
    """Beginnings of sentences about other things."""
    rows = [row["text"].split() for row in data.read("contexts.tsv", kind="distractor", split="train")]
    return [" ".join(words[: len(words) // 2 + 1]) for words in lab.part(rows)]


def search(lab: Experiment, **steered: Any) -> dict[str, Array]:
    """Of each vector, layer and dose "spread" and "mass" on the searched items, "kl" on unrelated text, each (V, L, C), and "score": the
    spread, where half of the mass is left and the bound is kept, else above all spreads. The lowest is to be chosen."""
    items = searched(lab)
    before = mass(asked(lab, items))[0, 0, 0]
    logp = asked(lab, items, **steered)
    kl = np.array([row["kl"] for row in lab.cell(divergences, texts=unrelated(lab), **steered)]).mean(0)
    found = {"spread": distances(odds(logp, items)).mean(0), "mass": mass(logp), "kl": kl}
    kept = (found["mass"] >= MASS * before) & (kl <= BOUND)
    return found | {"score": np.where(kept, found["spread"], 1e6 * (1 + kl))}


def missing(lab: Experiment, way: Way) -> str | None:
    """Why a way cannot be tried; None where it can."""
    found = any(bool(tensor.any()) for tensor in way.make(lab, 0).tensors.values())
    return None if found or way.how != "project_out" else "there is no direction to project out"


def choose(lab: Experiment, ways: Sequence[Way] = WAYS) -> Chosen:
    """The way, layer and dose with the lowest score: of each way every other layer is tried, then those beside the best. A way that is
    `missing` is left out; there must be another."""
    tried: list[dict[str, Any]] = []
    for way in ways:
        if missing(lab, way):
            continue
        vector = way.make(lab, 0)
        layers = felt(lab, vector)
        mine = _tried(lab, way, vector, layers[::2])
        tried += mine + _tried(lab, way, vector, beside(layers, min(mine, key=_score)["layer"]))
    first = min(tried, key=_score)
    return Chosen(first["way"], first["layer"], first["dose"], tried)


def _score(row: Mapping[str, Any]) -> float:
    return float(row["score"])


def _tried(lab: Experiment, way: Way, vector: SteeringVector, layers: Sequence[int]) -> list[dict[str, Any]]:
    """`search` at these layers, a row for each layer and dose."""
    if not layers:  # a model with one layer to choose among has none beside it
        return []
    found = search(lab, vectors={"vector": vector}, layers=[*layers], coefficients=[*way.doses], how=way.how)
    return [
        {"way": way, "layer": layer, "dose": dose, **{name: float(of[0, i, k]) for name, of in found.items()}}
        for i, layer in enumerate(layers)
        for k, dose in enumerate(way.doses)
    ]


def placebos(lab: Experiment) -> dict[str, Any]:
    """Random vectors as `answers` takes them, with the covariance of the streams at the end of all that is measured: occupations, facts,
    other things. Of occupations alone they would mostly differ in gender, and be the vector that they are to be compared with."""
    known = [row["prompt"] for row in data.facts(lab.tokenizer)]
    texts = [item["prompt"] for item in searched(lab)]
    return randoms(lab, [*texts, *known[:: max(1, len(known) // len(texts))], *unrelated(lab)])


def curve(chosen: Chosen, random: Mapping[str, Array]) -> list[dict[str, Any]]:
    """What the dose was chosen by, at the chosen layer, and what `controls` saw: {"dose", "spread", "by"}."""
    mine = [row for row in chosen.tried if (row["way"], row["layer"]) == (chosen.way, chosen.layer)]
    rows = [{"dose": row["dose"], "spread": row["spread"], "by": chosen.way.name} for row in mine]
    for i, spreads in enumerate(random["spread"][:, 0]):
        pairs = zip(chosen.way.doses, spreads, strict=True)
        rows += [{"dose": dose, "spread": float(spread), "by": f"random {i}"} for dose, spread in pairs]
    return rows


def controls(lab: Experiment, chosen: Chosen) -> tuple[dict[str, Any], Array, dict[str, Array]]:
    """Random vectors in the place of the chosen one: as `answers` takes them, the dose of each, chosen as the vector's own was, and what
    that choice saw, (V, 1, C)."""
    random = placebos(lab)
    found = search(lab, **chosen.settings(chosen.way.make(lab, 0), chosen.way.doses), randoms=random)
    return random, np.array(chosen.way.doses)[found["score"][:, 0].argmin(-1)], found


def at_their_doses(
    lab: Experiment, items: Sequence[Item], chosen: Chosen, random: Mapping[str, Any], doses: Array
) -> Array:
    """Log-probabilities (V, I, W) of the items' answers, each random vector at a dose of its own."""
    vector = chosen.way.make(lab, 0)
    found: dict[int, Array] = {}
    for dose in sorted(set(doses.tolist())):
        only = np.flatnonzero(doses == dose).tolist()
        logp = asked(lab, items, **chosen.settings(vector, [dose]), randoms={**random, "only": only})
        found |= dict(zip(only, logp[:, :, 0, 0].swapaxes(0, 1), strict=True))
    return np.array([found[i] for i in range(len(doses))])


class Outcome(NamedTuple):
    """What the best of a way of steering does to occupations, and random vectors in its place."""

    chosen: Chosen
    after: dict[int, Array]  # log-odds (N,) by draw of the vector's texts
    falls: dict[int, Array]  # (N,) by draw: how much nearer each occupation comes, as a share of the spread
    chance: Array  # the same under random vectors, (V, N), each at its own best dose
    search: dict[str, Array]  # what these doses were chosen by

    @property
    def by_vector(self) -> Array:
        """The share of the spread that each random vector removes, (V,)."""
        found: Array = self.chance.mean(1)
        return found

    def evidence(self, void: str | None) -> dict[str, Any]:
        """For `claims.evidence`: the falls less what random vectors do to the same occupation; and each random vector in the tested
        one's place."""
        values = {seed: of - self.chance.mean(0) for seed, of in self.falls.items()}
        return {"values": values, "controls": self.by_vector - self.by_vector.mean(), "void": void}


def outcome(lab: Experiment, way: Way, items: Sequence[Item], seeds: Sequence[int]) -> Outcome:
    """A way at the layer and dose that are best for it, on items of other occupations than those it is chosen on."""
    chosen, before = choose(lab, [way]), odds(plainly(lab, items), items)
    after = {seed: odds(chosen.asked(lab, items, seed=seed)[:, 0], items) for seed in seeds}
    recipe, doses, search = controls(lab, chosen)
    each = at_their_doses(lab, items, chosen, recipe, doses)
    chance = np.array([falls(before, odds(logp, items)) for logp in each])
    return Outcome(chosen, after, {seed: falls(before, l) for seed, l in after.items()}, chance, search)


def told(lab: Experiment, items: Sequence[Item], **settings: Any) -> list[Array]:
    """Log-probabilities (I, W) after each of three sentences about equality, said before the prompt or as the chat's system message."""
    rows = data.read("contexts.tsv", kind="equality", split="heldout", pole="positive")
    return [plainly(lab, items, system=row["text"], **settings) for row in rows]


def compared(
    lab: Experiment, ways: Sequence[Chosen], shares: Mapping[str, float], split: str = "heldout"
) -> list[dict[str, Any]]:
    """`summary` of the model as it is, steered in these ways, and told in the prompt (the mean over sentences): a row each, in plain
    text and, where the tokenizer has a template, in the chat form."""
    items, rows = prompts(list(shares), split), []
    for form in ["plain", *(["chat"] if lab.tokenizer.chat_template else [])]:
        found = {"unsteered": [plainly(lab, items, form=form)], "told in the prompt": told(lab, items, form=form)}
        found |= {str(way): [way.asked(lab, items, form=form)[:, 0]] for way in ways}
        for name, some in found.items():
            each = [summary(logp, items, shares) for logp in some]
            rows.append({"form": form, "steered": name, **{k: float(np.mean([e[k] for e in each])) for k in each[0]}})
    return rows


def other_groups(lab: Experiment, way: Chosen) -> list[dict[str, Any]]:
    """Spread, offset and mass along the other axes of `groups.tsv`, unsteered and steered: a row each. None without an open vocabulary."""
    rows = []
    for axis in sorted({row["axis"] for row in data.read("groups.tsv")} if data.wide(lab.tokenizer) else []):
        items = data.group_prompts(axis, "heldout")
        for name, logp in (("unsteered", plainly(lab, items)), (str(way), way.asked(lab, items)[:, 0])):
            l = odds(logp, items)
            spread, offset = float(distances(l).mean()), float(l.mean())
            rows.append({"axis": axis, "steered": name, "spread": spread, "offset": offset, "mass": float(mass(logp))})
    return rows


def total_effect(lab: Experiment, nouns: Sequence[str], way: Chosen | None = None) -> Array:
    """Vig et al. 2020, section 4, their professions, as a logarithm, (I,): by how much the odds of the pronoun that the model finds less
    likely after an occupation grow where "woman", or "man", stands in its place. Their effect is mean(exp) - 1.

    Theirs are 17 templates, and nouns rated less than .75 definitional; here the held-out plain templates, and the occupations of the
    other measures.
    """

    def he(words: Sequence[str]) -> Array:
        items = prompts(words, "heldout", ["plain"])
        logp = plainly(lab, items) if way is None else way.asked(lab, items)[:, 0]
        found: Array = logp[:, 0] - logp[:, 1]
        return found

    base, woman, man = he(nouns), np.tile(he(["woman"]), len(nouns)), np.tile(he(["man"]), len(nouns))
    found: Array = np.where(base > 0, base - woman, man - base)
    return found
