"""Undone by words: how many sentences of the opposite persona undo a vector, and does it still work after them?

    python examples/14_undone_by_words.py --model smollm2-135m-instruct      (or make beyond MODEL=...; --data FOLDER for a copy of the sets)

Wies et al. 2023 (arXiv 2304.11082) show that a behaviour which a model can show at all is brought back by a long enough prompt. Here the model's answer begins
with up to 360 sentences of those who behave the other way, or with neutral ones of the same length, and goes on with a held-out statement; the vector of
the behaviour is added throughout. 31 public behaviours, one a family. nano cannot say such statements.
Expected: a few sentences outweigh a tenth of the stream's norm. If vector and words add up, the vector's slope is the same after them.
"""

# %% Vectors of public behaviours, half the way up, a tenth of the stream's norm long
import numpy as np

from ministeer import metrics
from ministeer.lab import behaviours, claims, figures, persona, words_against
from ministeer.lab.experiment import Experiment
from ministeer.lab.words_against import COUNTS, JUDGED, KINDS

lab = Experiment.from_command_line("14_undone_by_words", behaviours.options())
names, layer = lab.part(behaviours.one_a_family(persona.names())), behaviours.middle(lab.model)
sets = behaviours.asked(names, lab, most=COUNTS[-1])
others = {name: [other for _, other in training] for name, (training, _, _) in sets.items()}
counts = words_against.fitting(lab.model, lab.tokenizer, [*others.values()])

# %% The odds after sentences of both kinds, at -1, 0 and 1 tenths of the stream's norm
found, tokens = [], []  # (behaviours, kinds, counts, coefficients, pairs)
for name in lab.progress(names, "behaviours"):
    training, held_out, _ = sets[name]
    vector = lab.vector(behaviours.tenth, pairs=training[: behaviours.TRAINING], layer=layer)
    said = words_against.before(lab.tokenizer, name, others[name], counts)
    given = {"vector": vector, "layer": layer, "pairs": held_out[: words_against.PAIRS]}
    cells = [[lab.cell(words_against.measured, sentences=some, **given)[0] for some in said[kind]] for kind in KINDS]
    found.append([[cell["odds"] for cell in row] for row in cells])
    tokens.append([[cell["tokens"] for cell in row] for row in cells])
odds = np.array(found)

# %% What they undo, and what the vector still does
slopes = words_against.slopes(odds)  # (behaviours, kinds, counts)
rates = [words_against.exchange(one, counts) for one in odds]
at = counts.index(JUDGED)
undo = [float(words_against.undone(one)[at]) for one in odds]
kept = slopes[:, 0, at] - 0.5 * slopes[:, 1, at]
rows = [
    {"behaviour": name, "sentences that undo a tenth": f"{rate:.1f}" if rate < np.inf else f"more than {counts[-1]}",
     "slope alone": float(slope[1, 0]), f"after {JUDGED} opposite": float(slope[0, at]), f"after {JUDGED} neutral": float(slope[1, at])}
    for name, rate, slope in zip(names, rates, slopes, strict=True)
]  # fmt: skip
ends, longest = np.array(tokens)[:, :, at].mean(0), np.array(tokens)[:, 0, -1].mean()
fewer = sum(rate <= counts[-1] for rate in rates)

# %% Show it
lines = {"x": "sentences", "by": "said before", "over": "behaviour", "xlabel": "sentences said before", "log": True}
axes = {"behaviour": names, "said before": KINDS, "sentences": counts}
lab.save(
    title="14. Undone by words",
    question="How many sentences of the opposite persona undo a vector, and does it still work after them?",
    protocol=f"{len(names)} persona sets of Perez et al. 2022, the first of each family; vectors of {behaviours.TRAINING} pairs of statements, a tenth of the stream's norm, added at every token at layer {layer}. The model's answer begins with sentences "
    f"that do not match the behaviour, those of the training pairs first, or with neutral ones of as many tokens ({ends[0]:.0f} and {ends[1]:.0f} for {JUDGED}, {longest:,.0f} for {counts[-1]}), and goes on with one of {words_against.PAIRS} held-out pairs of statements. Odds: log p(matching) - log p(other), whole "
    "statements. Slope: half of what they are more with the vector than with it taken away.",
    finding=f"In {fewer} of {len(names)} behaviours some number of sentences up to {counts[-1]} undoes a vector of a tenth of the norm, at {JUDGED} in {sum(x > 0 for x in undo)}. Slope alone {metrics.interval(slopes[:, 1, 0])} nats, after {JUDGED} opposite sentences "
    f"{metrics.interval(slopes[:, 0, at])}, after as many neutral ones {metrics.interval(slopes[:, 1, at])}; after {counts[-1]} of either kind {metrics.interval(slopes[:, 0, -1])} and {metrics.interval(slopes[:, 1, -1])}.",
    receipt=behaviours.receipt(lab.model, lab.tokenizer, sets[names[0]][0][: behaviours.TRAINING], layer),
    figures=[
        figures.lines(lab.folder / "14_odds", figures.tidy(odds[:, :, :, 2].mean(-1), "odds", **axes), **lines, y="odds", ylabel="odds of the steered model (nats)",
                      caption="What the steered model prefers to say after sentences of both kinds."),
        figures.lines(lab.folder / "14_slopes", figures.tidy(slopes, "slope", **axes), **lines, y="slope", ylabel="what the vector moves (nats a tenth of the norm)",
                      caption="What the vector still does after them."),
    ],
    tables=[figures.table(rows, caption="Each behaviour: sentences that undo a tenth of the vector, and what the vector moves (nats).")],
    evidence={"words_undo": claims.evidence({0: undo}), "words_added": claims.evidence({0: kept.tolist()})},
)  # fmt: skip
