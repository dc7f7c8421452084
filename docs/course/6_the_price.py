# %% [markdown]
# # 6. The price
#
# A vector that does what you want may do more than that. This lesson removes a bias, and then looks at everything else:
# facts, other texts, and what should have stayed as it was. At the end it steers only where that is wanted.
#
# To see it on a real language model, change `"nano"` in the next cell to `"smollm2-135m-instruct"`. The end says what
# differs there.

# %%
import torch
from check import check, show

import ministeer
from ministeer import Steer, extract, interventions, metrics, prefill
from ministeer.interventions import Gate
from ministeer.lab import data

model, tok = ministeer.load("nano")
depth = model.config.n_layer
SITE = ("pre", depth - 2)
he, she = tok.single(" he"), tok.single(" she")

# %% [markdown]
# ## A bias, and a distinction that is not a bias
#
# "The nurse thought that": he or she? For an occupation the word should not decide. For "queen" or "father" it should:
# the meaning fixes the pronoun. We read the direction of gender from one half of such nouns, in training templates, and
# keep the other half, and other templates, to measure on.

# %%
jobs = list(data.occupations("train"))
strict = data.read("definitional.tsv", strict="yes")
male, female = ([row["noun"] for row in strict if row["gender"] == g] for g in ("male", "female"))
nouns = [*male[1::2], *female[1::2]]  # measured; the direction is read from the others
sign = torch.tensor([1.0] * len(male[1::2]) + [-1.0] * len(female[1::2]))  # 1 where "he" is right, -1 where "she" is


def texts(subjects, split="heldout"):
    """Each subject in three templates, subject by subject."""
    templates = [row["template"] for row in data.read("pronoun_templates.tsv", kind="plain", split=split)][:3]
    return [template.replace("{X}", subject) for subject in subjects for template in templates]


def log_odds(subjects, steer=None):
    """log p(he) - log p(she) of each subject, the mean over templates, (N,), in nats."""
    logits = prefill(model, [tok.prompt(text) for text in texts(subjects)], steer=steer)
    return (logits[:, he] - logits[:, she]).view(len(subjects), -1).mean(1)


def spread(odds):
    """How far subjects lie from their mean: 0 where all are treated alike."""
    return float((odds - odds.mean()).abs().mean())


def margin(odds):
    """Of the nouns, the mean of log p(the right pronoun) - log p(the other), in nats."""
    return float((sign * odds).mean())


def probability(odds):
    """Of the nouns, the mean probability of the right pronoun against the other."""
    return float((sign * odds).sigmoid().mean())


before = log_odds(jobs)
order = before.argsort()
print("most she:", [jobs[i] for i in order[:4]], " most he:", [jobs[i] for i in order[-4:]])
print(
    f"spread of {len(jobs)} occupations: {spread(before):.2f} nats; nouns: {margin(log_odds(nouns)):.2f} nats, "
    f"right pronoun {probability(log_odds(nouns)):.3f}"
)

# %% [markdown]
# ## Removing a direction
#
# Adding a vector pushes all occupations one way, and whether their spread shrinks is not in our hands. Here we want a
# direction *gone*: `project_out(v)` subtracts the stream's component along v. It is still a `+`: x = x - (x . u) u,
# with u = v / |v|.
#
# **Predict first.** With all of the direction removed at one site, how much of the spread goes? And what becomes of
# "queen" and "father"?

# %%
pairs = [pair for m, f in zip(male[::2], female[::2]) for pair in zip(texts([m], "train"), texts([f], "train"))]
gender = extract.contrastive(model, tok, pairs, SITE, token="last")[SITE]


def erase(share, v=gender):
    return Steer(interventions.project_out(v), SITE, share, where="last")


print(f"spread {spread(before):.2f} -> {spread(log_odds(jobs, erase(1.0))):.2f} nats")
print(f"right pronoun of nouns {probability(log_odds(nouns)):.3f} -> {probability(log_odds(nouns, erase(1.0))):.3f}")

# %% [markdown]
# The bias is nearly gone, and so is the queen's "she". One direction holds both, the stereotype and the meaning. This
# is **overcorrection**, and no average over occupations would have shown it.
#
# ## What else it costs
#
# Ask three things of the same intervention. Are facts still answered right? How far do the predictions on them move, as
# **KL divergence**: the mean of log p(unsteered) - log p(steered) over what the unsteered model says, in nats; 0 means
# nothing changed? And what does it do to the nouns?
#
# **Predict first.** Which of them suffers: the facts, the nouns, both? And what does half of the direction cost?

# %%
ANSWERS = ("right", "wrong1", "wrong2", "wrong3")
facts = [row for row in data.facts(tok)[::4] if all(len(tok.continuation(" " + row[k])) == 1 for k in ANSWERS)]
asked = [tok.prompt(row["prompt"]) for row in facts]
options = torch.tensor([[tok.single(" " + row[k]) for k in ANSWERS] for row in facts])  # (N, 4), the first is true
unsteered = prefill(model, asked)


def measured(steer):
    """(share of the spread removed, share of the nouns' nats kept, probability of their right pronoun, share of facts
    right, KL on facts in nats)."""
    logits = prefill(model, asked, steer=steer)
    true = (logits.gather(1, options).argmax(1) == 0).float().mean()
    removed = 1 - spread(log_odds(jobs, steer)) / spread(before)
    odds = log_odds(nouns, steer)
    kept = margin(odds) / margin(log_odds(nouns))
    return removed, kept, probability(odds), float(true), float(metrics.kl(logits, unsteered).mean())


DOSES = [0.0, 0.25, 0.5, 0.75, 1.0]
print("share  removed     kept p(right)    facts       KL")
curve = [measured(erase(share)) for share in DOSES]
for share, row in zip(DOSES, curve):
    print(f"{share:5.2f}" + "".join(f"{number:9.3f}" for number in row))

rows = [tok.prompt(text) for text in texts(jobs)]
away = extract.streams(model, rows, [len(row) - 1 for row in rows], [SITE])[SITE]  # (N, D)
away = away - away.mean(0)
mixes = [torch.randn(len(away), generator=torch.Generator().manual_seed(seed)) @ away for seed in range(3)]
rivals = [measured(erase(1.0, v)) for v in mixes]
print("three random mixes of these streams, removed whole: of the spread", [round(row[0], 3) for row in rivals])

# %% [markdown]
# Two of the three random mixes remove much of the spread, if less than the direction does. The streams of jobs differ
# most in gender, so a mix of them often points along it.
#
# "Facts are unharmed" is true and says little: a he-she direction has nothing to do with capitals. Look for
# the price where it is likely: next to what you change.
#
# Compare like with like: both "removed" and "kept" are shares of nats. Half of the direction takes half of the spread
# and two fifths of what told "queen" from "father". The probability of the right pronoun hides that, because it is flat
# at the top. A smaller dose removes less and costs less. So a cleverer way has to beat a smaller dose.
#
# ## A gate
#
# Steer only where it is wanted. A **gate** looks at the unsteered stream of the prompt, takes its cosine with a
# condition, here occupations minus nouns, and opens above a threshold. It is fitted on every other occupation and on
# the nouns that the direction was read from, in training templates.
#
# **Predict first.** For how many of the measured nouns will it open? And does it beat a smaller dose without a gate?

# %%
inside, outside = texts(jobs[::2], "train"), texts([*male[::2], *female[::2]], "train")
sites = [("pre", i) for i in range(depth // 2, depth)]
condition = extract.contrastive(model, tok, list(zip(inside, outside)), sites, token="last")
wanted, unwanted = ([tok.prompt(text) for text in some] for some in (inside, outside))
fitted = [Gate.fit(model, wanted, unwanted, condition[site], site) for site in sites]
gate = max(fitted, key=lambda gate: gate.accuracy)
print(gate)


def behind(gate, subjects, share=1.0):
    """The direction removed, in the rows for which the gate opens."""
    rows = gate.passes(model, [tok.prompt(text) for text in texts(subjects)]).tolist()
    return Steer(interventions.project_out(gender), SITE, share, where="last", rows=rows)


for name, subjects in (("occupations", jobs[1::2]), ("nouns", nouns)):
    rows = behind(gate, subjects).rows
    print(f"opens for {sum(rows)} of {len(rows)} prompts of {name} that it was not fitted on")
    shut = [text for text, is_open in zip(texts(subjects), rows) if not is_open]
    print("   shut:", shut[:6], "..." * (len(shut) > 6))
half = log_odds(jobs[1::2])
gated = (
    1 - spread(log_odds(jobs[1::2], behind(gate, jobs[1::2]))) / spread(half),
    margin(log_odds(nouns, behind(gate, nouns))) / margin(log_odds(nouns)),
)
print(f"gated: removed {gated[0]:.3f}, kept {gated[1]:.3f}")

# %%
import matplotlib.pyplot as plt

free = [1 - spread(log_odds(jobs[1::2], erase(share))) / spread(half) for share in DOSES]  # the same occupations
figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
axes.plot(free, [row[1] for row in curve], marker="o", label="everywhere, by dose")
axes.plot(*gated, marker="s", linestyle="", label="behind the gate")
axes.set_xlabel("share of the spread of occupations removed")
axes.set_ylabel("share of the nouns' nats kept")
axes.legend()
show()

# %% [markdown]
# Compare the square with the line at the same horizontal position, not with the line's end. A gate that stayed shut would
# keep every noun and remove nothing, and would sit on the line too. This gate does beat a smaller dose: where the line
# removes as much of the spread, it keeps a third of the nouns' nats, and the gate keeps all.
#
# Now see for whom it stays shut. Among them is the nurse, in every template: to the gate, the occupations the model
# most links with women look like nouns for women. So those with the largest bias keep it, and the mean over occupations
# hides that. Look next to what you change, at a gate as well.
#
# ## Exercises


# %% exercise 6.1
def divergence(steered, plain, options):
    """KL(plain || steered), (N,), in nats, where nothing but each row's options can be said: their probabilities sum
    to 1. steered and plain: logits (N, V); options: ids (N, 4)."""
    # your lines here


# %%
@check(divergence)
def _(divergence):
    steered = prefill(model, asked[:6], steer=Steer(gender, ("pre", 2), 2.0, where="last"))
    plain, four = unsteered[:6], options[:6]
    a, b = steered.gather(1, four), plain.gather(1, four)
    found, expected = divergence(steered, plain, four), metrics.kl(a, b)
    assert found.shape == expected.shape, f"expected the shape {tuple(expected.shape)}, got {tuple(found.shape)}"
    assert not torch.allclose(found, metrics.kl(steered, plain), atol=1e-4), "this is over the whole vocabulary"
    p, q = (logits.log_softmax(-1).gather(1, four) for logits in (plain, steered))
    assert not torch.allclose(found, (p.exp() * (p - q)).sum(-1), atol=1e-4), "the four probabilities do not sum to 1"
    assert bool((found > -1e-5).all()), "a divergence is never below 0; is log taken of probabilities, not of logits?"
    assert not torch.allclose(found, metrics.kl(b, a), atol=1e-4), "this is KL(steered || plain)"
    assert torch.allclose(found, expected, atol=1e-4), f"expected {expected[0]:.4f} for the first, got {found[0]:.4f}"


# %% exercise 6.2
def without(x, v, w):
    """The streams x, (N, D), with two directions removed: nothing is left along v, (D,), nor along w, (D,). The two may
    have any length and lie at any angle but 0 and 180 degrees."""
    # your lines here


# %%
@check(without)
def _(without):
    x = torch.randn(4, len(gender), generator=torch.Generator().manual_seed(0))
    apart = torch.randn(len(gender), generator=torch.Generator().manual_seed(1))
    for v, w in ((gender, apart), (gender / 3, 2 * (gender + gender.norm() / apart.norm() * apart))):
        found = without(x, v, w)
        assert found.shape == x.shape, f"expected the shape {tuple(x.shape)}, got {tuple(found.shape)}"
        for name, u in (("v", v / v.norm()), ("w", w / w.norm())):
            left = float((found @ u).abs().max())
            assert left < 1e-3, (
                f"up to {left:.3f} is left along {name}; does the length matter, and does removing one bring some of "
                "the other back?"
            )
        plane = torch.linalg.qr(torch.stack([v, w], 1)).Q  # (D, 2)
        changed = found - x
        assert float((changed - changed @ plane @ plane.T).norm()) < 1e-2, "what lies along neither was changed too"


# %% exercise 6.3
def threshold(inside, outside):
    """The number that tells two lists of cosines apart best: the share of `inside` above it plus the share of `outside`
    not above it is as large as it can be."""
    # your lines here


# %%
@check(threshold)
def _(threshold):
    for some, others in (
        ([0.5, 0.6, 0.2], [0.1, 0.3, -0.4]),
        ([0.9, 0.8], [0.1, 0.2, 0.85]),
        ([0.1], [-0.9]),
        ([0.5], [0.1, 0.2, 0.6, 0.7]),
    ):
        a, b = (torch.tensor(given, dtype=torch.float64) for given in (some, others))

        def told(t, a=a, b=b):
            return float((a > t).float().mean() + (b <= t).float().mean())

        best = max(told(t) for t in [-2.0, *some, *others])
        t = float(threshold(some, others))
        assert abs(told(t) - best) < 1e-6, (
            f"for {some} and {others}, {t:.3g} tells {told(t) / 2:.0%} apart, another threshold {best / 2:.0%}"
        )


# %% [markdown]
# ## On SmolLM2
#
# Less of the bias goes there: about half of the spread, and no more with the whole direction than with three quarters of
# it; the random mixes remove none. The nouns pay as they do on nano, and the facts do not. Experiments 7 and 8 find both
# with more items and wide intervals. The gate opens for a few nouns too; whether it helps, experiment 9 could not tell
# ([summary.md](../results/smollm2-135m-instruct/summary.md)). (The warning is about a site that is tried and not taken.)
#
# Next: `7_your_own.py`. You have every tool; now the behaviour is yours.
