"""Function vectors: can "give the opposite" be added to a prompt that does not ask for it?

    python examples/03_function_vectors.py --model nano     (`make reproduce` runs it; half a minute on nano)

The prompt is a word and nothing else ("Q: big A:"). Added to the stream at its last token is what ten-shot lists of antonyms
leave there: the mean stream less that of other tasks, or the sum of what the heads write that causal mediation picks.
Expected on nano: without a vector hardly an answer is the opposite; with one most are, from the layer on in which lists of antonyms are
told apart from others; the heads' sum, which is of no layer, works below it. Vectors of other tasks and random ones do nothing.
"""

# %% What each head does for the answer
import numpy as np
import torch

from ministeer import extract, heads, metrics
from ministeer.lab import antonyms, data, figures, protocol
from ministeer.lab.answers import answers
from ministeer.lab.experiment import Experiment

LISTS = {"structure": "question_answer", "shots": 10}
COEFFICIENTS = [0.5, 1.0, 1.5, 2.0, 3.0]
MEAN, HEADS, CONTROLS = "mean stream less other tasks'", "sum of 10 heads", ("synonym", "plural", "past")

MEANS = {}  # by prompts: the cells of one run share them


def mediation(model, tokenizer, *, clean, shuffled):
    """Causal indirect effects of all heads on some prompts with shuffled labels, each (layers, heads)."""
    prompts, answers = [item["prompt"] for item in shuffled], [item["words"][0] for item in shuffled]
    if (key := tuple(clean)) not in MEANS:
        MEANS[key] = heads.mean_writes(model, tokenizer, clean)
    return [{"effects": e.tolist()} for e in heads.indirect_effects(model, tokenizer, prompts, answers, MEANS[key])]


# %% Vectors, from lists of training pairs
lab = Experiment.from_command_line("03_function_vectors")
layers, sites = protocol.layers(lab), protocol.sites(lab)
tasks = data.answerable(lab.tokenizer)
train = tasks["antonym"]["train"]
clean = data.task_prompts(tasks, 50, seed=1, **LISTS)
shuffled = lab.part(data.few_shot(train, train, 25, seed=2, shuffled=True, **LISTS))
seeds = lab.part(range(3))
chunks = lab.progress([shuffled[i : i + 5] for i in range(0, len(shuffled), 5)], "heads")
effects = [row["effects"] for c in chunks for row in lab.cell(mediation, clean=clean["antonym"], shuffled=c)]
top = heads.top_heads(torch.tensor(effects), k=10)
vectors = {
    name: lab.vector(extract.function_vector, prompts=clean[task], sites=sites, others=[v for t, v in clean.items() if t != task])
    for name, task in ((MEAN, "antonym"), *((f"control: vector of {t}", t) for t in CONTROLS))
}  # fmt: skip
vectors[HEADS] = lab.vector(heads.function_vector, prompts=clean["antonym"], heads=top, sites=sites)
for seed in seeds:
    vectors[f"random {seed}"] = extract.random_like(vectors[HEADS], seed=seed)

# %% Zero-shot, of the pairs that the model gets right with demonstrations (as published)
known, bare = {}, {}
for split, pairs in tasks["antonym"].items():
    known[split] = antonyms.answered(lab, lab.part(data.few_shot(pairs, train, 60, seed=3, **LISTS)))[:, 0]
    alone = lab.part(data.few_shot(pairs, train, 60, seed=3, **LISTS | {"shots": 0}))
    bare[split] = [item for item, right in zip(alone, known[split], strict=True) if right] or alone


def answered(name, layer, split):
    """Whether each zero-shot prompt is answered with the opposite, (items, coefficients)."""
    return antonyms.answered(lab, bare[split], vectors[name], layer, COEFFICIENTS)


held = {(name, i): answered(name, i, "heldout") for i in lab.progress(layers, "layers") for name in vectors}
best = {}  # layer and coefficient of each vector, chosen on training pairs
for name in (MEAN, HEADS):
    scores = {(i, c): s for i in layers for c, s in enumerate(answered(name, i, "train").mean(0))}
    best[name] = max(scores, key=scores.get)
best |= {name: best[MEAN] for name in vectors if name.startswith("control")}  # as the vector they are controls for
unsteered = antonyms.answered(lab, bare["heldout"])[:, 0]
mixed = lab.part(data.few_shot(tasks["antonym"]["heldout"], train, 60, seed=3, shuffled=True, **LISTS))
mixed = antonyms.answered(lab, mixed)[:, 0]

# %% Show it
c = best[HEADS][1]
pairs = [item["pair"] for item in bare["heldout"]]  # some are asked both ways round
curves = {f"{n}, x {COEFFICIENTS[j]:g}": [metrics.bootstrap(held[n, i][:, j], seed=0, groups=pairs) for i in layers] for n, (_, j) in best.items()}  # fmt: skip
chance = [figures.spread([held[f"random {s}", i][:, c].mean() for s in seeds]) for i in layers]
curves[f"random, all of {len(seeds)}, x {COEFFICIENTS[c]:g}"] = chance
figure = figures.lines(
    lab.folder / "03_layers", layers, curves, xlabel="layer whose input is steered", ylabel="answers that are the opposite",
    caption=f"{len(unsteered)} questions of {len(set(pairs))} held-out pairs, no demonstrations; without a vector {unsteered.mean():.2f}. "
    "Coefficients chosen on training pairs; 95 % bands over pairs.",
)  # fmt: skip
grid = figures.matrix(
    lab.folder / "03_map", [[held[MEAN, i][:, j].mean() for j in range(len(COEFFICIENTS))] for i in layers],
    [str(i) for i in layers], [f"{x:g}" for x in COEFFICIENTS], ylabel="layer", xlabel="coefficient", unit="answers that are the opposite",
    caption=f"The {MEAN} at every layer and coefficient; {len(unsteered)} held-out pairs without demonstrations.",
)  # fmt: skip
said = "; ".join(
    f"{n}: {metrics.interval(held[n, i][:, j], groups=pairs)} at layer {i}, x {COEFFICIENTS[j]:g}"
    for n, (i, j) in best.items()
)
layer, c = best[MEAN]
settings = {"vectors": {MEAN: vectors[MEAN]}, "layers": [layer], "coefficients": [0.0, COEFFICIENTS[c]]}
rows = lab.cell(answers, items=bare["heldout"], likeliest=True, **settings)
words = list(zip(*(row["said"][0][0] for row in rows)))
lab.save(
    title="3. Function vectors: antonyms",
    question="Can a task be added to a prompt that does not show it?",
    protocol=f"Vectors from 50 ten-shot lists for each of {len(tasks)} tasks; heads by their mean indirect effect on {len(shuffled)} "
    "lists with shuffled labels. Added at the last token of zero-shot prompts of the same structure, for held-out pairs that the "
    "model gets right with ten demonstrations (of all, if it gets none). Layer and coefficient chosen on training pairs.",
    finding=f"Share of opposites. Without a vector {unsteered.mean():.2f}; {said}. Of all "
    f"{len(mixed)} held-out pairs with ten demonstrations {np.mean(known['heldout']):.2f}, with their labels shuffled "
    f"{mixed.mean():.2f}. Heads, the strongest first: {', '.join(f'{i}.{h}' for i, h in top)}.",
    receipt=protocol.receipt(lab, bare["heldout"], vectors[MEAN], layer, COEFFICIENTS[c]),
    figures=[figure, grid],
    tables=[{
        "caption": f"The likeliest next word without and with the vector at layer {layer}, x {COEFFICIENTS[c]:g}.",
        "columns": ["prompt", "opposite", "without", "with"],
        "rows": [
            [item["prompt"], item["words"][0], *said]
            for item, *said in zip(bare["heldout"], *words, strict=True)
        ],
    }],
)  # fmt: skip
