"""Contrastive activation addition for one value: how far does a direction for honesty reach, and for how many items?

    python examples/02_contrastive_activation.py --model nano     (`make reproduce` runs it; seconds on nano)

Expected: in middle layers the honest answer gains on the dishonest one with the multiplier, on scenarios the vector has
never seen; random vectors of equal norm do nothing of the kind; some items may move the wrong way.
"""

# %% What is read: the logit difference of the two answers to each prompt
import numpy as np

from ministeer import Steer, data, extract, metrics, prefill, report
from ministeer.experiment import Experiment

VALUE = "honesty"
MULTIPLIERS = [-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5]  # Tan et al. 2024


def differences(model, tokenizer, *, vector, layer, multipliers, items):
    """Logit of the positive answer minus that of the negative one, a list of items for each multiplier."""
    prompts = [[tokenizer.eot, *tokenizer.encode(item["prompt"])] for item in items]
    positive, negative = ([tokenizer.single(item[sign]) for item in items] for sign in ("positive", "negative"))
    steers = [Steer(vector, ("pre", layer), m, where="last") for m in multipliers]
    logits = [prefill(model, prompts, None, [steer]) for steer in steers]
    return [{"difference": metrics.logit_difference(x, positive, negative).tolist()} for x in logits]


# %% Measure it
lab = Experiment.from_command_line(__file__)
depth = lab.model.config.n_layer
layers = list(range(0, depth + 1, max(1, depth // 12)))
rows = [row for row in data.read("values.tsv") if row["value"] == VALUE]
train, held_out = ([r for r in rows if r["split"] == split] for split in ("train", "heldout"))
scenarios = np.array([r["scenario"] for r in held_out])
pairs = [[f"<|endoftext|>{r['prompt']}{r[sign]}" for sign in ("positive", "negative")] for r in train]
vector = lab.vector(extract.contrastive, pairs=pairs, sites=[("pre", i) for i in layers])
vectors = {VALUE: vector, **{f"random {s}": extract.random_like(vector, seed=s) for s in range(5)}}


def measure(v, layer, split):
    """Logit differences (items, multipliers) of one split."""
    found = lab.cell(differences, vector=v, layer=layer, multipliers=MULTIPLIERS, items=split)
    return np.array([row["difference"] for row in found]).T


measured = {(name, i): measure(v, i, held_out) for i in lab.progress(layers, "layers") for name, v in vectors.items()}
slopes = {key: metrics.steerability(MULTIPLIERS, x) for key, x in measured.items()}
# the layer is chosen on the training scenarios, so that the held-out ones stay unseen
best = max(layers, key=lambda i: metrics.steerability(MULTIPLIERS, measure(vector, i, train)).mean())


# %% Show it
def over_scenarios(values):
    """Mean and 95 % interval; a scenario, not a row, is the independent unit."""
    return metrics.bootstrap([values[scenarios == name].mean() for name in np.unique(scenarios)], seed=0)


real = [over_scenarios(slopes[VALUE, i]) for i in layers]
means = [[slopes[f"random {s}", i].mean() for s in range(5)] for i in layers]
chance = [(np.mean(m), min(m), max(m)) for m in means]
(mean, low, high), random = real[layers.index(best)], chance[layers.index(best)]
anti = np.mean(slopes[VALUE, best] < 0)
curves = {name: [over_scenarios(x) for x in measured[name, best].T] for name in (VALUE, "random 0")}
unit = "logits per unit of the multiplier"
sweep = report.lines(
    lab.folder / "02_layers", layers, {VALUE: real, "random, all of 5": chance},
    xlabel="layer whose input is steered", ylabel=f"steerability ({unit})",
    caption="Read and added at the same layer. Bands: 95 % over scenarios; the range of the 5 random vectors.",
)  # fmt: skip
dose = report.lines(
    lab.folder / "02_multipliers", MULTIPLIERS, curves, xlabel="multiplier", ylabel="logit difference",
    caption=f"Layer {best}, held-out scenarios; bands are 95 % bootstrap intervals over scenarios.",
)  # fmt: skip
lab.save(
    title=f"2. Contrastive activation addition: {VALUE}",
    question=f"Does a direction for {VALUE}, from contrast pairs, move the answers in scenarios it was not taken from?",
    protocol=f"Mean difference at the answer token over {len(pairs)} pairs; added at the last prompt token; the layer is "
    f"chosen on the training scenarios; scored on {len(held_out)} items of {len(set(scenarios))} held-out scenarios. "
    "Steerability is the slope of the logit difference against the multiplier; intervals are over scenarios.",
    finding=f"At layer {best}: steerability {mean:.2f} [{low:.2f}, {high:.2f}] {unit}, {anti:.0%} of items anti-steerable; "
    f"5 random vectors of equal norm: {random[1]:.2f} to {random[2]:.2f}.",
    figures=[dose, sweep],
    tables=[{
        "caption": f"The held-out items, by steerability at layer {best}.",
        "columns": ["prompt", "positive", "negative", "steerability"],
        "rows": [[held_out[j][k] for k in ("prompt", "positive", "negative")] + [f"{slopes[VALUE, best][j]:+.2f}"]
                 for j in np.argsort(slopes[VALUE, best])],
    }],
)  # fmt: skip
