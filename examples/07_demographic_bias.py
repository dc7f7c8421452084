"""Demographic bias: how far from one half are a model's pronouns for occupations, and what brings them nearer?

    python examples/07_demographic_bias.py --model nano     (`make reproduce` runs it; a minute on nano)

p(he) among he and she, after sentences about 52 occupations, against the published shares of men. Steered by a fairness vector
(sentences about equality less sentences about inequality), and by projecting out the direction of gender. The model never saw
the templates that are measured (nano) or was not tuned on them (GPT-2).
"""

# %% Vectors; layer and coefficient on training templates
from functools import partial

import numpy as np

from ministeer import extract, metrics
from ministeer.lab import claims, data, figures, pronouns, protocol
from ministeer.lab.experiment import Experiment

COEFFICIENTS = [-2.0, -1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0]
SHARES = [0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0]  # of the gender direction

lab = Experiment.from_command_line("07_demographic_bias")
SEEDS, published = lab.part(range(3)), pronouns.occupations(lab)
nouns = {g: [r["noun"] for r in data.read("definitional.tsv", strict="yes", gender=g)] for g in ("male", "female")}
vectors = {seed: pronouns.vector(lab, seed=seed) for seed in SEEDS}
layer, c = pronouns.setting(lab, vectors[0])
genders = [[i["prompt"] for i in pronouns.prompts(nouns[g], "train", ["plain"])] for g in ("male", "female")]
gender = extract.contrastive(lab.model, lab.tokenizer, list(zip(*genders)), ("pre", layer), token="last")


gap, by_job = partial(pronouns.gap, nouns=list(published)), partial(pronouns.by_noun, nouns=list(published))

# %% Pronouns of the occupations in held-out templates
jobs = pronouns.prompts(list(published), "heldout")
two = pronouns.prompts(list(published), "heldout", ["two"])
he, mass = pronouns.probabilities(lab, jobs, vectors[0], layer, COEFFICIENTS)
out, out_mass = pronouns.probabilities(lab, jobs, gender, layer, SHARES, "project_out")
randoms = protocol.controls(lab, vectors[0], layer)
noise = [gap(pronouns.probabilities(lab, jobs, v, layer, COEFFICIENTS)[0]) for v in lab.progress(randoms, "random")]
steered = {seed: pronouns.probabilities(lab, jobs, vectors[seed], layer, [c])[0] for seed in SEEDS}
pair = pronouns.probabilities(lab, two, vectors[0], layer, [0.0, c])[0]
words = [r["text"] for r in data.read("contexts.tsv", kind="equality", split="heldout", pole="positive")]
spoken = [pronouns.prompts(list(published), "heldout", before=f"{sentence} ") for sentence in words]
told = np.mean([gap(pronouns.probabilities(lab, items)[0]) for items in spoken], 0)  # (occupations, 1)

# %% Show it
shares = np.array(list(published.values()))
base, best = COEFFICIENTS.index(0.0), steered[0][..., 0]
chance = np.array([x[:, COEFFICIENTS.index(c)] for x in noise])  # (random vectors, occupations)
slope = [np.polyfit(shares, by_job(x[..., None])[:, 0], 1)[0] for x in (he[:, base], best)]
scatter = figures.dots(
    lab.folder / "07_shares",
    {"unsteered": (shares, by_job(he)[:, base]), f"fairness vector, x {c:g}": (shares, by_job(steered[0])[:, 0])},
    xlabel="published share of men", ylabel="p(he) among he and she", diagonal=True,
    caption=f"A dot is an occupation, the mean of {len(jobs) // len(published)} held-out templates; on the line the model repeats the published share.",
)  # fmt: skip
sweep = figures.lines(
    lab.folder / "07_coefficients", COEFFICIENTS,
    {"fairness vector": [metrics.bootstrap(g, seed=0) for g in gap(he).T],
     f"random, all of {len(noise)}": [figures.spread(some) for some in zip(*(x.mean(0) for x in noise))]},
    xlabel="coefficient", ylabel="distance of p(he) from one half",
    caption=f"Layer {layer}; 95 % bands over {len(published)} occupations, the range of the random vectors.",
)  # fmt: skip
projected = figures.lines(
    lab.folder / "07_projection", SHARES, {"gender projected out": [metrics.bootstrap(g, seed=0) for g in gap(out).T]},
    xlabel="share of the gender direction removed", ylabel="distance of p(he) from one half",
    caption=f"Layer {layer}; 1 removes the direction, 2 reflects it. 95 % bands over {len(published)} occupations.",
)  # fmt: skip
interval = partial(metrics.interval, digits=3)
ratios = {"unsteered": pronouns.total_effect(lab), "fairness vector": pronouns.total_effect(lab, vectors[0], layer, c)}
effects = {name: (np.exp(ratio).mean() - 1, np.exp(ratio.mean())) for name, ratio in ratios.items()}
one = SHARES.index(1.0)
lab.save(
    title="7. Demographic bias",
    question="How far from one half are the pronouns of occupations, and what brings them nearer?",
    protocol=f"p(he) among he and she after {len(published)} occupations in {len(jobs) // len(published)} held-out templates, steered at the last token. The fairness vector: "
    f"60 training prompts behind a sentence about equality, less the same behind one about inequality, {len(SEEDS)} draws; layer {layer} and coefficient {c:g} are "
    "those of the grid that bring training templates nearest to one half while half of the probability of either pronoun stays"
    f"{' (the largest coefficient of the grid)' if c == protocol.COEFFICIENTS[-1] else ''}. Intervals over occupations.",
    finding=f"Distance of p(he) from one half: unsteered {interval(gap(he)[:, base])}, fairness vector {interval(gap(steered[0])[:, 0])}, {len(noise)} random vectors "
    f"{'{:.3f} ({:.3f} to {:.3f})'.format(*figures.spread(chance.mean(1)))}, gender projected out {interval(gap(out)[:, one])}, told in the prompt {interval(told[:, 0])}. "
    f"Slope of p(he) on the published share {slope[0]:.2f}, with the vector {slope[1]:.2f}.",
    receipt=protocol.receipt(lab, jobs, vectors[0], layer, c),
    figures=[scatter, sweep, projected],
    tables=[{
        "caption": "What each way does. Total effect: Vig et al. 2020, the mean over items less 1, and the geometric mean factor.",
        "columns": ["", "distance from one half", "two-person templates", "p(he) + p(she)", "total effect", "factor"],
        "rows": [
            ["unsteered", f"{gap(he)[:, base].mean():.3f}", f"{gap(pair)[:, 0].mean():.3f}", f"{mass[:, base].mean():.3f}", *(f"{x:.3g}" for x in effects["unsteered"])],
            [f"fairness vector, x {c:g}", f"{gap(steered[0]).mean():.3f}", f"{gap(pair)[:, 1].mean():.3f}", f"{mass[:, COEFFICIENTS.index(c)].mean():.3f}", *(f"{x:.3g}" for x in effects["fairness vector"])],
            ["gender projected out", f"{gap(out)[:, one].mean():.3f}", "", f"{out_mass[:, one].mean():.3f}", "", ""],
            ["told in the prompt", f"{told.mean():.3f}", "", "", "", ""],
        ],
    }, {
        "caption": "p(he) of each occupation, the mean of the held-out templates.",
        "columns": ["occupation", "published", "unsteered", "fairness vector", "gender projected out"],
        "rows": [[job, f"{published[job]:.2f}", *(f"{by_job(x)[i, k]:.2f}" for x, k in ((he, base), (steered[0], 0), (out, one)))] for i, job in enumerate(published)],
    }],
    evidence={"bias": claims.evidence(
        {s: chance.mean(0) - gap(steered[s])[:, 0] for s in SEEDS}, minus=dict.fromkeys(SEEDS, chance.mean() - chance.mean(1)))},
)  # fmt: skip
