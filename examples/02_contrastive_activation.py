"""Contrastive activation addition for one value: does a direction for honesty reach scenarios it was not taken from?

    python examples/02_contrastive_activation.py --model nano     (`make reproduce` runs it; a minute on nano)

The vector is a mean difference over pairs of texts, read in two ways: at the answer in which they differ (CAA as published),
and at the last token of a prompt whose context differs, where the answer is still to come. A third is a control: the
answers alone, without any scenario, since training and held-out scenarios share answer words.
Expected on nano: in the upper half of the layers the contrast in the context moves every item. The one in the answer, which is
read one token later than it is added, moves them a sixth as much there (it is two thirds as long); the answers alone and random
vectors do nothing of the kind.
"""

# %% Vectors, in three readings and at random
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from ministeer import extract, metrics
from ministeer.lab import data, figures, protocol, values
from ministeer.lab.experiment import Experiment

VALUE, CONTEXT, SIGNS = "honesty", "contrast in the context", ("positive", "negative")
MULTIPLIERS = [-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5]  # Tan et al. 2024

lab = Experiment.from_command_line("02_contrastive_activation")
layers = protocol.layers(lab)
train, held_out = (data.read("values.tsv", value=VALUE, split=split) for split in ("train", "heldout"))
held_out, seeds = lab.part(held_out), lab.part(range(5))
readings = {
    CONTEXT: data.context_pairs(VALUE),
    "contrast in the answer": [[r["prompt"] + r[sign] for sign in SIGNS] for r in train],
    "answers alone": [[r[sign] for sign in SIGNS] for r in train],
}
vectors = {}
for name, pairs in readings.items():
    token = "last" if name == CONTEXT else "answer"
    vectors[name] = lab.vector(extract.contrastive, pairs=pairs, token=token, sites=protocol.sites(lab))
longest = {site: max((v[site] for v in vectors.values()), key=torch.norm) for site in protocol.sites(lab)}
for seed in seeds:
    vectors[f"random {seed}"] = extract.random_like(replace(vectors[CONTEXT], tensors=longest), seed=seed)


# %% The logit difference of the two answers to each prompt, and its slope against the multiplier
def measure(name, layer, items):
    """Logit differences (items, multipliers)."""
    return values.differences(lab, items, vectors[name], layer, MULTIPLIERS)


slopes = partial(metrics.steerability, MULTIPLIERS)  # (items, multipliers) -> (items,)
found = {(name, i): measure(name, i, held_out) for i in lab.progress(layers, "layers") for name in vectors}
# layers are chosen on the training scenarios, so that the held-out ones stay unseen
best = {name: max(layers, key=lambda i: slopes(measure(name, i, train)).mean()) for name in readings}

# %% Show it
scenarios = [row["scenario"] for row in held_out]
interval, n = partial(metrics.bootstrap, seed=0, groups=scenarios), len(set(scenarios))
curves = {name: [interval(slopes(found[name, i])) for i in layers] for name in readings}
chance = [figures.spread([slopes(found[f"random {seed}", i]).mean() for seed in seeds]) for i in layers]
curves[f"random, all of {len(seeds)}"] = chance
said = "; ".join(
    "{}: {:+.2f} [{:+.2f}, {:+.2f}] at layer {}, {:.0%} of items anti-steerable, the vector's norm {:.1f}".format(
        name, *interval(slopes(found[name, i])), i, np.mean(slopes(found[name, i]) < 0), vectors[name]["pre", i].norm()
    ) for name, i in best.items()
)  # fmt: skip
layer, unit = best[CONTEXT], "logits per unit of the multiplier"
sweep = figures.lines(
    lab.folder / "02_layers", layers, curves, xlabel="layer whose input is steered", ylabel=f"steerability ({unit})",
    caption=f"Read and added at the same layer. Bands: 95 % over {n} scenarios; the range of the {len(seeds)} random vectors.",
)  # fmt: skip
dose = figures.lines(
    lab.folder / "02_multipliers", MULTIPLIERS,
    {name: [interval(x) for x in found[name, layer].T] for name in (CONTEXT, "random 0")},
    xlabel="multiplier", ylabel="logit difference", caption=f"Layer {layer}; 95 % bands over {n} held-out scenarios.",
)  # fmt: skip
asked = [{"prompt": row["prompt"]} for row in held_out]
lab.save(
    title=f"2. Contrastive activation addition: {VALUE}",
    question=f"Does a direction for {VALUE}, from contrast pairs, move the answers in scenarios it was not taken from?",
    protocol=f"Mean difference over {len(train)} pairs, added at the last prompt token of {len(held_out)} items of {n} held-out "
    "scenarios; layers chosen on the training scenarios. Steerability is the slope of the logit difference of the two answers "
    f"against the multiplier, with 95 % bootstrap intervals over scenarios; {len(seeds)} random vectors of the norm of the longest of the three at each layer.",
    finding=f"Steerability ({unit}). {said}; random vectors at layer {layer}: "
    "{1:+.2f} to {2:+.2f}.".format(*chance[layers.index(layer)]),
    receipt=protocol.receipt(lab, asked, vectors[CONTEXT], layer),
    figures=[sweep, dose],
    tables=[{
        "caption": f"The held-out items and their steerability under the {CONTEXT} at layer {layer}.",
        "columns": ["prompt", *SIGNS, "steerability"],
        "rows": [[*(r[k] for k in ("prompt", *SIGNS)), f"{x:+.2f}"] for r, x in zip(held_out, slopes(found[CONTEXT, layer]))],
    }],
)  # fmt: skip
