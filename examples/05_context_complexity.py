"""Context complexity: when a context grows, does the effect of a vector fall, and does the model itself fail there too?

    python examples/05_context_complexity.py --model nano     (`make reproduce` runs it; half a minute on nano)

The same queries in contexts of five kinds and rising levels: distracting sentences, clauses in clauses, negations, sentences that ask
for the same word, pairs of another task. Side by side: the word alone, the word with the antonym vector, with five demonstrations,
and with the task said in words. Where only the vector fails, steering fails; where all fail, the model does.
"""

# %% The ways of asking for the opposite
from functools import partial

import numpy as np

from ministeer import metrics
from ministeer.lab import antonyms, claims, data, figures, protocol
from ministeer.lab.complexity import LEVELS, complicated
from ministeer.lab.experiment import Experiment

STRUCTURE, NAMED, SHOTS, ASKED = "question_answer", "opposite_instruction", 5, 40
ALONE, VECTOR, SHOWN, SAID = "the word alone", "with the vector", f"{SHOTS} demonstrations", "told in words"

lab = Experiment.from_command_line("05_context_complexity")
SEEDS = lab.part(range(3))
tasks = data.answerable(lab.tokenizer)
train, held_out = tasks["antonym"]["train"], lab.part(tasks["antonym"]["heldout"][:ASKED])


def asked(way, kind, level):
    """The held-out queries in a context of a kind and level, the same demonstrations and sentences at every level."""
    items = []
    for seed, query in enumerate(held_out):
        rng = np.random.default_rng(seed)
        pairs = [train[i] for i in rng.permutation(len(train)) if not {*train[i]} & {*query}]
        synonyms = tasks["synonym"]["train"]
        form = {"structure": NAMED if way == SAID else STRUCTURE, "kind": kind, "level": level, "seed": seed}
        others = [synonyms[i] for i in rng.permutation(len(synonyms)) if not {*synonyms[i]} & {*query}][:4]
        items.append(complicated(query, pairs[:SHOTS] if way == SHOWN else [], others=others, **form))
    return items


# %% Layer and coefficient on training pairs without any context; then every kind, level and way
vectors = {seed: antonyms.vector(lab, STRUCTURE, protocol.sites(lab), seed=seed) for seed in SEEDS}
layer, c = antonyms.setting(lab, STRUCTURE, vectors[0])
found = {}  # (way, kind, level) -> whether each query is right; of the vector also by seed
for kind, levels in lab.progress(LEVELS.items(), "kinds"):
    for level in levels:
        for way in (ALONE, SHOWN, SAID):
            found[way, kind, level] = antonyms.answered(lab, asked(way, kind, level))[:, 0]
        for seed in SEEDS if level in (levels[0], levels[-1]) else (0,):
            steered = antonyms.answered(lab, asked(VECTOR, kind, level), vectors[seed], layer, [c])
            found[seed, kind, level] = steered[:, 0]
        found[VECTOR, kind, level] = found[0, kind, level]

# %% Show it
ways = (VECTOR, SHOWN, SAID, ALONE)
pairs = [" ".join(sorted(query)) for query in held_out]  # each is asked both ways round
drawn = [
    figures.lines(
        lab.folder / f"05_{kind}", levels, {way: [metrics.bootstrap(found[way, kind, i], seed=0, groups=pairs) for i in levels] for way in ways},
        xlabel=f"level of {kind}", ylabel="answers that are the opposite",
        caption=f"{kind.capitalize()}: {len(held_out)} held-out pairs, 95 % bands over pairs; vector at layer {layer}, x {c:g}.",
    )
    for kind, levels in LEVELS.items()
]  # fmt: skip


def fall(way, kind):
    """Of each query, right at the lowest level less right at the highest; of the vector, what it adds to the word alone."""
    low, high = LEVELS[kind][0], LEVELS[kind][-1]
    lost = found[way, kind, low] - found[way, kind, high]
    return lost if way in (ALONE, SHOWN, SAID) else lost - (found[ALONE, kind, low] - found[ALONE, kind, high])


falls = {way: np.mean([fall(way, kind) for kind in LEVELS], 0) for way in (VECTOR, SHOWN, SAID)}
interval = partial(metrics.interval, groups=pairs)
lab.save(
    title="5. Context complexity",
    question="When the context grows more complex, does the effect of a vector fall, and does the model itself fail there too?",
    protocol=f"{len(held_out)} held-out pairs in contexts of {len(LEVELS)} kinds; within a kind only the level changes. The vector is taken from plain lists, "
    f"at layer {layer}, x {c:g}, chosen on training pairs without context. {len(SEEDS)} draws of the lists. Intervals over pairs.",
    finding="Share of answers lost from the lowest to the highest level, mean of the kinds (of the vector, what it adds to the word alone): "
    + "; ".join(f"{way} {interval(falls[way])}" for way in falls) + ". By kind, with the vector: "
    + "; ".join(f"{kind} {interval(fall(VECTOR, kind))}" for kind in LEVELS) + ".",
    receipt=protocol.receipt(lab, asked(VECTOR, "clauses", 4), vectors[0], layer, c),
    figures=drawn,
    tables=[{
        "caption": "Answers that are the opposite, at the lowest and the highest level of each kind.",
        "columns": ["kind", *(f"{way}, {end}" for way in ways for end in ("lowest", "highest"))],
        "rows": [[kind, *(f"{found[way, kind, levels[end]].mean():.2f}" for way in ways for end in (0, -1))] for kind, levels in LEVELS.items()],
    }],
    evidence={"complexity": claims.evidence({s: np.mean([fall(s, k) for k in LEVELS], 0) for s in SEEDS}, pairs)},
)  # fmt: skip
