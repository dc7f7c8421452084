"""Facts and overcorrection: what does a vector cost that brings pronouns nearer to one half?

    python examples/08_facts_and_overcorrection.py --model nano     (`make reproduce` runs it; a minute on nano)

The fairness vector of experiment 7 and the value vectors of experiment 6, at the same sites and coefficients, on what should stay as it is: facts,
the pronouns of nouns whose meaning fixes them (queen, father), and unrelated text. Then the trade-off, bias removed against truth kept.
"""

# %% What should stay: facts and definitional pronouns, and the vectors
from functools import partial

import numpy as np

from ministeer import metrics
from ministeer.lab import claims, data, facts, figures, pronouns, protocol, values
from ministeer.lab.answers import disturbance
from ministeer.lab.experiment import Experiment

COEFFICIENTS = [0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0]  # in units of the chosen coefficient

lab = Experiment.from_command_line("08_facts_and_overcorrection")
SEEDS, published = lab.part(range(3)), list(pronouns.occupations(lab))
known = lab.part(facts.prompts())
nouns = {row["noun"]: row["gender"] for row in lab.part(data.read("definitional.tsv", strict="yes"))}
sentences = [row["text"] for row in data.read("contexts.tsv", kind="distractor", split="heldout")]
texts = lab.part([" ".join(sentences[i : i + 3]) for i in range(0, len(sentences), 3)])


def measured(vector, layer, coefficients):
    """Of one vector at each coefficient what it costs, and unrelated text's KL and perplexity (texts, C)."""
    found = facts.costs(lab, vector, layer, coefficients, jobs=published, nouns=nouns, facts=known)
    text = lab.cell(disturbance, texts=texts, vectors={"vector": vector}, layer=layer, coefficients=coefficients)
    return found | {name: np.array([row[name][0] for row in text]) for name in ("kl", "perplexity")}


# %% The fairness vector and random ones along a range of coefficients; the value vectors at +1 and -1
fairness = {seed: pronouns.vector(lab, seed=seed) for seed in SEEDS}
layer, c = pronouns.setting(lab, fairness[0])
scale = [c * x for x in COEFFICIENTS]
zero, one = COEFFICIENTS.index(0.0), COEFFICIENTS.index(1.0)
by_seed = {seed: measured(fairness[seed], layer, scale) for seed in SEEDS}
noise = [measured(v, layer, scale) for v in lab.progress(protocol.controls(lab, fairness[0], layer), "random")]
random = {what: np.mean([found[what] for found in noise], 0) for what in noise[0]}  # the mean of all
by_value = {}
for value in lab.progress(values.VALUES, "values"):
    vector = values.vector(lab, value, seed=0)
    at = values.layer(lab, value, vector)
    by_value[value] = at, measured(vector, at, [0.0, 1.0, -1.0])


# %% Show it
def lost(found, what, k):
    """How much of something each item loses at the k-th coefficient."""
    return found[what][:, zero] - found[what][:, k]


fair = by_seed[0]
relations = [fact["relation"] for fact in known]
groups = {"truth": relations, "pronoun": list(nouns)}
cost = {  # what each random vector loses: as in the intervals, the mean over groups
    what: [metrics.group_means(lost(found, what, one), of).mean() for found in noise] for what, of in groups.items()
}
kept = {"facts": "truth", "definitional pronouns": "pronoun"}
curve = figures.dots(
    lab.folder / "08_trade_off",
    {f"{name}, {which}": ([lost(found, "gap", k).mean() for k in range(len(scale))], found[what].mean(0))
     for which, found in (("fairness vector", fair), ("random", random)) for name, what in kept.items()},
    xlabel="bias removed (fall of the distance from one half)", ylabel="probability of what is true", joined=True,
    caption=f"Coefficients {', '.join(f'{x:g}' for x in scale)} at layer {layer}, from the left; the mean over {len(published)} occupations, {len(known)} facts and {len(nouns)} nouns, and over {len(noise)} random vectors of equal norm.",
)  # fmt: skip
interval = partial(metrics.interval, digits=3)


def spread(values):
    return "{} random ones {:.3f}, from {:.3f} to {:.3f}".format(len(values), *figures.spread(values))


def line(name, at, found, k):
    """A row of the table: what a vector does at its k-th coefficient."""
    flipped = np.mean(found["first"][:, 0] > found["first"][:, k])
    return [name, at, f"{lost(found, 'gap', k).mean():+.3f}", f"{flipped:.1%}", f"{lost(found, 'truth', k).mean():+.3f}",
            f"{np.mean((found['pronoun'][:, 0] > 0.5) & (found['pronoun'][:, k] <= 0.5)):.1%}", f"{lost(found, 'pronoun', k).mean():+.3f}",
            f"{found['kl'][:, k].mean():.3f}", f"{np.exp(np.mean(np.log(found['perplexity'][:, k] / found['perplexity'][:, 0]))):.2f}"]  # fmt: skip


lab.save(
    title="8. Facts and overcorrection",
    question="What does a vector cost that brings pronouns nearer to one half?",
    protocol=f"The fairness vector at layer {layer}, x {c:g} (as in 7), {len(SEEDS)} draws, and the six value vectors at +1 and -1 (as in 6), added at the last token of {len(known)} facts "
    f"and of {len(nouns)} definitional nouns in held-out templates; on {len(texts)} unrelated texts at every token. Truth: the probability of the true word among "
    "it and three false ones. Intervals over relations of facts, nouns, occupations.",
    finding=f"At the coefficient that removes {interval(lost(fair, 'gap', one))} of the distance from one half, the fairness vector loses {interval(lost(fair, 'truth', one), groups=relations)} of the probability of facts "
    f"({spread(cost['truth'])}) and {interval(lost(fair, 'pronoun', one))} of that of the right pronoun of definitional nouns "
    f"({spread(cost['pronoun'])}); KL on unrelated text {fair['kl'][:, one].mean():.2f} nats.",
    receipt=protocol.receipt(lab, known, fairness[0], layer, c),
    figures=[curve],
    tables=[{
        "caption": "Costs by vector. Bias removed: fall of the distance of p(he) from one half. Facts flipped: a false word becomes the likeliest of four. "
        f"Perplexity: by what factor that of the unrelated texts changes; without a vector it is {np.exp(np.log(fair['perplexity'][:, zero]).mean()):.0f}.",
        "columns": ["vector", "layer and coefficient", "bias removed", "facts flipped", "truth lost", "pronouns broken", "right pronoun lost", "KL (nats)", "perplexity"],
        "rows": [line("pronoun fairness (7)", f"{layer}, x {x:g}", fair, k) for k, x in enumerate(scale) if k != zero]
        + [line(f"random, mean of {len(noise)}", f"{layer}, x {c:g}", random, one)]
        + [line(f"value: {v}", f"{at}, x {x:+g}", found, k) for v, (at, found) in by_value.items() for k, x in ((1, 1), (2, -1))],
    }],
    evidence={
        claim: claims.evidence(
            {s: lost(by_seed[s], what, one) - lost(random, what, one) for s in SEEDS}, groups[what],
            dict.fromkeys(SEEDS, cost[what] - np.mean(cost[what])))
        for claim, what in (("truth", "truth"), ("overcorrection", "pronoun"))
    },
)  # fmt: skip
