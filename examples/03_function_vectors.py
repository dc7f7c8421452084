"""Function vectors: can "give the opposite" be added to a prompt that does not ask for it?

    python examples/03_function_vectors.py --model nano     (`make reproduce` runs it; half a minute on nano)

The prompt is a word and nothing else ("Q: big A:"). At its last token, we add to the stream what ten-shot lists of antonyms
leave there: the mean stream less that of other tasks, or the summed writes of the heads that causal mediation picks.
Expected on nano: either makes the opposite likelier by 2.4 nats, and nine in ten answers right where two in a hundred were. The mean
works from the layer on in which lists are told apart, the heads' sum below it. Vectors of other tasks and random ones do harm.
"""

# %% What each head does for the answer
import torch

from ministeer import heads
from ministeer.lab import antonyms, data, figures, protocol
from ministeer.lab.answers import answers
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
mixed = [item for item in mixed if len(lab.tokenizer.continuation(item["words"][0])) == 1]  # what mediation can read
effects = [row["effects"] for row in lab.cell(mediation, clean=lists["antonym"], shuffled=mixed)]
top = heads.top_heads(torch.tensor(effects), k=10)
tasks = antonyms.task_vectors(lab, lists, sites)  # each less all others: a control holds minus a fifth of the antonyms'
made = {f"other task: {task}": tasks[task] for task in CONTROLS} | {MEAN: tasks["antonym"]}
made[HEADS] = lab.vector(heads.function_vector, prompts=lists["antonym"], heads=top, sites=sites)
made = {name: antonyms.dosed(lab, vector, STRUCTURE) for name, vector in made.items()}

# %% Layer and dose on training pairs; then held-out pairs, without demonstrations, at every layer: a row for each
chosen = {name: antonyms.setting(lab, STRUCTURE, made[name]) for name in (MEAN, HEADS)}
best = {name: chosen.get(name, chosen[MEAN]) for name in made}  # controls as the vector that they are controls for
bare, rows, chance = antonyms.asked(lab, STRUCTURE, "heldout", ASKED), [], []
for name in lab.progress(made, "vectors"):
    rows += antonyms.measured(lab, bare, {name: made[name]}, layers, best[name][1])
(layer, dose), mean = best[MEAN], {MEAN: made[MEAN]}
recipe = antonyms.randoms(lab, STRUCTURE)  # texts, number and kind: the vectors are drawn where they are used
felt = protocol.felt(lab, made[MEAN])  # the lowest layers see one token that ends all prompts: zero there
for at, some in (([i for i in felt if i != layer], recipe | {"count": AROUND}), ([layer], recipe)):
    gain = antonyms.gain(lab, bare, mean, at, [dose], some)[..., 0]  # (items, random vectors, layers)
    chance += figures.tidy(gain, "gain", item=bare, vector=[f"random {i}" for i in range(gain.shape[1])], layer=at)
shown, wrong = (antonyms.asked(lab, STRUCTURE, "heldout", ASKED, shots=SHOTS, shuffled=mix) for mix in (False, True))

# %% Show it
found = {name: [r for r in rows if (r["vector"], r["layer"]) == (name, best[name][0])] for name in made}
found |= {"demonstrations": antonyms.ability(lab, bare, shown), "shuffled ones": antonyms.ability(lab, bare, wrong)}
(random,) = figures.curves(chance, x="layer", y="gain", by="vector").values()
said = lab.cell(answers, items=bare, vectors=mean, layers=[layer], coefficients=[0.0, dose], likeliest=True)
lines = {"x": "layer", "by": "vector", "over": "pair", "xlabel": "layer whose input is steered"}
lab.save(
    title="3. Function vectors: antonyms",
    question="Can a task be added to a prompt that does not show it?",
    protocol=f"Vectors from 25 ten-shot lists for each of {len(lists)} tasks; heads by their mean indirect effect on {len(mixed)} lists with shuffled labels. Added at the last token of {len(bare)} prompts "
    "of held-out pairs; dose in tenths of the stream's norm, it and the layer chosen on training pairs. Gain: log p(any accepted opposite), less that without a vector. Random vectors have the stream's covariance.",
    finding=f"{antonyms.unknown(found['demonstrations']) or 'The model knows the task'}. Gain in log p(opposite), nats, and likeliest tokens that begin one (without a vector {antonyms.right(lab, bare).mean():.0%}): "
    + "; ".join(f"{name} {antonyms.told(some)}" for name, some in found.items()) + "; {} random vectors {:.2f} to {:.2f}. ".format(recipe["count"], *random[layer][1:]) +
    f"Layer and dose: {', '.join(f'{name} {i}, {c:g}' for name, (i, c) in chosen.items())}. Heads, the strongest first: {', '.join(f'{i}.{h}' for i, h in top)}.",
    receipt=protocol.receipt(lab, bare, made[MEAN], layer, dose),
    figures=[
        figures.lines(lab.folder / "03_layers", rows + chance, y="gain", **lines, ylabel="gain in log p(opposite), nats",
                      caption="From which layer on a vector gives the task. Doses chosen on training pairs."),
        figures.lines(lab.folder / "03_right", rows, y="right", **lines, ylabel="likeliest tokens that begin an opposite",
                      caption="The same as a share of the prompts: does the model say it?"),
    ],
    tables=[{"caption": f"The likeliest next token without and with the {MEAN} at layer {layer}, dose {dose:g}.", "columns": ["prompt", "opposites", "without", "with"],
             "rows": [[item["prompt"], ",".join(item["words"]), *row["said"][0][0]] for item, row in zip(bare, said, strict=True)]}],
)  # fmt: skip
