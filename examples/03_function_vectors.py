"""Function vectors: can "give the opposite" be added to a prompt that does not ask for it?

    python examples/03_function_vectors.py --model nano     (`make reproduce` runs it; half a minute on nano)

The prompt is a word and nothing else ("Q: big A:"). Added to the stream at its last token is what ten-shot lists of antonyms
leave there: the mean stream less that of other tasks, or the sum of what the heads write that causal mediation picks.
Expected on nano: without a vector no answer is the opposite; with one most are, from the layer on in which lists of antonyms are
told apart from others; the heads' sum, which is of no layer, works below it. The vector of synonyms and random ones do nothing.
"""

# %% What is read: the likeliest next token, and what each head does for the answer
import numpy as np
import torch

from ministeer import Receipt, Steer, data, extract, heads, metrics, prefill, report
from ministeer.experiment import Experiment

LISTS = {"structure": "question_answer", "shots": 10}
COEFFICIENTS = [0.5, 1.0, 1.5, 2.0, 3.0]
MEAN, HEADS, OTHER = "mean stream less other tasks'", "sum of 10 heads", "control: vector of synonyms"


def guesses(model, tokenizer, *, items, vector=None, layer=0, coefficients=(0.0,)):
    """Of each item and coefficient, the likeliest next token, and whether it is the answer."""
    ids = [tokenizer.encode(item["prompt"], special=True) for item in items for _ in coefficients]
    steers = [Steer(vector, ("pre", layer), [*coefficients] * len(items), where="last")] if vector else []
    found = [tokenizer.decode([i]) for i in prefill(model, ids, None, steers).argmax(-1).tolist()]
    rows = [found[i : i + len(coefficients)] for i in range(0, len(found), len(coefficients))]
    return [{"said": row, "right": [s == item["answer"] for s in row]} for row, item in zip(rows, items, strict=True)]


MEANS = {}  # by prompts: the cells of one run share them


def mediation(model, tokenizer, *, clean, shuffled):
    """Causal indirect effects of all heads on some prompts with shuffled labels, each (layers, heads)."""
    prompts, answers = ([item[key] for item in shuffled] for key in ("prompt", "answer"))
    if (key := tuple(clean)) not in MEANS:
        MEANS[key] = heads.mean_writes(model, tokenizer, clean)
    return [{"effects": e.tolist()} for e in heads.indirect_effects(model, tokenizer, prompts, answers, MEANS[key])]


# %% Vectors, from lists of training pairs
lab = Experiment.from_command_line(__file__)
depth = lab.model.config.n_layer
layers = list(range(0, depth + 1, max(1, depth // 12)))
sites = [("pre", i) for i in layers]
tasks = {  # answers of one token in this model's vocabulary
    task: {s: [p for p in pairs if len(lab.tokenizer.encode(f" {p[1]}")) == 1] for s, pairs in splits.items()}
    for task, splits in data.word_tasks().items()
}
train = tasks["antonym"]["train"]
clean = {t: [i["prompt"] for i in data.lists(p["train"], p["train"], 50, seed=1, **LISTS)] for t, p in tasks.items()}
shuffled = data.lists(train, train, 25, seed=2, shuffled=True, **LISTS)
chunks = lab.progress([shuffled[i : i + 5] for i in range(0, len(shuffled), 5)], "heads")
effects = [row["effects"] for c in chunks for row in lab.cell(mediation, clean=clean["antonym"], shuffled=c)]
top = heads.top_heads(torch.tensor(effects), k=10)
vectors = {
    name: lab.vector(extract.function_vector, prompts=clean[task], sites=sites, others=[v for t, v in clean.items() if t != task])
    for name, task in ((MEAN, "antonym"), (OTHER, "synonym"))
}  # fmt: skip
vectors[HEADS] = lab.vector(heads.function_vector, prompts=clean["antonym"], heads=top, sites=sites)
for seed in range(3):
    vectors[f"random {seed}"] = extract.random_like(vectors[HEADS], seed=seed)

# %% Zero-shot, of the pairs that the model gets right with demonstrations (as published)
asked, known, bare = {}, {}, {}


def first(rows):
    """Whether each item is right at the first coefficient, or without a vector."""
    return [row["right"][0] for row in rows]


for split, pairs in tasks["antonym"].items():
    asked[split] = data.lists(pairs, train, 60, seed=3, **LISTS)
    known[split] = first(lab.cell(guesses, items=asked[split]))
    alone = data.lists(pairs, train, 60, seed=3, **{**LISTS, "shots": 0})
    bare[split] = [item for item, right in zip(alone, known[split], strict=True) if right]


def answered(name, layer, split):
    """The rows of `guesses` for the zero-shot prompts, and whether each is right (items, coefficients)."""
    rows = lab.cell(guesses, items=bare[split], vector=vectors[name], layer=layer, coefficients=COEFFICIENTS)
    return rows, np.array([row["right"] for row in rows], dtype=float)


held = {(name, i): answered(name, i, "heldout")[1] for i in lab.progress(layers, "layers") for name in vectors}
best = {}  # layer and coefficient of each vector, chosen on training pairs
for name in (MEAN, HEADS):
    scores = {(i, c): s for i in layers for c, s in enumerate(answered(name, i, "train")[1].mean(0))}
    best[name] = max(scores, key=scores.get)
best[OTHER] = best[MEAN]  # the control as the vector it is a control for
plain = lab.cell(guesses, items=bare["heldout"])
mixed = lab.cell(guesses, items=data.lists(tasks["antonym"]["heldout"], train, 60, seed=3, shuffled=True, **LISTS))

# %% Show it
c = best[HEADS][1]
curves = {f"{n}, x {COEFFICIENTS[j]:g}": [metrics.bootstrap(held[n, i][:, j], seed=0) for i in layers] for n, (_, j) in best.items()}  # fmt: skip
chance = [report.spread([held[f"random {s}", i][:, c].mean() for s in range(3)]) for i in layers]
curves[f"random, all of 3, x {COEFFICIENTS[c]:g}"] = chance
figure = report.lines(
    lab.folder / "03_layers", layers, curves, xlabel="layer whose input is steered", ylabel="answers that are the opposite",
    caption=f"{len(plain)} held-out pairs, no demonstrations; without a vector {np.mean(first(plain)):.2f}. "
    "Coefficients chosen on training pairs; 95 % bands over pairs.",
)  # fmt: skip
said = "; ".join(
    "{}: {:.2f} [{:.2f}, {:.2f}] at layer {}, x {:g}".format(n, *metrics.bootstrap(held[n, i][:, j], seed=0), i, COEFFICIENTS[j])
    for n, (i, j) in best.items()
)  # fmt: skip
layer, c = best[MEAN]
receipt = Receipt()
ids = [lab.tokenizer.encode(item["prompt"], special=True) for item in bare["heldout"]]
prefill(lab.model, ids, steer=Steer(vectors[MEAN], ("pre", layer), COEFFICIENTS[c], where="last"), receipt=receipt)
with_vector = answered(MEAN, layer, "heldout")[0]
lab.save(
    title="3. Function vectors: antonyms",
    question="Can a task be added to a prompt that does not show it?",
    protocol=f"Vectors from 50 ten-shot lists for each of {len(tasks)} tasks; heads by their mean indirect effect on {len(shuffled)} "
    "lists with shuffled labels. Added at the last token of zero-shot prompts of the same structure, for held-out pairs that the "
    "model gets right with ten demonstrations. Layer and coefficient chosen on training pairs.",
    finding=f"Share of opposites. Without a vector {np.mean(first(plain)):.2f}; {said}. Of all "
    f"{len(mixed)} held-out pairs with ten demonstrations {np.mean(known['heldout']):.2f}, with their labels shuffled "
    f"{np.mean(first(mixed)):.2f}. Heads, the strongest first: {', '.join(f'{i}.{h}' for i, h in top)}.",
    receipt=receipt,
    figures=[figure],
    tables=[{
        "caption": f"The likeliest next word without and with the vector at layer {layer}, x {COEFFICIENTS[c]:g}.",
        "columns": ["prompt", "opposite", "without", "with"],
        "rows": [
            [item["prompt"].removeprefix("<|endoftext|>"), item["answer"], a["said"][0], b["said"][c]]
            for item, a, b in zip(bare["heldout"], plain, with_vector, strict=True)
        ],
    }],
)  # fmt: skip
