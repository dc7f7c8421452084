"""Prompt structure: does a vector taken from prompts of one structure work in prompts of another?

    python examples/04_prompt_structure.py --model nano     (`make reproduce` runs it; a minute on nano)

Two matrices, a row for the structure that a vector is taken from, a column for the one it is added in: antonym vectors in few-shot
structures ("Q: big A:", "big -> ", ...), and the honesty vector in frames around a scenario (quoted, in a letter, ...).
A structure counts for the claims where the model can give opposites at all: with five demonstrations, for half of the pairs.
"""

# %% Antonym vectors: layer and coefficient on training pairs in the first structure, then the matrix on held-out ones
from functools import cache, partial

import numpy as np

from ministeer import extract, metrics
from ministeer.lab import antonyms, claims, data, figures, protocol, values
from ministeer.lab.experiment import Experiment

SHOTS, ASKED, VALUE, MULTIPLIERS = 5, 40, "honesty", [-1.0, 0.0, 1.0]

lab = Experiment.from_command_line("04_prompt_structure")
SEEDS = lab.part(range(3))
structures = [row["structure"] for row in data.read("structures.tsv", kind="neutral")]
splits = data.answerable(lab.tokenizer)["antonym"]


@cache
def asked(structure, split="heldout", shots=0):
    return lab.part(data.few_shot(splits[split], splits["train"], ASKED, structure=structure, shots=shots, seed=3))


first = antonyms.vector(lab, structures[0], protocol.sites(lab), seed=0)
layer, c = antonyms.setting(lab, structures[0], first)
knows = {s: antonyms.answered(lab, asked(s, "train", SHOTS)).mean() for s in structures}
known = [s for s in structures if knows[s] >= 0.5]
if enough := len(known) > 1:
    counted = f"the {len(known)} structures in which the model gives half of the opposites with {SHOTS} demonstrations"
else:  # shown all the same, but no evidence for a claim
    known, counted = (
        structures,
        f"no structure, as the model gives half of the opposites in {len(known)} of them with {SHOTS} demonstrations",
    )
alone = {s: antonyms.answered(lab, asked(s))[:, 0] for s in structures}
found = {}  # (seed, from, in) -> whether each held-out pair is right
for seed in lab.progress(SEEDS, "seeds of extraction"):
    some = structures if seed == 0 else known
    for source in some:
        vector = antonyms.vector(lab, source, [("pre", layer)], seed=seed)
        for where in some:
            found[seed, source, where] = antonyms.answered(lab, asked(where), vector, layer, [c])[:, 0]
        found[seed, "random", source] = antonyms.answered(
            lab, asked(source), extract.random_like(vector, seed=seed), layer, [c]
        )[:, 0]

# %% The same for a value: frames around scenarios
frames = {row["frame"]: row["text"].replace("\\n", "\n") for row in data.read("frames.tsv")}
scenarios = lab.part(data.read("values.tsv", value=VALUE, split="heldout"))
value_layer = values.layer(lab, VALUE, values.vector(lab, VALUE, seed=0))
moved = {}
for source, around in frames.items():
    pairs = [[around.replace("{p}", text) for text in pair] for pair in data.context_pairs(VALUE)]
    vector = lab.vector(extract.contrastive, pairs=pairs, token="last", sites=[("pre", value_layer)])
    for where, form in frames.items():
        moved[source, where] = values.slopes(lab, scenarios, vector, value_layer, MULTIPLIERS, form)

# %% Show it
own, others, chance = ({} for _ in range(3))  # by seed: of each pair, the mean over known structures
for seed in SEEDS:
    own[seed] = np.mean([found[seed, s, s] for s in known], 0)
    others[seed] = np.mean([found[seed, s, t] for s in known for t in known if s != t], 0)
    chance[seed] = np.mean([found[seed, "random", s] for s in known], 0)
hard = min(known, key=lambda s: found[0, s, s].mean())
into = np.mean([found[0, s, hard] for s in known if s != hard], 0)
out_of = np.mean([found[0, hard, s] for s in known if s != hard], 0)
unknown = [s for s in structures if s not in known]
elsewhere = [found[0, s, t] for s in known for t in unknown]
grid = figures.matrix(
    lab.folder / "04_structures", [[found[0, s, t].mean() for t in structures] for s in structures], structures, structures,
    ylabel="taken from", xlabel="added in", unit="answers that are the opposite",
    caption=f"{len(asked(structures[0]))} held-out pairs without demonstrations, layer {layer}, x {c:g}. The model itself can, with five "
    f"demonstrations: {', '.join(f'{s} {knows[s]:.2f}' for s in structures)}.",
)  # fmt: skip
value_grid = figures.matrix(
    lab.folder / "04_frames", [[moved[s, t].mean() for t in frames] for s in frames], list(frames), list(frames),
    ylabel="taken from", xlabel="added in", unit="steerability (logits per unit)",
    caption=f"The {VALUE} vector at layer {value_layer}, {len(scenarios)} items of held-out scenarios.",
)  # fmt: skip
pairs = [item["pair"] for item in asked(structures[0])]  # of every structure the same, some both ways round
interval = partial(metrics.interval, groups=pairs)
by_scenario = [row["scenario"] for row in scenarios]
same = np.mean([moved[f, f] for f in frames], 0)
cross = np.mean([moved[f, g] for f in frames for g in frames if f != g], 0)
lab.save(
    title="4. Prompt structure",
    question="Does a vector taken from prompts of one structure work in prompts of another?",
    protocol=f"Antonym vectors (less those of {', '.join(antonyms.TASKS[1:])}) from 25 lists of {SHOTS} in each of {len(structures)} structures, "
    f"added at the last token of zero-shot prompts in each. Layer and coefficient chosen on training pairs in {structures[0]}. "
    f"Claims count {counted}; {len(SEEDS)} draws of the lists. Random vectors of equal norm. Intervals over pairs.",
    finding=f"Of held-out pairs, in {len(known)} structures{' that the model knows' if enough else ''}: with the structure's own vector {interval(own[0])}, with another's "
    f"{interval(others[0])}, with a random one {interval(chance[0])}, without {interval(np.mean([alone[s] for s in known], 0))}"
    + f". Least in {hard} ({knows[hard]:.2f} with demonstrations): with its own {interval(found[0, hard, hard])}, with another's {interval(into)}; its own elsewhere {interval(out_of)}"
    + (f". In the {len(unknown)} structures that it does not know, with a known structure's {interval(np.mean(elsewhere, 0))}" if elsewhere else "")
    + f". Steerability of {VALUE}: in the same frame {interval(same, groups=by_scenario)}, in another {interval(cross, groups=by_scenario)}.",
    receipt=protocol.receipt(lab, asked(structures[0]), first, layer, c),
    figures=[grid, value_grid],
    evidence={
        claim: claims.evidence({s: own[s] - less[s] for s in SEEDS}, pairs)
        for claim, less in (("structure_own", chance), ("structure_other", others)) if enough
    },
)  # fmt: skip
