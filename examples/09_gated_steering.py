"""Context-sensitive steering: does it help to steer only where the context calls for it?

    python examples/09_gated_steering.py --model nano     (`make reproduce` runs it; 20 seconds on nano)

The paper's future work. A gate reads the prompt's stream along one direction, occupations less nouns whose meaning fixes the pronoun, and lets the
stronger steering of experiment 7 act only above a threshold. A gate that never opens keeps every queen a "she", and so does half a dose; so the gate is
compared with steering everywhere *at the dose that removes as much of the spread*. Beside it: gates that are shut, open by chance, or read a list
of words. On nano it opens for 87 % of occupations' prompts and 4 % of the nouns', keeping .04 more of the right pronoun's probability than
steering everywhere; the list of words keeps .45.
"""

# %% The gate, fitted on half of the occupations and nouns in training templates and half of the facts
import warnings

import numpy as np

from ministeer import extract
from ministeer.interventions import Gate
from ministeer.lab import claims, facts, figures, pronouns, protocol, tradeoff
from ministeer.lab.answers import passes
from ministeer.lab.experiment import Experiment
from ministeer.metrics import interval

lab = Experiment.from_command_line("09_gated_steering")
SEEDS = lab.part(range(3))
chosen = pronouns.choose(lab)
DOSES, ONE = [chosen.dose * k / 8 for k in (*range(9), 10, 12, 16)], 8  # eighths of the chosen one, and beyond it
first, second = pronouns.halves(lab)
known = facts.prompts(lab, most=32)
wanted = pronouns.prompts(list(first), "train", each=2)
unwanted = pronouns.definitional(lab, pronouns.nouns()[0], "train", each=2)
pairs = [[a["prompt"], b["prompt"]] for a, b in zip(wanted, unwanted)]
condition = extract.contrastive(lab.model, lab.tokenizer, pairs, protocol.sites(lab)[1:], token="last")
inside, outside = ([lab.tokenizer.prompt(item["prompt"]) for item in some] for some in (wanted, unwanted + known[::2]))
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of weak gates: the best layer is taken
    gates = [Gate.fit(lab.model, inside, outside, condition[site], site) for site in condition.sites]
gate = max(gates, key=lambda gate: gate.accuracy)

# %% Steering everywhere, on the other half of occupations and nouns, in held-out templates
fixed = pronouns.definitional(lab, pronouns.nouns()[1], "heldout")
asked = {"jobs": pronouns.prompts(list(second), "heldout"), "nouns": fixed}
free = {seed: tradeoff.measured(lab, chosen, asked, DOSES, seed) for seed in SEEDS}

# %% The gate, and others that know less: {name: for which of the jobs' and nouns' prompts they open}
how = {"vector": condition, "layer": gate.site[1], "threshold": gate.threshold}
opens = {name: np.array([row["open"] for row in lab.cell(passes, items=of, **how)]) for name, of in asked.items()}
for_facts = np.mean([row["open"] for row in lab.cell(passes, items=known[1::2], **how)])
always, never = ({name: np.full(len(items), flag) for name, items in asked.items()} for flag in (True, False))
gates = {"the gate": opens, "always open": always, "always shut": never}
gates["shut for a list of nouns"] = {"jobs": always["jobs"], "nouns": never["nouns"]}
by_chance = tradeoff.by_chance(opens, 199)

# %% What each keeps beyond steering everywhere at the dose that removes as much
runs = {seed: free[seed].through(opens, ONE) for seed in SEEDS}  # (removed, kept of each noun)
saved = {seed: free[seed].beyond(*runs[seed]) for seed in SEEDS}
chance = {seed: [free[seed].beyond(*free[seed].through(some, ONE)).mean() for some in by_chance] for seed in SEEDS}
table = [free[0].row(name, free[0].through(some, ONE), some) for name, some in gates.items()]
table.append(free[0].row("half the dose", free[0].everywhere(ONE // 2)))
each = [free[0].row("open by chance", free[0].through(some, ONE), some) for some in by_chance]
table.append({"": f"open by chance, mean of {len(each)}", **facts.averaged(each)})

# %% Show it
removed, kept = free[0].curve()
dots = [{"removed": r, "kept": k, "": "everywhere, by dose"} for r, k in zip(removed[: ONE + 1], kept.mean(0))]
dots += [table[0], table[3], *({**row, "": "random gates"} for row in each)]
lab.save(
    title="9. Context-sensitive steering",
    question="Does it help to steer only where the context calls for it?",
    protocol=f"The stronger steering of experiment 7 ({chosen}) where the cosine of the prompt's last stream at layer {gate.site[1]} with a direction (occupations less definitional nouns) is above a threshold; both from half of the "
    f"occupations, nouns and facts, in training templates. Measured on {len(second)} other occupations and {len(saved[0])} other nouns in held-out templates, and {len(known[1::2])} other facts. {len(SEEDS)} draws of the vector's texts. "
    "Compared with steering everywhere at the dose that removes as much of the spread (straight lines between eighths of the dose).",
    finding=f"The gate opens for {opens['jobs'].mean():.0%} of prompts of occupations, {opens['nouns'].mean():.0%} of definitional nouns, {for_facts:.0%} of facts. It removes {runs[0][0]:.2f} of the spread; "
    f"beyond what steering everywhere keeps where it removes as much, it keeps {interval(saved[0], 3)} of the right pronoun's probability (random gates {np.mean(chance[0]):.3f}).",
    receipt=chosen.receipt(lab, [item for name, of in asked.items() for item, flag in zip(of, opens[name]) if flag] or fixed),
    figures=[figures.dots(lab.folder / "09_trade_off", dots, x="removed", y="kept", by="", xlabel="share of the spread removed", ylabel="probability of the right pronoun",
                          caption="Higher at the same place from left to right is better: what is kept of definitional nouns where as much of the spread is removed.")],
    tables=[figures.table(table, digits=3, caption="At the chosen dose: for which share of prompts a gate opens, what is removed of the spread and kept of the right pronoun, and how much more that is than steering everywhere keeps at equal removal.")],
    evidence={"gating": claims.evidence(saved, controls=chance, void=pronouns.void(lab) or tradeoff.void([removed for removed, _ in runs.values()]))},
)  # fmt: skip
