"""Private steering: what does privacy cost a vector, and does a plain mean tell who was in it?

    python examples/15_private_steering.py --model smollm2-135m-instruct      (or make beyond MODEL=...; --data FOLDER for a copy of the sets)

Goel et al. 2025 (arXiv 2501.18532) release the mean of clipped differences with Gaussian noise, so that nobody can tell whether a pair was in it: smaller epsilon,
more noise. Here such vectors of 16 public behaviours, each of another family, are compared with the plain mean of the same pairs at an equal dose, and an
attacker who knows 120 pairs guesses which half made a vector. nano cannot say such statements.
Expected: 400 pairs bear an epsilon below 1, 60 do not; a plain mean gives its members away, as a vector has more entries than it has pairs.
"""

# %% Pairs of public behaviours, half the way up; differences are cut to the usual length of another behaviour's, which is public
from ministeer import metrics
from ministeer.lab import behaviours, claims, figures, persona, privacy
from ministeer.lab.experiment import Experiment
from ministeer.lab.privacy import CLIPPED, DELTA, EPSILONS, MEMBERS, PLAIN

lab = Experiment.from_command_line("15_private_steering", behaviours.options())
names, layer = lab.part(behaviours.one_a_family(persona.names())[::2]), behaviours.middle(lab.model)
sets = behaviours.asked(names, lab, most=privacy.MOST)

# %% What each vector moves, and whom it gives away
found = []
for name, public in lab.progress(zip(names, [*names[1:], names[0]], strict=True), "behaviours"):
    training, held_out, _ = sets[name]
    (clip,) = lab.cell(privacy.usual, pairs=sets[public][0][:MEMBERS], layer=layer)
    given = {"training": training, "held_out": held_out[: privacy.PAIRS], "layer": layer, "clip": clip["length"]}
    found.append(lab.cell(privacy.measured, **given))
effects, told = [privacy.effects(rows) for rows in found], [privacy.told(rows) for rows in found]
first = f"epsilon {EPSILONS[0]:g}"
few = f"{first}, {MEMBERS} pairs"
counts = sorted(len(training) for training, _, _ in sets.values())
useful = [effect[first] - 0.5 * effect[PLAIN] for effect in effects]
kept = {name: metrics.interval([effect[name] for effect in effects]) for name in effects[0]}
noisy = ", ".join(f"{kept[name]} at {name}" for name in (f"epsilon {e:g}" for e in EPSILONS))
caught = {name: metrics.interval([one[name] for one in told]) for name in told[0]}

# %% Show it
moved = [{"vector": name, "behaviour": of, "slope": effect[name]} for name in effects[0] for of, effect in zip(names, effects, strict=True)]  # fmt: skip
attacked = [{"release": name, "behaviour": of, "advantage": one[name]} for name in told[0] for of, one in zip(names, told, strict=True)]  # fmt: skip
table = [{"behaviour": of, **effect, **{f"attack: {k}": v for k, v in one.items()}} for of, effect, one in zip(names, effects, told, strict=True)]  # fmt: skip
lab.save(
    title="15. Private steering",
    question="What does privacy cost a vector, and does a plain mean tell who was in it?",
    protocol=f"{len(names)} persona sets of Perez et al. 2022, of different families; vectors of {counts[0]} to {counts[-1]} pairs of statements at layer {layer}, each scaled to a tenth of the stream's norm and added at every token. Slope: half of what the odds of "
    f"{privacy.PAIRS} held-out pairs (nats) are more with it than with it taken away. Private means: differences cut to the median length of another behaviour's, noise for epsilon and delta {DELTA:g}; {privacy.DRAWS} draws at {first}. "
    f"Attack: of {2 * MEMBERS} known pairs, which {MEMBERS} made the vector? By the likelihood ratio of normal differences; advantage: true less false positives, mean of {privacy.HALVINGS} halvings.",
    finding=f"A tenth of the norm moves {kept[PLAIN]} nats by the plain mean, {kept[CLIPPED]} by the clipped one, {noisy}, and {kept[few]} at {first} of {MEMBERS} pairs. "
    f"The attack's advantage is {caught[PLAIN]} on the plain mean, {caught[CLIPPED]} on the clipped one, {caught[first]} at {first}, where no attack can have more than {privacy.bound(EPSILONS[0]):.2f}.",
    receipt=behaviours.receipt(lab.model, lab.tokenizer, sets[names[0]][0][:MEMBERS], layer),
    figures=[
        figures.strips(lab.folder / "15_slopes", moved, x="slope", by="vector", xlabel="what a tenth of the norm moves (nats)", caption="What noise leaves. Each dot is a behaviour."),
        figures.strips(lab.folder / "15_attacks", attacked, x="advantage", by="release", xlabel="advantage of the attack (true less false positives)", caption="Who is given away. 0 is chance, 1 is everybody."),
    ],
    tables=[figures.table(table, caption="Each behaviour: slope by each vector (nats), and the advantage of the attack on each release.")],
    evidence={"private_useful": claims.evidence({0: useful}), "members_told": claims.evidence({0: [one[PLAIN] for one in told]})},
)  # fmt: skip
