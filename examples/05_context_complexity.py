"""Context complexity: when a context grows, does the effect of a vector fall, and does the model itself fail there too?

    python examples/05_context_complexity.py --model nano     (`make reproduce` runs it; half a minute on nano)

The same queries in contexts of five kinds and rising levels: distracting sentences, clauses in clauses, negations, sentences that ask
for the same word, pairs of another task. Against the word alone, in the same context: the word with the antonym vector, after five
demonstrations, and with the task said in words. Where only the vector fails, steering fails; where all fail, the model does.
"""

# %% The ways of asking for the opposite
import random

import numpy as np

from ministeer import metrics
from ministeer.lab import antonyms, data, figures, protocol
from ministeer.lab.antonyms import SHOWN, VECTOR, log_p
from ministeer.lab.complexity import LEVELS, complexity_claim, complicated, falls
from ministeer.lab.experiment import Experiment

STRUCTURE, NAMED, SAID, SHOTS, ASKED = "question_answer", "opposite_instruction", "told in words", 5, 40

lab = Experiment.from_command_line("05_context_complexity")
SEEDS = list(lab.part(range(3)))
tasks = data.answerable(lab.tokenizer)
queries = antonyms.queries(lab, "heldout", ASKED)


def asked(kind, level, way=VECTOR):
    """The queries in a context of a kind and level, the same demonstrations and sentences at every level."""
    items = []
    for seed, query in enumerate(queries):
        train, others = (
            random.Random(seed).sample([pair for pair in tasks[task]["train"] if not {*pair} & {*query}], 5)
            for task in ("antonym", "synonym")
        )
        item = complicated(
            query, train[:SHOTS] if way == SHOWN else [], structure=NAMED if way == SAID else STRUCTURE,
            kind=kind, level=level, seed=seed, others=others,
        )  # fmt: skip
        items.append(antonyms.passing(lab.tokenizer, item))
    return items


# %% Layer and dose on training pairs without any context; then every kind, level and way: a row for each query
made = {f"{seed}": antonyms.vector(lab, STRUCTURE, protocol.sites(lab), seed=seed) for seed in SEEDS}
layer, dose = antonyms.setting(lab, STRUCTURE, made["0"])
rows = []
for kind, levels in lab.progress(LEVELS.items(), "kinds"):
    for level in levels[::2]:
        plain, shown, said = (asked(kind, level, way) for way in (VECTOR, SHOWN, SAID))
        steered = log_p(lab, plain, made, [layer], [0.0, dose])[:, :, 0]  # (queries, seeds, 2)
        alone = steered[:, 0, 0]
        gains = [*(steered[:, :, 1].T - alone), *(log_p(lab, items)[:, 0, 0, 0] - alone for items in (shown, said))]
        hits = [antonyms.right(lab, plain, {"0": made["0"]}, [layer], [dose]), antonyms.right(lab, shown)]
        hits = dict(zip((VECTOR, SHOWN), np.array(hits)[:, :, 0, 0, 0], strict=True))
        ways = [*((VECTOR, seed) for seed in SEEDS), (SHOWN, 0), (SAID, 0)]
        rows += [
            {"kind": kind, "level": level, "way": way, "seed": seed, "pair": item["pair"], "gain": g, "right": r}
            for (way, seed), some in zip(ways, gains, strict=True)
            for item, g, r in zip(plain, some.tolist(), hits.get(way, alone * np.nan).tolist(), strict=True)
        ]


# %% Show it
def told(way, kind, end, measure="gain"):
    """The mean of a measure at the lowest or the highest level of a kind."""
    return float(
        np.mean(
            [
                r[measure]
                for r in rows
                if (r["way"], r["kind"], r["level"], r["seed"]) == (way, kind, LEVELS[kind][end], 0)
            ]
        )
    )


ways = (VECTOR, SHOWN, SAID)
lost = {way: {kind: [*of.values()] for kind, of in falls(rows, way).items()} for way in ways}
lab.save(
    title="5. Context complexity",
    question="When the context grows more complex, does the effect of a vector fall, and does the model itself fail there too?",
    protocol=f"{len(queries)} held-out pairs, drawn from all, in contexts of {len(LEVELS)} kinds; within a kind only the level changes. Gain: log p(opposite) less that of the word alone in the same context. The vector is "
    f"from plain lists, {dose:g} tenths of the stream's norm at layer {layer}, chosen on training pairs without context. {len(SEEDS)} draws of the lists. Intervals over pairs.",
    finding="Nats of the gain that are lost from the lowest to the highest level, mean of the kinds: " + "; ".join(f"{way} {metrics.interval(np.mean([*lost[way].values()], 0))}" for way in ways)
    + ". By kind, the vector's loss less that of demonstrations: " + "; ".join(f"{kind} {metrics.interval(np.subtract(lost[VECTOR][kind], lost[SHOWN][kind]))}" for kind in LEVELS) + ".",
    receipt=protocol.receipt(lab, plain, made["0"], layer, dose),
    figures=[
        figures.lines(lab.folder / f"05_{kind}", [r for r in rows if r["kind"] == kind], x="level", y="gain", by="way", over="pair", xlabel=f"level of {kind}", ylabel="gain in log p(opposite), nats",
                      caption=f"{kind.capitalize()}: does the vector lose more than demonstrations do?")
        for kind in LEVELS
    ],
    tables=[figures.table([
        {"kind": kind, **{f"{way}, {at}": told(way, kind, end) for way in ways for at, end in (("lowest", 0), ("highest", -1))},
         **{f"right: {way}, {at}": told(way, kind, end, "right") for way in (VECTOR, SHOWN) for at, end in (("lowest", 0), ("highest", -1))}}
        for kind in LEVELS
    ], caption="Gain in log p(opposite), nats, and the share of likeliest tokens that begin an opposite, at the lowest and the highest level.")],
    evidence=complexity_claim(rows, SEEDS),
)  # fmt: skip
