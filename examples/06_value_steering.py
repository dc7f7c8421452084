"""Value steering: six values, three levels of scenario. Which items does a vector move, and which the wrong way?

    python examples/06_value_steering.py --model nano     (`make reproduce` runs it; a minute on nano)

A vector for each value, from contrast pairs whose context differs, moves the answers in held-out scenarios: plain statements, short
scenarios, and complex ones with conflicting interests. Beside it random vectors of its norm, and the same said in the prompt.
"""

# %% Vectors, their layers from training scenarios; then what moves each held-out item
import numpy as np

from ministeer import extract, metrics
from ministeer.lab import claims, data, figures, protocol, values
from ministeer.lab.experiment import Experiment

LEVELS = ("plain", "short", "complex")
MULTIPLIERS = [-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5]  # Tan et al. 2024

lab = Experiment.from_command_line("06_value_steering")
SEEDS = lab.part(range(3))
rows, chosen = [], {}  # one row an item
for value in lab.progress(values.VALUES, "values"):
    held = lab.part(data.read("values.tsv", value=value, split="heldout"))
    vectors = [values.vector(lab, value, seed=seed) for seed in SEEDS]
    chosen[value] = layer = values.layer(lab, value, vectors[0])
    slopes = [values.slopes(lab, held, vector, layer, MULTIPLIERS) for vector in vectors]
    controls = [extract.random_like(vector.only([("pre", layer)]), seed=seed) for seed, vector in zip(SEEDS, vectors)]
    chance = np.mean([values.slopes(lab, held, control, layer, MULTIPLIERS) for control in controls], 0)
    told = [
        data.read("contexts.tsv", kind=f"instruction {value}", split="train", pole=p)[0]["text"]
        for p in ("positive", "negative")
    ]
    good, bad = (values.differences(lab, held, frame=text + " {p}")[:, 0] for text in told)
    for item, by_seed, by_chance, by_words in zip(held, np.transpose(slopes), chance, (good - bad) / 2, strict=True):
        rows.append(
            {**item, "slopes": by_seed, "random": by_chance, "told": by_words, "group": f"{value} {item['scenario']}"}
        )


# %% Show it
def some(level=None, value=None):
    """The items of a level and a value."""
    return [r for r in rows if level in (None, r["level"]) and value in (None, r["value"])]


def column(of, level=None, value=None):
    return [float(of(r)) for r in some(level, value)]


def scenarios(level=None):
    return [r["group"] for r in some(level)]


def interval(of, level=None):
    """(mean, low, high) over scenarios."""
    return metrics.bootstrap(column(of, level), seed=0, groups=scenarios(level))


def by_seed(of, level=None):
    return {s: column(of[s], level) for s in SEEDS}


steered, told, by_chance = (lambda r: r["slopes"][0]), (lambda r: r["told"]), (lambda r: r["random"])
wrong = {seed: (lambda r, seed=seed: r["slopes"][seed] < -1e-3) for seed in SEEDS}  # by more than rounding
above = {seed: (lambda r, seed=seed: r["slopes"][seed] - r["random"]) for seed in SEEDS}
unit = "logits per unit of the multiplier"
items = figures.strips(
    lab.folder / "06_items", {f"{v}, {level}": column(steered, level, v) for v in values.VALUES for level in LEVELS},
    xlabel=f"steerability ({unit})", caption="A dot is an item of a held-out scenario; left of zero are those moved the wrong way.",
)  # fmt: skip
asked = [{"prompt": row["prompt"]} for row in held]
shown = "{:+.2f} [{:+.2f}, {:+.2f}]".format
lab.save(
    title="6. Value steering",
    question="How far do value vectors move the answers in plain statements, short scenarios and complex ones, and which items the wrong way?",
    protocol=f"Six values, each vector from 32 training pairs whose context differs, {len(SEEDS)} draws of them; added at the last prompt token at "
    f"layers chosen on training scenarios ({', '.join(f'{v} {i}' for v, i in chosen.items())}). Steerability: slope of the logit difference of "
    f"two answers against the multiplier, -1.5 to 1.5. Controls: {len(SEEDS)} random vectors of equal norm; the first sentence of instruction in the prompt, "
    "half the difference between its two poles. Held-out scenarios; intervals over scenarios.",
    finding=f"Steerability ({unit}): " + "; ".join(f"{level} {shown(*interval(steered, level))}" for level in LEVELS)
    + f"; random vectors {shown(*interval(by_chance))}; told in the prompt {shown(*interval(told))}. Moved the wrong way: "
    + "; ".join(f"{level} {np.mean(column(wrong[0], level)):.0%}" for level in LEVELS) + " of items.",
    receipt=f"{value}: {protocol.receipt(lab, asked, vectors[0], layer)}",  # the last one; the others likewise
    figures=[items],
    tables=[{
        "caption": f"Steerability ({unit}) by value and level, in brackets the item moved least and the one moved most, and the share of items moved the wrong way.",
        "columns": ["value", "level", "items", "vector", "wrong way", "random", "told in the prompt"],
        "rows": [
            [v, level, len(column(steered, level, v)), shown(*figures.spread(column(steered, level, v))),
             f"{np.mean(column(wrong[0], level, v)):.0%}", *(f"{np.mean(column(of, level, v)):+.2f}" for of in (by_chance, told))]
            for v in values.VALUES for level in LEVELS
        ],
    }],
    evidence={
        "values": claims.evidence(by_seed(above, "plain"), scenarios("plain")),
        "inconsistent": claims.evidence(by_seed(wrong), scenarios()),
        "inconsistent_complex": claims.evidence(
            by_seed(wrong, "complex"), scenarios("complex"), by_seed(wrong, "plain"), scenarios("plain")),
    },
)  # fmt: skip
