"""Demographic bias: how much do a model's pronouns differ from one occupation to another, and what makes them more alike?

    python examples/07_demographic_bias.py --model nano     (`make reproduce` runs it; a minute on nano)

After "The nurse thought that" comes "he" or "she": l = log p(he) - log p(she). Over occupations l has a *spread* (how far they lie from their
mean), a *slope* on the published shares of men, and an *offset* (one pronoun for all). Fair is no spread. Two ways to steer, a claim each: add what
sentences on equality leave in the stream, less what those on inequality do, or project out the direction from female to male nouns. Layer and
dose of each are chosen on half of the occupations and measured on the other half, in other templates. Random vectors take its place, each at its own
best dose. On nano the fairness vector removes seven tenths of the spread, projecting gender out nine; of 199 random vectors the best remove six.
"""

# %% Each way at the layer and dose that leave the least spread on half of the occupations, and random vectors in its place, each at its own dose
import numpy as np

from ministeer.lab import claims, figures, pronouns
from ministeer.lab.experiment import Experiment
from ministeer.metrics import interval

lab = Experiment.from_command_line("07_demographic_bias")
SEEDS, WAYS = lab.part(range(3)), dict(zip(("bias_added", "bias_erased"), pronouns.WAYS))
published = pronouns.halves(lab)[1]  # {occupation: share of men} of those on which nothing is chosen
items = pronouns.prompts(list(published), "heldout")
missing = {claim: told for claim, way in WAYS.items() if (told := pronouns.missing(lab, way))}
found = {claim: pronouns.outcome(lab, way, items, SEEDS) for claim, way in WAYS.items() if claim not in missing}
evidence = {claim: claims.evidence(**of.evidence(pronouns.void(lab))) for claim, of in found.items()}
evidence |= {claim: claims.evidence({}, void=told) for claim, told in missing.items()}

# %% Plain text and chat, a sentence in place of the vector, other groups, and the measure of Vig et al.
ways = [of.chosen for of in found.values()]
compared = pronouns.compared(lab, ways, published)
groups = pronouns.other_groups(lab, ways[0])
effects = {str(way or "unsteered"): pronouns.total_effect(lab, list(published), way) for way in (None, *ways)}

# %% Show it
before = pronouns.odds(pronouns.plainly(lab, items), items)  # (occupations,)
steered = {"unsteered": before, **{of.chosen.way.name: of.after[0] for of in found.values()}}
dots = [{"x": np.log(share / (1 - share)), "l": x, "by": by}
        for by, l in steered.items() for share, x in zip(published.values(), l)]  # fmt: skip
odds = [{"occupation": job, "published share of men": published[job], **{by: 1 / (1 + np.exp(-l[i])) for by, l in steered.items()}}
        for i, job in enumerate(published)]  # fmt: skip
total = [
    {"": who, "total effect": f"{np.exp(x).mean() - 1:.3g}", "factor": f"{np.exp(x.mean()):.3g}"}
    for who, x in effects.items()
]
strip, doses, said, done = [], [], [], []
for of in found.values():
    way, chance, offset = of.chosen.way, of.by_vector, of.after[0].mean()
    strip += [{"fall": x.mean(), "by": way.name} for x in of.falls.values()]
    strip += [{"fall": x, "by": f"random ({way.how})"} for x in chance]
    doses.append(
        figures.lines(lab.folder / f"07_doses_{way.how}", pronouns.curve(of.chosen, of.search), x="dose", y="spread", by="by", xlabel="dose", ylabel="spread (logits)",
                      caption=f"What the dose was chosen by: {of.chosen}.")
    )  # fmt: skip
    rank = int((chance >= of.falls[0].mean()).sum()) + 1
    said.append(f"{of.chosen}: {interval(of.falls[0])} of the spread is removed, by random vectors {chance.mean():.2f}, at most {chance.max():.2f} (rank {rank} of {len(chance) + 1}); "
                f"the slope on published shares becomes {pronouns.slope(of.after[0], published):.2f}, the offset {offset:+.2f} logits.")  # fmt: skip
    done.append(f"{way.name}: {of.chosen.receipt(lab, items)}")
lab.save(
    title="7. Demographic bias",
    question="How much do pronouns differ from one occupation to another, and what makes them more alike?",
    protocol=f"log p(he) - log p(she) after {len(published)} occupations in {len(items) // len(published)} held-out templates, steered at the last token. Of each way the layer and dose with the least spread over {len(pronouns.halves(lab)[0])} other occupations in training "
    f"templates, while half of p(he) + p(she) stays and KL on unrelated text is below {pronouns.BOUND:g} nats; {' and '.join(str(len(way.tried)) for way in ways)} were tried. The direction of gender is made from half of the definitional nouns. "
    f"Doses are above 0: a vector for fairness has to know its sign. {len(found['bias_added'].chance)} random vectors with the stream's covariance take the place of each, each at its own best dose. {len(SEEDS)} draws of the vector's texts.",
    finding=f"Unsteered the spread is {pronouns.distances(before).mean():.2f} logits, the slope on published shares {pronouns.slope(before, published):.2f}, the offset {before.mean():+.2f}. {' '.join(said)}",
    receipt="; ".join(done),
    figures=[
        figures.dots(lab.folder / "07_shares", dots, x="x", y="l", by="by", xlabel="published share of men (logit)", ylabel="log p(he) - log p(she)", diagonal=True,
                     caption="A dot is an occupation. On the line the model repeats the statistics; on a level line it treats all alike, and the level is the offset."),
        figures.strips(lab.folder / "07_chance", strip, x="fall", by="by", xlabel="share of the spread removed", caption="Draws of each way's vector, and random vectors in its place, each at its best dose."),
        *doses,
    ],
    tables=[
        figures.table(compared, caption="Slope (1: as published), spread and offset in logits; mass: p(he) + p(she), the share of the model's word that is counted."),
        figures.table(total, caption="Vig et al. 2020, professions: by how much man or woman in the occupation's place turns the odds; the mean less 1, and the geometric mean."),
        *([figures.table(groups, caption="Other groups: log-odds of two answers over subjects. No claim rests on them.")] if groups else []),
        figures.table(odds, caption="p(he) among he and she."),
    ],
    evidence=evidence,
)  # fmt: skip
