"""Facts and overcorrection: what does it cost to make pronouns more alike?

    python examples/08_facts_and_overcorrection.py --model nano     (`make reproduce` runs it; 20 seconds on nano)

The stronger steering of experiment 7, at its dose, on what should stay as it is: facts ("The capital of France is"), and nouns whose meaning fixes
the pronoun ("The queen thought that"), none of which made the direction of gender. Random vectors act at the same layer and dose; each one's cost
is measured, then averaged. A dose says little, so costs are also given where a quarter and half of the spread between occupations are gone.
On nano that dose removes nine tenths of the spread; facts lose .002, and queens .46 of their "she", which is .05 where half is gone.
"""

# %% The steering of experiment 7 that removes more, at its dose: what each draw of the vector removes of the spread
from ministeer.lab import claims, facts, figures, pronouns, tradeoff
from ministeer.lab.experiment import Experiment
from ministeer.metrics import interval

lab = Experiment.from_command_line("08_facts_and_overcorrection")
SEEDS, SHARES = lab.part(range(3)), (0.25, 0.5)
chosen = pronouns.choose(lab)
removed = {seed: float(tradeoff.removed(lab, chosen, [chosen.dose], seed=seed)[0]) for seed in SEEDS}

# %% What it costs there, and what random vectors cost in its place
asked = {
    "truth": facts.prompts(lab, most=24),
    "pronoun": pronouns.definitional(lab, pronouns.nouns()[1], "heldout", kinds=["plain"]),
}
groups = {"truth": [i["relation"] for i in asked["truth"]], "pronoun": [i["subject"] for i in asked["pronoun"]]}
before = {name: pronouns.plainly(lab, items) for name, items in asked.items()}  # (I, W) log-probabilities of answers
randoms = chosen.settings(chosen.way.make(lab, 0)) | {"randoms": pronouns.placebos(lab)}
lost, random, chance = {}, {}, {}
for name, items in asked.items():
    random[name] = pronouns.asked(lab, items, **randoms)[:, :, 0, 0]  # (I, vectors, W)
    chance[name] = facts.lost(before[name], random[name], groups[name])  # (groups, vectors)
    after = {s: chosen.asked(lab, items, seed=s)[:, 0] for s in SEEDS}  # (I, W)
    lost[name] = {s: facts.lost(before[name], logp, groups[name]) for s, logp in after.items()}  # (groups,)
count = len(chance["truth"][0])

# %% A row for each way at its dose and for each share, this one's first
others = [way for way in pronouns.WAYS if way != chosen.way and not pronouns.missing(lab, way)]
table = tradeoff.costs(lab, chosen, SHARES, asked, before)
each = [facts.costs(before, {name: logp[:, v] for name, logp in random.items()}) for v in range(count)]
table.append({"steered": f"random, mean of {count}", "dose": chosen.dose, **facts.averaged(each)})
for way in others:
    table += tradeoff.costs(lab, pronouns.choose(lab, [way]), SHARES, asked, before)

# %% Show it
dots, grid = [], [0.0, *chosen.way.doses]
curve = tradeoff.removed(lab, chosen, grid)
for name, by in (("truth", "facts"), ("pronoun", "definitional nouns")):
    kept = facts.truth(chosen.asked(lab, asked[name], grid)).mean(0)
    dots += [{"removed": r, "kept": k, "by": by} for r, k in zip(curve, kept)]
said = {name: f"{interval(lost[name][0], 3)} (random {chance[name].mean():.3f})" for name in asked}
void = pronouns.void(lab) or tradeoff.void(list(removed.values()))
lab.save(
    title="8. Facts and overcorrection",
    question="What does it cost to make pronouns more alike?",
    protocol=f"Of the two ways of experiment 7 the one that removes more of the spread of the occupations it is chosen on ({chosen}), at that dose, {len(SEEDS)} draws. "
    f"Truth: the probability of the true answer among it and three false ones, scored whole, of {len(asked['truth'])} facts, of each relation those with the shortest answers. Pronoun: that of the right one of he and she after {len(asked['pronoun'])} prompts of definitional nouns, none of "
    f"those that the direction of gender is made from. {count} random vectors with the stream's covariance, at the same layer and dose. Facts are grouped by relation, prompts by noun.",
    finding=f"At the dose of experiment 7 {removed[0]:.0%} of the spread of the tested occupations is gone, {said['truth']} of the probability of the truth is lost, and {said['pronoun']} of that of the right pronoun of nouns whose meaning fixes it.",
    receipt=chosen.receipt(lab, asked["truth"]),
    figures=[figures.dots(lab.folder / "08_trade_off", dots, x="removed", y="kept", by="by", joined=True, xlabel="share of the spread removed", ylabel="probability of what is right",
                          caption=f"Doses from 0 to {chosen.way.doses[-1]:g}. What stays level costs nothing.")],
    tables=[
        figures.table(table, digits=3, caption=f"Each way at its dose, then where {' and '.join(f'{s:.0%}' for s in SHARES)} of the spread are removed (straight lines between doses), or the most that ever is. Truth and pronoun: lost is the fall of the right answer's probability, flipped the share of "
                      f"items of which another becomes the likeliest. Unrelated text, steered at every token: KL (nats), the factor of perplexity, the change of entropy (nats). {facts.why_lower(facts.unrelated(lab, chosen.settings(chosen.way.make(lab, 0), [0.0]))[0])}"),
        figures.table(facts.accuracy(asked["truth"], before["truth"]), caption="What the model knows of these facts unsteered: how often the true answer is the likeliest of four, and its mean probability."),
    ],
    evidence={claim: claims.evidence(**facts.evidence(lost[name], chance[name], void)) for claim, name in (("truth", "truth"), ("overcorrection", "pronoun"))},
)  # fmt: skip
