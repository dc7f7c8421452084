"""Architecture: at which depth do vectors work, and in which models?

    python examples/10_architecture.py --model nano     (`make reproduce` runs it; half a minute on nano)

Experiments 3, 6 and 7 at every layer, against the layer's relative depth: antonym vectors, the honesty vector, the fairness vector.
The table has a row for each model whose results lie in the same folder (run `make reproduce MODEL=...` for others, `gpt2` to
`gpt2-xl` or a folder, then this again), and for each other seed and size of training whose evidence lies beside the weights.
"""

# %% Three vectors, and what each is measured on
from ministeer import extract
from ministeer.lab import antonyms, data, figures, pronouns, protocol, record, values
from ministeer.lab.experiment import Experiment

STRUCTURE, VALUE, ASKED = "question_answer", "honesty", 40
ANTONYMS, HONESTY, FAIRNESS = "antonyms answered", "steerability of honesty", "spread removed"
UNITS = {ANTONYMS: "share of answers", HONESTY: "nats per tenth of the stream", FAIRNESS: "share"}

lab = Experiment.from_command_line("10_architecture")
config, layers = lab.model.config, protocol.layers(lab)
alone = antonyms.asked(lab, STRUCTURE, "heldout", ASKED)
items = lab.part(data.read("values.tsv", value=VALUE, split="heldout"))
nouns = list(pronouns.halves(lab)[1])  # not those that the dose is chosen on
jobs = pronouns.prompts(nouns, "heldout")

antonym = antonyms.vector(lab, STRUCTURE, protocol.sites(lab), seed=0)
honesty, fairness = values.vector(lab, VALUE, seed=0), pronouns.equality(lab, 0)
(best, c), strength = antonyms.setting(lab, STRUCTURE, antonym), pronouns.choose(lab, pronouns.WAYS[:1]).dose
plain = pronouns.odds(pronouns.plainly(lab, jobs), jobs)  # (occupations,)
given = {"vector": (antonym, honesty, fairness)}
given["random"] = [extract.random_like(vector, seed=0) for vector in given["vector"]]


# %% The three effects at every layer: a row for each item
def measured(kind, layer):
    """The rows of the three vectors of a kind at a layer."""
    of_antonyms, of_honesty, of_fairness = given[kind]
    logp = pronouns.asked(lab, jobs, vectors={"vector": of_fairness}, layers=[layer], coefficients=[strength])
    steered = pronouns.odds(logp[:, 0, 0, 0], jobs)
    found = {
        ANTONYMS: (antonyms.right(lab, alone, {"antonym": of_antonyms}, [layer], [c])[:, 0, 0, 0], range(len(alone))),
        HONESTY: (
            values.halves(lab, items, {"honesty": of_honesty}, layer)[:, 0],
            [item["scenario"] for item in items],
        ),
        FAIRNESS: (pronouns.falls(plain, steered), nouns),
    }
    return [
        {"what": what, "vector": kind, "depth": layer / config.n_layer, "item": item, "effect": effect}
        for what, (effects, of) in found.items() for effect, item in zip(effects, of, strict=True)
    ]  # fmt: skip


rows = [row for kind in given for i in lab.progress(layers, kind) for row in measured(kind, i)]

# %% Show it, beside the other models of the results folder
drawn, mine, told, lines = [], [], [], {"x": "depth", "y": "effect", "by": "vector", "over": "item"}
for what, unit in UNITS.items():
    some = [row for row in rows if row["what"] == what]
    drawn.append(figures.lines(
        lab.folder / f"10_{what.split()[0]}", some, **lines, xlabel="relative depth of the layer whose input is steered", ylabel=f"{what} ({unit})",
        caption=f"At which depth the vector works, in {lab.folder.name}; a random one of its norm beside it.",
    ))  # fmt: skip
    depth, (mean, low, high) = max(figures.curves(some, **lines)["vector"].items(), key=lambda point: point[1][0])
    mine += [f"{mean:.2f} [{low:.2f}, {high:.2f}]", f"{depth:.2f}"]
    told.append(f"{what} at most {mine[-2]}, at relative depth {mine[-1]}")
columns = ["model", "layers", "width", "heads", *(f"{name}{more}" for name in UNITS for more in ("", ", at depth"))]
models = record.models_beside(lab, [lab.folder.name, config.n_layer, config.width, config.n_head, *mine], columns)
lab.save(
    title="10. Architecture",
    question="At which depth do vectors work, and in which models?",
    protocol=f"The antonym vector x {c:g}, the {VALUE} vector from -1 to 1 tenth of the stream's norm and the fairness vector, {strength:g} tenths of the stream long, at every layer, on held-out pairs, scenarios and templates "
    "(coefficients chosen on training items). A model's best layer is that of these items, so the best effect is a little flattering.",
    finding=f"{lab.folder.name}, {config.n_layer} layers of width {config.width}: {'; '.join(told)}. Models compared: {len(models)}.",
    receipt=protocol.receipt(lab, alone, antonym, best, c),
    figures=drawn,
    tables=[{"caption": "The largest effect of each vector and the relative depth of its layer, by model.", "rows": models, "columns": columns}],
)  # fmt: skip
