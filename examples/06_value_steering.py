"""Value steering: six values, three levels of scenario. Is it the value that moves, and which items move the wrong way?

    python examples/06_value_steering.py --model nano     (`make reproduce` runs it; a minute on nano)

A vector for each value, from contrast pairs of training scenarios, is added while the model says how a held-out scenario goes on: plain statements,
short scenarios, complex ones in which two values are in conflict. Beside it, at the same share of the stream's norm: the other values' vectors, one
of pleasant and unpleasant words (is it the value, or does everything get nicer?), and random ones. Expected on nano: every item moves the right way,
but other values' vectors do most of the same work. Words move more than a tenth of the stream does, and less than the vector at equal disturbance.
"""

# %% For each value: how its vector is read and at which layer it is added, chosen on training scenarios; then what moves held-out ones
from ministeer import metrics
from ministeer.lab import figures, protocol, values
from ministeer.lab.experiment import Experiment
from ministeer.lab.values import LEVELS, VALUES, tidy

lab = Experiment.from_command_line("06_value_steering")
SEEDS = list(lab.part(range(3)))
form = "chat" if lab.tokenizer.chat_template else "plain"  # of the text; the level "plain" is of the scenario
rows, chosen, turned, words = [], {}, [], []
for value in lab.progress(VALUES, "values"):
    reading, layer = chosen[value] = values.setting(lab, value)
    held = values.items(lab, value, "heldout")
    plain, once = [row for row in held if row["level"] == "plain"], values.first(held)
    own = {f"own {seed}": values.vector(lab, value, seed=seed, reading=reading) for seed in SEEDS}
    before = values.moved(lab, held, None)[:, 0, 0, 0]  # (items,)
    ends = values.moved(lab, held, own, [layer], values.ENDS)[:, :, 0]  # (items, vectors, 2)
    rows += tidy(held, own, ends @ [-0.5, 0.5])  # half the difference is the slope
    turned += list(ends[before < 0, 0, 1] > 0)  # of those whose negative answer was preferred
    # its controls: pleasant words, other values, random vectors
    rows += tidy(held, ["valence"], values.halves(lab, held, {"": values.valence(lab, value, reading)}, layer))
    others = {v: values.vector(lab, v, seed=0, reading=reading) for v in VALUES if v != value}
    rows += tidy(plain, others, values.halves(lab, plain, others, layer))
    rows += values.chance(lab, value, values.first(plain), own["own 0"], layer)

    # the value said in words, and the vector at the dose that changes unrelated text as much
    said = values.said_best(lab, value, form)
    words.append({"value": value, **values.as_loud(lab, said, own["own 0"], layer, form)})
    loud = values.halves(lab, once, own, layer, form, words[-1]["dose of equal KL"])
    rows += tidy(once, [name.replace("own", "loud") for name in own], loud, form)
    rows += tidy(held, ["told"], values.told(lab, said, held, "plain")[:, None])
    if form == "chat":
        rows += tidy(once, ["told"], values.told(lab, said, once, form)[:, None], form)
        rows += tidy(once, own, values.halves(lab, once, own, layer, form), form)


# %% Show it
def of(vector, level=None, form="plain", value=None):
    """The mean slope of some rows, its interval over scenarios, and the share of items moved the wrong way, as text."""
    names, wanted = VALUES if vector == "others" else [vector], {"form": form, "level": level, "value": value}
    some = [r for r in rows if r["vector"] in names and all(r[key] == x for key, x in wanted.items() if x)]
    wrong = sum(r["slope"] < -values.ROUNDING for r in some) / max(1, len(some))
    mean = metrics.interval([r["slope"] for r in some], groups=[r["group"] for r in some]) if some else ""
    return f"{mean}, {wrong:.0%} the wrong way" if some else ""


random = [row for row in rows if row["vector"].startswith("random")]
(single,) = figures.curves(random, x="form", y="slope", by="vector").values()  # mean, lowest and highest of them
columns = {"vector": "own 0", "valence": "valence", "other values": "others", "in words, nats": "told"}
lab.save(
    title="6. Value steering",
    question="How far do value vectors move plain statements, short scenarios and complex ones, is it the value, and which items go the wrong way?",
    protocol="Steerability: half the difference in log p(positive answer) - log p(negative answer), whole answers, between a tenth of the stream's norm and minus a tenth, added at every "
    f"token. Reading and layer: {', '.join(f'{v} {r}, {i}' for v, (r, i) in chosen.items())}. {len(SEEDS)} draws of the pairs. Controls: other values, valence, random vectors of "
    "the stream's covariance, each with both signs, and the value said in words (half the difference of its poles; of four sentences the one that moves training scenarios most). Intervals over scenarios.",
    finding="Nats for a tenth of the stream, mean of six values that differ much: " + "; ".join(f"{level} {of('own 0', level)}" for level in LEVELS)
    + f". All items by valence {of('valence')}; plain ones by other values' vectors {of('others', 'plain')}, by single random ones {single['plain'][1]:.2f} to {single['plain'][2]:.2f}. "
    f"Of {len(turned)} items whose negative answer was likelier, {sum(turned) / max(1, len(turned)):.0%} turn at a tenth. "
    f"{'In the chat template, at' if form == 'chat' else 'At'} the dose that changes unrelated text as much as words do, nats: the vector {of('loud 0', form=form)}; words {of('told', form=form)}.",
    receipt=f"{value}: {protocol.receipt(lab, held, own['own 0'], layer, where=values.WHERE)}",  # the last one; the others likewise
    figures=[figures.strips(lab.folder / "06_items", [{**r, "which": f"{r['value']}, {r['level']}"} for r in rows if (r["vector"], r["form"]) == ("own 0", "plain")],
                            x="slope", by="which", xlabel="nats for a tenth of the stream's norm",
                            caption="A dot is an item of a held-out scenario; left of zero are those that the value's vector moves the wrong way.")],
    tables=[
        figures.table([{"value": v, "level": level, **{name: of(by, level, value=v) for name, by in columns.items()}} for v in VALUES for level in LEVELS],
                      caption="Nats for a tenth of the stream's norm by value and level, and the share of items moved the wrong way; other values on plain items alone."),
        figures.table(words, digits=3, caption="The sentence that says the value best, what it costs in nats of KL on unrelated text and what a neutral one costs, what a tenth of the stream does, and at how many tenths the vector costs as much as the sentence."),
    ],
    evidence=values.claims_of(rows, SEEDS, form),
)  # fmt: skip
