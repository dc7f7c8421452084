"""The price of steering: how much moves for how much damage, and do both follow their laws?

    python examples/13_price_of_steering.py --model smollm2-135m-instruct      (or make beyond MODEL=...; --data FOLDER for a copy of the sets)

Wolf et al. 2024 (arXiv 2401.16332) predict that the behaviour grows in proportion to the vector's norm and that helpfulness falls with its square, so that
a small dose is nearly free. Here the vectors of 31 public behaviours, one a family, are added in doses from a fortieth to four fifths of the stream's norm:
the effect is on the odds of held-out statements, the cost is the loss of unrelated text. nano cannot say such statements.
Expected: both laws for small doses, as Taylor expansion says; figures show where they end. `calibrate(model, texts, steer, damage=0.05)` finds the dose
with that cost for a vector of your own.
"""

# %% Vectors of public behaviours, half the way up, a tenth of the stream's norm long
import numpy as np

from ministeer import metrics
from ministeer.lab import behaviours, claims, data, figures, persona, price
from ministeer.lab.answers import disturbance
from ministeer.lab.experiment import Experiment

BUDGETS = (0.01, 0.05, 0.2)  # nats a token

lab = Experiment.from_command_line("13_price_of_steering", behaviours.options())
names, layer = lab.part(behaviours.one_a_family(persona.names())), behaviours.middle(lab.model)
sets = behaviours.asked(names, lab)
texts = data.passages(split="heldout")

# %% What each moves, and what it costs, at every dose
effects, costs = [], []  # (behaviours, doses)
for name in lab.progress(names, "behaviours"):
    training, held_out, _ = sets[name]
    vector = lab.vector(behaviours.tenth, pairs=training, layer=layer)
    moved = lab.cell(price.moved, vector=vector, layer=layer, pairs=held_out[: price.PAIRS])
    changed = lab.cell(disturbance, texts=texts, vectors={name: vector}, layer=layer, coefficients=price.coefficients())
    effects.append([float(np.mean(row["effects"])) for row in moved])
    costs.append(price.rises([row["perplexity"][0] for row in changed]).tolist())

# %% The exponents of small doses, how far each law holds, and what a budget buys
small = price.DOSES[: price.SMALL]
rows = []
for name, effect, cost in zip(names, effects, costs, strict=True):
    dose, bought = price.affordable(effect, cost, BUDGETS[1])
    rows.append({
        "behaviour": name, "exponent of the effect": price.exponent(effect[: price.SMALL], small), "linear to": f"{price.holds_to(effect, 1):.3g}",
        "exponent of the cost": price.exponent(cost[: price.SMALL], small), "square to": f"{price.holds_to(cost, 2):.3g}",
        "dose for the budget": f"{dose:.2g}", "moves there (nats)": f"{bought:.2g}",
    })  # fmt: skip
moves, pays = ([row[f"exponent of the {what}"] for row in rows] for what in ("effect", "cost"))
of = {"behaviour": names, "dose": price.DOSES}
told = "; ".join(
    f"{budget:g} nats a token buys {metrics.interval([b for _, b in found], 1)} nats at {np.mean([d for d, _ in found]):.2f} of the norm"
    for budget in BUDGETS
    if len(found := [f for f in map(price.affordable, effects, costs, [budget] * len(names)) if f[0] == f[0]]) > 2
)

# %% Show it
shared = {"x": "dose", "by": "what", "over": "behaviour", "xlabel": "dose (share of the stream's norm)"}
moving, paying = (
    figures.tidy(np.array(values)[:, :, None], what, **of, what=[what])
    for what, values in (("effect", effects), ("cost", costs))
)
lab.save(
    title="13. The price of steering",
    question="How much moves for how much damage: does the effect grow with the dose and its cost with the dose's square?",
    protocol=f"{len(names)} persona sets of Perez et al. 2022, the first of each family; vectors of {behaviours.TRAINING} pairs of statements, added at every token at layer {layer}. Effect: half of what the odds of {price.PAIRS} held-out "
    f"pairs of statements (nats) are more with the vector than with it taken away. Cost: what the loss of {len(texts)} unrelated texts rises by, nats a token, mean of both signs. Exponents: least squares on logarithms, doses {small[0]:g} to {small[-1]:g}; "
    f"a law holds to the last dose at which nothing is further than {price.OFF:.0%} from what the smallest dose foretells. Budget of the table: {BUDGETS[1]:g} nats a token.",
    finding=f"Exponents over behaviours: effect {metrics.interval(moves)}, cost {metrics.interval(pays)}. {told}.",
    receipt=behaviours.receipt(lab.model, lab.tokenizer, sets[names[0]][0], layer),
    figures=[
        figures.lines(lab.folder / "13_effect", moving, **shared, y="effect", ylabel="effect (nats)", caption="What the vectors move, mean over behaviours."),
        figures.lines(lab.folder / "13_cost", paying, **shared, y="cost", ylabel="rise of the loss (nats a token)", caption="What they cost in unrelated text."),
    ],
    tables=[figures.table(rows, caption=f"Each behaviour: exponents, the dose to which each law holds, and the dose that costs {BUDGETS[1]:g} nats a token.")],
    evidence={
        "price_linear": claims.evidence({0: [0.25 - abs(k - 1) for k in moves]}),
        "price_quadratic": claims.evidence({0: [0.5 - abs(k - 2) for k in pays]}),
    },
)  # fmt: skip
