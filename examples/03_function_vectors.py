"""Function vectors: can "give the opposite" be added to a prompt that does not ask for it?

    python examples/03_function_vectors.py --model nano     (`make reproduce` runs it; half a minute on nano)

The prompt is a word and nothing else ("Q: big A:"). Added to the stream at its last token is what ten-shot lists of antonyms
leave there: the mean stream less that of other tasks, or the sum of what the heads write that causal mediation picks.
"""

# %% What each head does for the answer
import numpy as np
import torch

from ministeer import heads
from ministeer.lab import antonyms, data, figures, protocol
from ministeer.lab.answers import answers
from ministeer.lab.antonyms import DOSES, SHOWN
from ministeer.lab.experiment import Experiment

STRUCTURE, SHOTS, ASKED, AROUND = "question_answer", 10, 60, 20  # random vectors at every layer
MEAN, HEADS, CONTROLS = "mean stream", "sum of 10 heads", ("synonym", "plural", "past")


def mediation(model, tokenizer, *, clean, shuffled):
    """Causal indirect effects of all heads on prompts with shuffled labels, each (layers, heads)."""
    means = heads.mean_writes(model, tokenizer, clean)
    prompts, right = [item["prompt"] for item in shuffled], [item["words"][0] for item in shuffled]
    return [{"effects": e.tolist()} for e in heads.indirect_effects(model, tokenizer, prompts, right, means)]


# %% Vectors, from lists of training pairs: all of a length, a tenth of the stream's
lab = Experiment.from_command_line("03_function_vectors")
layers, sites = protocol.layers(lab), protocol.sites(lab)
lists = data.task_prompts(data.answerable(lab.tokenizer), 25, structure=STRUCTURE, shots=SHOTS, seed=1)
mixed = antonyms.asked(lab, STRUCTURE, "train", 30, shots=SHOTS, shuffled=True)
mixed = [item for item in mixed if len(lab.tokenizer.encode(item["words"][0])) == 1]  # mediation takes one token
effects = [row["effects"] for row in lab.cell(mediation, clean=lists["antonym"], shuffled=mixed)]
top = heads.top_heads(torch.tensor(effects), k=10)
tasks = antonyms.task_vectors(lab, lists, sites)
made = {f"vector of {task}s": tasks[task] for task in CONTROLS} | {MEAN: tasks["antonym"]}
made[HEADS] = lab.vector(heads.function_vector, prompts=lists["antonym"], heads=top, sites=sites)
made = {name: antonyms.dosed(lab, vector, STRUCTURE) for name, vector in made.items()}

# %% Layer and dose on training pairs; then held-out pairs, without demonstrations, at every layer: a row for each
best = {name: antonyms.setting(lab, STRUCTURE, made[name]) for name in (MEAN, HEADS)}
best |= {name: best[MEAN] for name in made if name not in best}  # as the vector that they are controls for
bare = antonyms.asked(lab, STRUCTURE, "heldout", ASKED)
gains, hits = [], []
for name in lab.progress(made, "vectors"):
    given = {"vectors": {name: made[name]}, "layers": layers, "doses": [best[name][1]]}
    axes = {"item": bare, "vector": [name], "layer": layers}
    gains += figures.tidy(antonyms.gain(lab, bare, **given)[..., 0], "gain", **axes)
    hits += figures.tidy(antonyms.right(lab, bare, **given)[..., 0], "right", **axes)
(layer, dose), mean, randoms = best[MEAN], {MEAN: made[MEAN]}, antonyms.randoms(lab, STRUCTURE)
felt = protocol.felt(lab, made[MEAN])  # below them all prompts end in the same token and nothing varies
for at, some in (([i for i in felt if i != layer], randoms | {"count": AROUND}), ([layer], randoms)):
    found = antonyms.gain(lab, bare, mean, at, [dose], some)[..., 0]  # (items, random vectors, layers)
    gains += figures.tidy(found, "gain", item=bare, vector=[f"random {i}" for i in range(found.shape[1])], layer=at)
shown, wrong = (antonyms.asked(lab, STRUCTURE, "heldout", ASKED, shots=SHOTS, shuffled=mix) for mix in (False, True))
able = {SHOWN: antonyms.ability(lab, bare, shown), f"{SHOWN} with shuffled labels": antonyms.ability(lab, bare, wrong)}

# %% Show it
by_layer, right = (
    figures.curves(rows, x="layer", y=y, by="vector", over="pair") for rows, y in ((gains, "gain"), (hits, "right"))
)
random = by_layer[next(name for name in by_layer if name.startswith("random"))]
told = [
    f"{name} {{:.2f}} [{{:.2f}}, {{:.2f}}], {right[name][i][0]:.0%} right (layer {i}, dose {c:g})".format(
        *by_layer[name][i]
    )
    for name, (i, c) in best.items()
]
told += [
    f"{name} {np.mean([r['gain'] for r in rows]):.2f}, {np.mean([r['right'] for r in rows]):.0%} right"
    for name, rows in able.items()
]
train = antonyms.asked(lab, STRUCTURE, "train", 30)
grid = figures.tidy(antonyms.gain(lab, train, mean, felt, DOSES)[:, 0], "gain", item=train, layer=felt, dose=DOSES)
settings = {"vectors": mean, "layers": [layer], "coefficients": [0.0, dose]}
said = [row["said"][0][0] for row in lab.cell(answers, items=bare, likeliest=True, **settings)]
lab.save(
    title="3. Function vectors: antonyms",
    question="Can a task be added to a prompt that does not show it?",
    protocol=f"Vectors from 25 ten-shot lists for each of {len(lists)} tasks; heads by their mean indirect effect on {len(mixed)} lists with shuffled labels. Added at the last token of {len(bare)} prompts "
    "of held-out pairs; dose in tenths of the stream's norm, it and the layer chosen on training pairs. Gain: log p(any accepted opposite), less that without a vector. Random vectors have the stream's covariance.",
    finding=f"{antonyms.unknown(able[SHOWN]) or 'The model knows the task'}. Gain in log p(opposite), nats, and likeliest tokens that begin one: {'; '.join(told)}. "
    f"{randoms['count']} random vectors {{1:.2f}} to {{2:.2f}}; without a vector {antonyms.right(lab, bare).mean():.0%} right. Heads, the strongest first: {', '.join(f'{i}.{h}' for i, h in top)}.".format(*random[layer]),
    receipt=protocol.receipt(lab, bare, made[MEAN], layer, dose),
    figures=[
        figures.lines(lab.folder / "03_layers", gains, x="layer", y="gain", by="vector", over="pair", xlabel="layer whose input is steered", ylabel="gain in log p(opposite), nats",
                      caption="From which layer on a vector gives the task. Doses chosen on training pairs."),
        figures.lines(lab.folder / "03_right", hits, x="layer", y="right", by="vector", over="pair", xlabel="layer whose input is steered", ylabel="likeliest tokens that begin an opposite",
                      caption="The same as a share of prompts: does the model say it?"),
        figures.matrix(lab.folder / "03_map", grid, x="dose", y="layer", value="gain", xlabel="dose, tenths of the stream's norm", ylabel="layer", unit="gain in log p(opposite), nats",
                       caption=f"How the layer and the dose of the {MEAN} were chosen, on {len(train)} training pairs."),
    ],
    tables=[{"caption": f"The likeliest next token without and with the {MEAN} at layer {layer}, dose {dose:g}.", "columns": ["prompt", "opposites", "without", "with"],
             "rows": [[item["prompt"], ",".join(item["words"]), *words] for item, words in zip(bare, said, strict=True)]}],
)  # fmt: skip
