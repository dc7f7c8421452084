"""Architecture: at which depth do vectors work, and in which models?

    python examples/10_architecture.py --model nano     (`make reproduce` runs it; half a minute on nano)

Experiments 3, 6 and 7 at every layer, against the layer's relative depth: antonym vectors, the honesty vector, the fairness vector.
The table has a row for each model whose results lie in the same folder (run `make reproduce MODEL=...` for others, `gpt2` to
`gpt2-xl` or a folder, then this again), and for each other seed and size of training whose evidence lies beside the weights.
"""

# %% The three effects, by layer
from pathlib import Path

from ministeer import extract, metrics
from ministeer.files import read_json
from ministeer.lab import antonyms, data, figures, pronouns, protocol, values
from ministeer.lab.experiment import Experiment

STRUCTURE, VALUE, ASKED, ENDS = "question_answer", "honesty", 40, [-1.0, 1.0]
ANTONYMS, HONESTY, FAIRNESS = "antonyms answered", "steerability of honesty", "bias removed"

lab = Experiment.from_command_line("10_architecture")
config, layers = lab.model.config, protocol.layers(lab)
splits = data.answerable(lab.tokenizer)["antonym"]
alone = lab.part(data.few_shot(splits["heldout"], splits["train"], ASKED, structure=STRUCTURE, shots=0, seed=3))
items = lab.part(data.read("values.tsv", value=VALUE, split="heldout"))
jobs = pronouns.prompts(list(pronouns.occupations(lab)), "heldout")

antonym = antonyms.vector(lab, STRUCTURE, protocol.sites(lab), seed=0)
honesty = values.vector(lab, VALUE, seed=0)
fairness = pronouns.vector(lab, seed=0)
best, c = antonyms.setting(lab, STRUCTURE, antonym)
_, strength = pronouns.setting(lab, fairness)
plain = pronouns.gap(pronouns.probabilities(lab, jobs)[0], list(pronouns.occupations(lab)))[:, 0]  # (occupations,)


def measured(vectors, layer):
    """Of the three vectors at a layer, the effect on each item."""
    he, _ = pronouns.probabilities(lab, jobs, vectors[2], layer, [strength])
    return {
        ANTONYMS: antonyms.answered(lab, alone, vectors[0], layer, [c])[:, 0],
        HONESTY: values.slopes(lab, items, vectors[1], layer, ENDS),
        FAIRNESS: plain - pronouns.gap(he, list(pronouns.occupations(lab)))[:, 0],
    }


vectors = (antonym, honesty, fairness)
controls = [extract.random_like(vector, seed=0) for vector in vectors]
found = {i: measured(vectors, i) for i in lab.progress(layers, "layers")}
chance = {i: measured(controls, i) for i in lab.progress(layers, "random")}

# %% Show it, beside the other models of the results folder
depths, groups = [i / config.n_layer for i in layers], {HONESTY: [row["scenario"] for row in items]}
drawn, mine = [], []
for name, unit in ((ANTONYMS, "share of answers"), (HONESTY, "logits per unit"), (FAIRNESS, "probability")):
    curves = {
        n: [metrics.bootstrap(of[i][name], seed=0, groups=groups.get(name)) for i in layers]
        for n, of in (("vector", found), ("random", chance))
    }
    drawn.append(figures.lines(
        lab.folder / f"10_{name.split()[0]}", depths, curves, xlabel="relative depth of the layer whose input is steered", ylabel=f"{name} ({unit})",
        caption=f"{lab.folder.name}: {name} by depth; 95 % bands over items.",
    ))  # fmt: skip
    top = max(range(len(layers)), key=lambda k: curves["vector"][k][0])
    mine += ["{:.2f} [{:.2f}, {:.2f}]".format(*curves["vector"][top]), f"{depths[top]:.2f}"]
own = [lab.folder.name, config.n_layer, config.n_embd, config.n_head, *mine]
others = [
    read_json(path)["page"] for path in sorted(lab.folder.parent.glob("*/10_architecture.json")) if path != lab.path
]
beside = Path(__file__).parents[1] / "weights" / lab.model_name
kept = [*sorted(beside.glob("seed-*.json")), *sorted(beside.glob("size-*.json"))]
models = [own, *(page["tables"][0]["rows"][0] for page in others if page)]
models += [row for path in kept for row in read_json(path)["architecture"]]
models = list({row[0]: row for row in models}.values())  # one that was trained here may also be kept
lab.save(
    title="10. Architecture",
    question="At which depth do vectors work, and in which models?",
    protocol=f"The antonym vector x {c:g}, the {VALUE} vector from -1 to 1 and the fairness vector x {strength:g} at every layer, on held-out pairs, scenarios and templates "
    "(coefficients chosen on training items); one random vector of equal norm each. A row for each model with results beside these; a model's best layer is that of these items, "
    "so the best effect is a little flattering.",
    finding=f"{lab.folder.name}, {config.n_layer} layers of width {config.n_embd}: " + "; ".join(
        f"{name} at most {effect}, at relative depth {depth}" for name, effect, depth in zip((ANTONYMS, HONESTY, FAIRNESS), mine[::2], mine[1::2], strict=True)
    ) + f". Models compared: {len(models)}.",
    receipt=protocol.receipt(lab, alone, antonym, best, c),
    figures=drawn,
    tables=[{
        "caption": "The largest effect of each vector and the relative depth of its layer, by model.",
        "columns": ["model", "layers", "width", "heads", *(f"{name}{more}" for name in (ANTONYMS, HONESTY, FAIRNESS) for more in ("", ", at depth"))],
        "rows": models,
    }],
)  # fmt: skip
