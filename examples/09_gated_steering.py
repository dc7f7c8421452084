"""Context-sensitive steering: does it help to steer only where the context calls for it?

    python examples/09_gated_steering.py --model nano     (`make reproduce` runs it; half a minute on nano)

The paper's future work. A gate reads the prompt's stream along one direction (occupations less nouns whose meaning fixes the pronoun)
and lets the fairness vector of experiment 7 act only above a threshold, fitted on half of the nouns and occupations in training
templates and half of the facts. Measured on the other half: nouns and occupations in held-out templates, facts of the same relations.
The vector, its layer and coefficient are those of experiment 7, of all occupations in training templates.
"""

# %% What the gate is fitted on, and what it is measured on
import warnings
from functools import partial

from ministeer import Receipt, Steer, extract, metrics, prefill
from ministeer.interventions import Gate
from ministeer.lab import claims, data, facts, figures, pronouns, protocol
from ministeer.lab.experiment import Experiment

COEFFICIENTS = [0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0]  # in units of the chosen coefficient

lab = Experiment.from_command_line("09_gated_steering")
SEEDS = lab.part(range(3))
nouns = {row["noun"]: row["gender"] for row in lab.part(data.read("definitional.tsv", strict="yes"))}
known = lab.part(facts.prompts())
jobs_fit, jobs = (list(pronouns.occupations(lab))[i::2] for i in (0, 1))
nouns_fit, fixed = (list(nouns)[i::2] for i in (0, 1))
asked, kept = pronouns.prompts(jobs, "heldout"), pronouns.prompts(fixed, "heldout")
wanted, unwanted = (pronouns.prompts(some, "train") for some in (jobs_fit, nouns_fit))

# %% The gate, by the draw of the fairness vector's texts
vectors = {seed: pronouns.vector(lab, seed=seed) for seed in SEEDS}
layer, c = pronouns.setting(lab, vectors[0])
scale, one = [c * x for x in COEFFICIENTS], COEFFICIENTS.index(1.0)
pairs = [[a["prompt"], b["prompt"]] for a, b in zip(wanted, unwanted)]
condition = extract.contrastive(lab.model, lab.tokenizer, pairs, protocol.sites(lab)[1:], token="last")


def ids(items):
    return [lab.tokenizer.prompt(item["prompt"]) for item in items]


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of weak gates: the best layer is taken
    gates = {
        i: Gate.fit(lab.model, ids(wanted), ids(unwanted) + ids(known[::2]), condition["pre", i], ("pre", i))
        for i in protocol.layers(lab)[1:]
    }
gate_layer = max(gates, key=lambda i: gates[i].accuracy)
gate = {"vector": condition, "layer": gate_layer, "threshold": gates[gate_layer].threshold}


def measured(vector, gate=None):
    """What a vector costs at each coefficient, of occupations, nouns and facts that the gate was not fitted on."""
    return facts.costs(lab, vector, layer, scale, jobs=jobs, nouns={noun: nouns[noun] for noun in fixed}, facts=known[1::2], gate=gate)  # fmt: skip


free = {seed: measured(vectors[seed]) for seed in SEEDS}
gated = {seed: measured(vectors[seed], gate) for seed in SEEDS}
measured_on = {"occupations": asked, "definitional nouns": kept, "facts": known[1::2]}
opens = {name: gates[gate_layer].passes(lab.model, ids(items)).float().mean() for name, items in measured_on.items()}

# %% Show it
saved = {seed: gated[seed]["pronoun"][:, one] - free[seed]["pronoun"][:, one] for seed in SEEDS}
given_up = {seed: gated[seed]["gap"][:, one] - free[seed]["gap"][:, one] for seed in SEEDS}
curve = figures.dots(
    lab.folder / "09_trade_off",
    {f"{name}, {which}": ((found["gap"][:, 0] - found["gap"].T).mean(1), found[what].mean(0))
     for which, found in (("gated", gated[0]), ("everywhere", free[0])) for name, what in (("definitional pronouns", "pronoun"), ("facts", "truth"))},
    xlabel="bias removed (fall of the distance from one half)", ylabel="probability of what is true", joined=True,
    caption=f"Coefficients {', '.join(f'{x:g}' for x in scale)} at layer {layer}, from the left; gate at layer {gate_layer}. The mean over {len(jobs)} occupations, {len(fixed)} nouns, "
    f"{len(known[1::2])} facts that the gate was not fitted on.",
)  # fmt: skip
interval = partial(metrics.interval, digits=3)
receipt = Receipt()
steer = gates[gate_layer].over(lab.model, ids(asked + kept), Steer(vectors[0], ("pre", layer), c, where="last"))
prefill(lab.model, ids(asked + kept), steer=steer, receipt=receipt)
lab.save(
    title="9. Context-sensitive steering",
    question="Does it help to steer only where the context calls for it?",
    protocol=f"The fairness vector of 7 at layer {layer}, x {c:g}, behind a gate on the cosine of the prompt's last stream at layer {gate_layer} with a direction (occupations less definitional "
    f"nouns). Direction and threshold from half of the occupations, nouns and facts in training templates; measured on the other half, nouns and occupations in held-out templates; vector, layer and coefficient are of all occupations in training templates. {len(SEEDS)} draws of the vector.",
    finding="The gate opens for " + ", ".join(f"{share:.0%} of {name}" for name, share in opens.items()) + f". At the same coefficient it saves {interval(saved[0])} of the right pronoun's "
    f"probability and gives up {interval(given_up[0])} of the bias removed; of the facts' probability it saves {interval(gated[0]['truth'][:, one] - free[0]['truth'][:, one], groups=[fact['relation'] for fact in known[1::2]])}.",
    receipt=receipt,
    figures=[curve],
    tables=[{
        "caption": "With and without the gate, by coefficient.",
        "columns": ["coefficient", *(f"{what}, {which}" for what in ("bias removed", "right pronoun", "truth of facts") for which in ("everywhere", "gated"))],
        "rows": [
            [f"{x:g}", *(f"{v:.3f}" for what in ("gap", "pronoun", "truth") for f in (free[0], gated[0]) for v in [(f[what][:, 0] - f[what][:, k]).mean() if what == "gap" else f[what][:, k].mean()])]
            for k, x in enumerate(scale)
        ],
    }],
    evidence={"gating": claims.evidence(saved, minus=given_up)},
)  # fmt: skip
