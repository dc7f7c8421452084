"""Context complexity: when a context grows, does the effect of a vector fall, and does the model itself fail there too?

    python examples/05_context_complexity.py --model nano     (`make reproduce` runs it; half a minute on nano)

The same queries in contexts of five kinds and rising levels: distracting sentences, clauses in clauses, negations, sentences that ask
for the same word, pairs of another task. Against the word alone, in the same context: the word with the antonym vector, after five
demonstrations, and with the task said in words. Where only the vector fails, steering fails; where all fail, the model does.
Expected on nano: the vector loses effect only after distracting sentences; interleaved pairs rob demonstrations of theirs.
"""

# %% The ways of asking for the opposite
import random

import numpy as np

from ministeer.lab import antonyms, data, figures, protocol
from ministeer.lab.antonyms import SHOWN, VECTOR
from ministeer.lab.complexity import LEVELS, complexity_claims, complicated, falls
from ministeer.lab.experiment import Experiment
from ministeer.metrics import interval

STRUCTURE, NAMED, SAID, SHOTS, ASKED = "question_answer", "opposite_instruction", "told in words", 5, 40

lab = Experiment.from_command_line("05_context_complexity")
SEEDS = list(lab.part(range(3)))
tasks = data.answerable(lab.tokenizer)
queries = antonyms.queries(lab, "heldout", ASKED)


def asked(kind, level, way=VECTOR):
    """The queries in a context of a kind and level, the same demonstrations and sentences at every level."""
    form, items = {"structure": NAMED if way == SAID else STRUCTURE, "kind": kind, "level": level}, []
    for seed, query in enumerate(queries):
        shown, others = (
            random.Random(seed).sample([pair for pair in tasks[task]["train"] if not {*pair} & {*query}], SHOTS)
            for task in ("antonym", "synonym")
        )
        item = complicated(query, shown if way == SHOWN else [], others=others, seed=seed, **form)
        items.append(antonyms.passing(lab.tokenizer, item))
    return items


# %% Layer and dose on training pairs without any context; then every kind, level and way: a row for each query
made = {f"{seed}": antonyms.vector(lab, STRUCTURE, protocol.sites(lab), seed=seed) for seed in SEEDS}
layer, dose = antonyms.setting(lab, STRUCTURE, made["0"])
rows = []
for kind, levels in lab.progress(LEVELS.items(), "kinds"):
    for level in levels[::2]:
        plain = asked(kind, level)
        some = [{"way": VECTOR, **row} for row in antonyms.measured(lab, plain, made, [layer], dose)]
        for way in (SHOWN, SAID):
            some += [{"way": way, "vector": 0, **row} for row in antonyms.ability(lab, plain, asked(kind, level, way))]
        rows += [{"kind": kind, "level": level, "seed": int(row["vector"]), **row} for row in some]


# %% Show it
def told(kind, way, end):
    at = (kind, way, LEVELS[kind][end])
    return antonyms.told([row for row in rows if (row["kind"], row["way"], row["level"]) == at])


ways = (VECTOR, SHOWN, SAID)
lost = {way: np.array([[*of.values()] for of in falls(rows, way).values()]) for way in ways}  # (kinds, pairs)
beyond = dict(zip(LEVELS, lost[VECTOR] - lost[SHOWN], strict=True))
lab.save(
    title="5. Context complexity",
    question="When the context grows more complex, does the effect of a vector fall, and does the model itself fail there too?",
    protocol=f"{len(queries)} held-out pairs, drawn from all, in contexts of {len(LEVELS)} kinds; within a kind only the level changes. Gain: log p(opposite) less that of the word alone in the same context. The vector is "
    f"from plain lists, {dose:g} tenths of the stream's norm at layer {layer}, chosen on training pairs without context. {len(SEEDS)} draws of the lists. Intervals over pairs.",
    finding="Nats of the gain that the vector loses from the lowest to the highest level, less what demonstrations lose: " + "; ".join(f"{kind} {interval(beyond[kind])}" for kind in LEVELS)
    + ". The kinds pull apart; their mean, " + "; ".join(f"{way} {interval(lost[way].mean(0))}" for way in ways) + ", says little.",
    receipt=protocol.receipt(lab, plain, made["0"], layer, dose),
    figures=[
        figures.lines(lab.folder / f"05_{kind}", [r for r in rows if r["kind"] == kind], x="level", y="gain", by="way", over="pair", xlabel=f"level of {kind}", ylabel="gain in log p(opposite), nats",
                      caption=f"{kind.capitalize()}: does the vector lose more than demonstrations do?") for kind in LEVELS
    ],
    tables=[figures.table([{"kind": kind, "way": way, "lowest level": told(kind, way, 0), "highest level": told(kind, way, -1)} for kind in LEVELS for way in ways],
                          caption="Gain in log p(opposite), nats; right: the likeliest token begins an opposite.")],
    evidence=complexity_claims(rows, SEEDS),
)  # fmt: skip
