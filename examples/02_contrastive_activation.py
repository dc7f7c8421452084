"""Contrastive activation addition for one value: does a direction for honesty reach scenarios it was not taken from?

    python examples/02_contrastive_activation.py --model nano     (`make reproduce` runs it; a minute on nano)

The vector is a mean difference over pairs of texts, read in two ways: at the answer in which they differ (CAA as published), and at the last token
of a prompt whose context differs, where the answer is still to come. A third is a control: the answers alone, without any scenario, since training
and held-out scenarios share answer words. Expected on nano: in the upper half of the layers the contrast in the context moves every item; the one
in the answer, read one token later than it is added, moves a sixth as much; the answers alone and random vectors do nothing of the kind.
"""

# %% Vectors, in three readings and at random
from dataclasses import replace

import numpy as np
import torch

from ministeer import extract, metrics
from ministeer.lab import data, figures, protocol
from ministeer.lab.answers import answers, log_probabilities
from ministeer.lab.experiment import Experiment

VALUE, CONTEXT, SIGNS = "honesty", "contrast in the context", ("positive", "negative")
MULTIPLIERS = [-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5]  # Tan et al. 2024

lab = Experiment.from_command_line("02_contrastive_activation")
layers, sites = protocol.layers(lab), protocol.sites(lab)
train, held_out = (data.read("values.tsv", value=VALUE, split=split) for split in ("train", "heldout"))
tried, held_out, seeds = map(lab.part, (train, held_out, range(5)))
pairs = {
    CONTEXT: data.context_pairs(VALUE),
    "contrast in the answer": [[r["prompt"] + r[sign] for sign in SIGNS] for r in train],
    "answers alone": [[r[sign] for sign in SIGNS] for r in train],
}
readings = {}
for name, some in pairs.items():
    token = "last" if name == CONTEXT else "answer"
    readings[name] = lab.vector(extract.contrastive, pairs=some, token=token, sites=sites)
longest = {site: max((v[site] for v in readings.values()), key=torch.norm) for site in sites}
like = replace(readings[CONTEXT], tensors=longest)
vectors = readings | {f"random {seed}": extract.random_like(like, seed=seed) for seed in seeds}


# %% The difference of the two answers' log-probabilities, and its slope against the multiplier, of each item
def differences(items, vectors, label):
    """(layers, items, vectors, multipliers), in nats."""
    asked = [item | {"words": [item[sign] for sign in SIGNS]} for item in items]
    settings = {"items": asked, "vectors": vectors, "coefficients": MULTIPLIERS}
    cells = [lab.cell(answers, layers=[i], **settings) for i in lab.progress(layers, label)]
    return np.stack([log_probabilities(rows)[:, :, 0] @ [1.0, -1.0] for rows in cells])


trained = metrics.steerability(MULTIPLIERS, differences(tried, readings, "training items"))  # (layers, items, readings)
chosen = trained.mean(1).argmax(0)  # held-out ones stay unseen
best = {name: layers[i] for name, i in zip(readings, chosen, strict=True)}
found, layer = differences(held_out, vectors, "held-out items"), best[CONTEXT]
rows = figures.tidy(metrics.steerability(MULTIPLIERS, found), "slope", layer=layers, item=held_out, vector=vectors)
doses = figures.tidy(found, "difference", layer=layers, item=held_out, vector=vectors, multiplier=MULTIPLIERS)

# %% Show it
lines, unit = {"by": "vector", "over": "scenario"}, "logits per unit of the multiplier"
*curves, random = figures.curves(rows, x="layer", y="slope", **lines).items()
told = ["{} {:+.2f} [{:+.2f}, {:+.2f}]".format(name, *curve[best[name]]) for name, curve in curves]
mine = [row for row in rows if (row["vector"], row["layer"]) == (CONTEXT, layer)]
lab.save(
    title=f"2. Contrastive activation addition: {VALUE}",
    question=f"Does a direction for {VALUE}, from contrast pairs, move the answers in scenarios it was not taken from?",
    protocol=f"Mean difference over {len(train)} pairs, added at the last prompt token of {len(held_out)} items of held-out scenarios; layers chosen on the training scenarios. Steerability is "
    "the slope of the logit difference of the two answers against the multiplier; random vectors have the norm of the longest of the three at each layer.",
    finding=f"Steerability of held-out items ({unit}), each at its best layer: {'; '.join(told)}; random vectors {{1:+.2f}} to {{2:+.2f}}. ".format(*random[1][layer])
    + f"The {CONTEXT} moves {np.mean([row['slope'] < 0 for row in mine]):.0%} of the items the wrong way.",
    receipt=protocol.receipt(lab, held_out, readings[CONTEXT], layer),
    figures=[
        figures.lines(lab.folder / "02_layers", rows, x="layer", y="slope", **lines, xlabel="layer whose input is steered", ylabel=f"steerability ({unit})",
                      caption="Which reading moves the answers, and from which layer on. Read and added at the same layer."),
        figures.lines(lab.folder / "02_multipliers", [row for row in doses if row["layer"] == layer], x="multiplier", y="difference", **lines, xlabel="multiplier", ylabel="logit difference",
                      caption=f"What steerability is the slope of, at layer {layer}."),
    ],
    tables=[{"caption": f"The held-out items and their steerability under the {CONTEXT} at layer {layer}.", "columns": ["prompt", *SIGNS, "steerability"],
             "rows": [[*(row[k] for k in ("prompt", *SIGNS)), f"{row['slope']:+.2f}"] for row in mine]}],
)  # fmt: skip
