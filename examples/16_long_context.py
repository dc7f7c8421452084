"""Long context: does a vector whose dose was chosen on short prompts hold behind a long one?

    python examples/16_long_context.py --model smollm2-135m-instruct      (or make beyond MODEL=...; --data FOLDER for a copy of the sets)

Those who steer long conversations report that the useful dose moves with length. Here the vectors of 16 public behaviours, each of another family, stand
behind 0 to 2,000 tokens of unrelated text: at a fixed coefficient, at a fixed share of the stream's norm, and at the statement's tokens alone. The effect is
on the odds of held-out statements, the cost is the loss of these, matching or not. nano cannot say such statements.
Expected: most of the effect stays; whether a fixed coefficient is a fixed dose depends on whether the stream's norm moves with the length.
"""

# %% Vectors of public behaviours, half the way up, a tenth of the norm that the stream has in short prompts
import numpy as np

from ministeer import metrics
from ministeer.lab import behaviours, claims, figures, long_context, persona
from ministeer.lab.experiment import Experiment
from ministeer.lab.long_context import FIXED, LENGTHS, WAYS

lab = Experiment.from_command_line("16_long_context", behaviours.options())
names, layer = lab.part(behaviours.one_a_family(persona.names())[::2]), behaviours.middle(lab.model)
sets = behaviours.asked(names, lab)
lengths = [n for n in LENGTHS if n < lab.model.config.context - 100]

# %% What each moves and costs behind so much text
cells = []  # (behaviours, lengths, ways)
for name in lab.progress(names, "behaviours"):
    training, held_out, _ = sets[name]
    vector = lab.vector(behaviours.tenth, pairs=training, layer=layer)
    given = {"vector": vector, "layer": layer, "pairs": held_out[: long_context.PAIRS], "name": name}
    cells.append([lab.cell(long_context.measured, length=n, **given) for n in lengths])
slopes, costs, norms, odds = (
    np.array([long_context.means(of, what) for of in cells]) for what in ("slopes", "cost", "norm", "odds")
)
kept = slopes[:, -1, 0] - 0.5 * slopes[:, 0, 0]
rows = [
    {"behaviour": name, "alone": float(slope[0, 0]), **{f"behind {n}, {way}": float(slope[-1, v]) for v, way in enumerate(WAYS) for n in lengths[-1:]},
     "odds alone": float(odd[0, 0]), f"odds behind {lengths[-1]}": float(odd[-1, 0])}
    for name, slope, odd in zip(names, slopes, odds, strict=True)
]  # fmt: skip
void = (
    None if lengths == [*LENGTHS] else f"the model's context is too short for {LENGTHS[-1]} tokens before a statement"
)
told = "; ".join(f"{way} {metrics.interval(slopes[:, -1, v])}" for v, way in enumerate(WAYS))

# %% Show it
axes = {"behaviour": names, "length": lengths, "added": WAYS}
lines = {"x": "length", "by": "added", "over": "behaviour", "xlabel": "tokens of other text before it"}
lab.save(
    title="16. Long context",
    question="Does a vector whose dose was chosen on short prompts hold behind a long one?",
    protocol=f"{len(names)} persona sets of Perez et al. 2022, of different families; vectors of {behaviours.TRAINING} pairs of statements, a tenth of the stream's norm in short prompts, at layer {layer}, added at every token ({FIXED}), rescaled to a tenth of the "
    f"norm behind the text, or added to the statement's tokens alone. Before the question stand {', '.join(map(str, lengths))} tokens of unrelated sentences; there are 36 of them, which repeat. Slope: half of what the odds of {long_context.PAIRS} held-out pairs of "
    "statements (nats) are more with the vector than with it taken away. Cost: what these statements' loss rises by, nats a token, mean of both signs.",
    finding=f"A tenth of the norm moves {metrics.interval(slopes[:, 0, 0])} nats alone; behind {lengths[-1]} tokens: {told}. The stream's norm there is {metrics.interval(norms[:, -1, 0] / norms[:, 0, 0])} of what it is alone. Cost at "
    f"every token: {metrics.interval(costs[:, 0, 0], 3)} nats a token alone, {metrics.interval(costs[:, -1, 0], 3)} behind them.",
    receipt=behaviours.receipt(lab.model, lab.tokenizer, sets[names[0]][0], layer),
    figures=[
        figures.lines(lab.folder / "16_slopes", figures.tidy(slopes, "slope", **axes), **lines, y="slope", ylabel="what the vector moves (nats)", caption="What is left of the effect behind other text."),
        figures.lines(lab.folder / "16_costs", figures.tidy(costs, "cost", **axes), **lines, y="cost", ylabel="rise of the statements' loss (nats a token)", caption="What it costs there."),
    ],
    tables=[figures.table(rows, caption="Each behaviour: what a tenth of the norm moves alone and behind the longest text, and the odds without it (nats).")],
    evidence={"long_kept": claims.evidence({0: kept.tolist()} if lengths == [*LENGTHS] else {}, void=void)},
)  # fmt: skip
