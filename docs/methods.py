"""Measures the methods of docs/methods.md on nano, and prints the tables that stand there.

    python docs/methods.py

Vectors: each is applied alike, by a fifth of the stream's norm at the last token, so that only the direction differs.
Interventions: one vector, each coefficient calibrated to the same divergence on the prompts it steers. Effects are means
over held-out items of honesty; side effects are on facts, which no vector is about.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch

from ministeer import Receipt, Steer, calibrate, extract, generate, interventions, load, metrics, prefill
from ministeer.activations import streams
from ministeer.interventions import Gate
from ministeer.lab import data

VALUE, SITE, SHARE, BUDGET = "honesty", ("pre", 5), 0.2, 0.05
SIGNS = ("positive", "negative")

model, tokenizer = load("nano")


def ids(texts: Sequence[str]) -> list[list[int]]:
    return [tokenizer.prompt(text) for text in texts]


train, items = (data.read("values.tsv", value=VALUE, split=split) for split in ("train", "heldout"))
prompts = ids([row["prompt"] for row in items])
answers = [[tokenizer.single(row[sign]) for row in items] for sign in SIGNS]
known = data.read("facts.tsv")[::4]
facts = ids([row["prompt"] for row in known])
right = torch.tensor([tokenizer.single(f" {row['right']}") for row in known])
context = data.context_pairs(VALUE)
answered = [[f"{row['prompt']}{row[sign]}" for sign in SIGNS] for row in train]
plain, plain_facts = prefill(model, prompts), prefill(model, facts)
read = extract.read(model, tokenizer, context, SITE, token="last")
mean = extract.mean_difference(read)


def last_mean(rows: Sequence[Sequence[int]], site: tuple[str, int]) -> torch.Tensor:
    """The mean stream at the last token, `(D,)`."""
    return streams(model, rows, [len(row) - 1 for row in rows], [site])[site].mean(0)


def shown(change: float, raised: float, kl: float, still_right: float) -> list[str]:
    """What `effect` returns, as the tables show it."""
    return [f"{change:+.2f}", f"{raised:.2f}", f"{kl:.3f}", f"{still_right:.2f}"]


def effect(steer: Steer, on_facts: Steer | None = None) -> list[float]:
    """Mean change of the logit difference, share of items it raises; KL on the facts, share of them still right."""
    steered = prefill(model, prompts, steer=steer)
    change = metrics.logit_difference(steered, *answers) - metrics.logit_difference(plain, *answers)
    after = prefill(model, facts, steer=on_facts or steer)
    means = [change, (change > 0).float(), metrics.kl(after, plain_facts), (after.argmax(-1) == right).float()]
    return [float(x.mean()) for x in means]


def vectors() -> list[list[str]]:
    """Ways to a direction for honesty, at one site."""
    private = {
        f"private_mean, epsilon {epsilon}": extract.private_mean(read, clip=12.0, epsilon=epsilon, delta=1e-5, seed=0)
        for epsilon in (0.9, 0.1)
    }
    made = {
        "contrastive, in the context": mean,
        "contrastive, in the answer": extract.contrastive(model, tokenizer, answered, SITE),
        "pca, in the context": extract.pca(read),
        "pca_centred, in the context": extract.pca_centred(read),
        "probe, in the context": extract.probe(read),
        **private,
    }
    rows = []
    for name, vector in made.items():
        cosine = torch.cosine_similarity(vector[SITE], mean[SITE], dim=0)
        steer = Steer(interventions.relative(vector[SITE]), SITE, SHARE, "last")
        rows.append([name, f"{cosine:+.2f}", str(vector.health.get(SITE, "none kept")), *shown(*effect(steer))])
    chance = []
    for seed in range(20):
        direction = extract.random_like(mean, seed=seed)[SITE]
        chance.append(effect(Steer(interventions.relative(direction), SITE, SHARE, "last")))
    for what, of in (("lowest", min), ("highest", max)):
        rows.append([f"20 random vectors, {what}", "", "", *shown(*map(of, zip(*chance, strict=True)))])
    return rows


def applications() -> list[list[str]]:
    """Ways to apply one vector; those whose divergence vanishes with the coefficient, at the same divergence."""
    v = mean[SITE]
    # the mean streams behind what an honest person did, and one who is not
    reached, other = (last_mean(ids([pair[side] for pair in context]), SITE) for side in (0, 1))
    ways = {
        "add": v,
        "relative": interventions.relative(v),
        "keep_norm": interventions.keep_norm(v),
        "rotate, from the dishonest mean to the honest": interventions.rotate(other, reached),
        "substitute, by the honest mean": interventions.substitute(reached),
    }
    steers = {}
    for name, way in ways.items():
        found = calibrate(model, prompts, Steer(way, SITE, where="last"), kl=BUDGET, start=0.01)
        steers[name] = Steer(way, SITE, found.coeff, "last")
    steers["clamp, to the honest mean"] = Steer(interventions.clamp(v), SITE, float(reached @ v / v.norm()), "last")
    steers["project_out"] = Steer(interventions.project_out(v), SITE, where="last")
    steers["reflect"] = Steer(interventions.reflect(v), SITE, where="last")
    rows = [[name, f"{steer.coeff:.3g}", *shown(*effect(steer))] for name, steer in steers.items()]

    add, gate = Steer(v, SITE, 1.0, "last"), scenario_gate()
    rows.append(["add", "1", *shown(*effect(add))])
    behind = [gate.over(model, some, add) for some in (prompts, facts)]
    rows.append(["add, behind a gate", "1", *shown(*effect(*behind))])
    return rows


def scenario_gate() -> Gate:
    """A gate that opens for scenarios, fitted on the training ones and on facts that are not measured on."""
    site = ("pre", 3)
    scenarios = ids([row["prompt"] for row in train])
    others = ids([row["prompt"] for row in data.read("facts.tsv")[1::4]])
    return Gate.fit(model, scenarios, others, last_mean(scenarios, site) - last_mean(others, site), site)


def receipts() -> list[list[str]]:
    """What a schedule adds while generating 12 tokens, as the receipt says it."""
    rows = []
    for name, schedule in {"constant": None, "decay(half_life=2)": interventions.decay(2)}.items():
        receipt = Receipt()
        steer = Steer(interventions.relative(mean[SITE]), SITE, SHARE, "last", schedule=schedule)
        generate(model, prompts, max_new_tokens=12, temperature=0, steer=steer, receipt=receipt)
        rows.append([name, str(receipt)])
    return rows


TABLES = {
    "vectors": (["vector", "cosine", "health", "change", "raised", "KL on facts", "facts right"], vectors),
    "applications": (["intervention", "coefficient", "change", "raised", "KL on facts", "facts right"], applications),
    "schedules": (["schedule", "receipt"], receipts),
}


def tables() -> dict[str, str]:
    """Each table in Markdown."""
    found = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "centred PCA")  # it is measured to be shown
        warnings.simplefilter("ignore", interventions.GateWarning)  # the held-out scenarios are all scenarios
        for name, (columns, rows) in TABLES.items():
            lines = [columns, ["---"] * len(columns), *rows()]
            found[name] = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return found


if __name__ == "__main__":
    print("\n\n".join(tables().values()))
