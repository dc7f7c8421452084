# %% [markdown]
# # 7. Your own behaviour, from pairs to a verdict
#
# This lesson is a form to fill in. It goes through one behaviour, a good mood, in seven steps; each step is a cell or
# two that you can change for a behaviour of your own. What counts as a success is written down before the first
# measurement.
#
# To see it on a real language model, change `"nano"` in the next cell to `"smollm2-135m-instruct"`. The end says what
# differs there.

# %%
import torch
from check import check, show

import ministeer
from ministeer import Receipt, Steer, extract, interventions, metrics, prefill
from ministeer.lab import data

model, tok = ministeer.load("nano")
depth = model.config.n_layer

# %% [markdown]
# ## Step 1. Say what would count
#
# The vector is a tenth as long as the stream. The effect is half the difference between adding and subtracting it. Its
# **rank** is that of exercise 3.3: of the vector and the random ones together, the share that do at least as much. The
# behaviour is *supported* as steerable if the whole 95 % interval of the effect lies above the threshold, a quarter of
# a nat, and the rank is at most 0.01; *not supported* if the whole interval lies at or below the threshold, or the rank
# is above 0.05; else *inconclusive*.

# %%
SHARE, THRESHOLD = 0.1, 0.25

# %% [markdown]
# ## Step 2. Write the pairs
#
# Two lists of beginnings, one for each mood, alike in all else: in length, in grammar, in what they are about.
# And prompts that continue them. Some prompts are kept for the end and are never used to
# make or choose anything.

# %%
GOOD = ["I love you because you are so kind.", "I love the river.", "I love the song.", "I feel happy."]
BAD = ["I hate you because you are so cruel.", "I hate the river.", "I hate the song.", "I feel sad."]
TRAIN = ["My life is", "Our home is", "This garden is", "We are", "This letter is", "I think you are"]
HELD_OUT = ["The world is", "Today I am", "My job is", "You are", "This house is", "Our letter is", "They are"]
assert not set(TRAIN) & set(HELD_OUT)

pairs = [(f"{plus} {prompt}", f"{minus} {prompt}") for prompt in TRAIN for plus, minus in zip(GOOD, BAD)]


def known(words):
    """The ids of those words that are one token."""
    encoded = [tok.continuation(" " + word) for word in words]
    return [ids[0] for ids in encoded if len(ids) == 1]


mood = [known([row["word"] for row in data.read("valence.tsv", sign=sign)]) for sign in ("1", "-1")]
print(len(pairs), "pairs, such as", pairs[0])


def measured(texts, steer=None, words=mood):
    """log p(a word of the first list comes next) - log p(one of the second), of each text, (N,), in nats."""
    return metrics.log_odds(prefill(model, [tok.prompt(text) for text in texts], steer=steer), *words)


# %% [markdown]
# ## Step 3. Does the model know it?
#
# A vector cannot bring out what is not there. Put the beginnings before the training prompts: does the model itself go
# on in the mood?
#
# **Predict first.** By how many nats do the beginnings move it? It is a yardstick, not a limit: a larger dose of a
# vector can do more.

# %%
shown = measured([plus for plus, _ in pairs]) - measured([minus for _, minus in pairs])
print(f"half the difference that the beginnings make: {metrics.interval(shown / 2)} nats")

# %% [markdown]
# It does, by far more than our threshold: the behaviour is there to be steered.
#
# ## Step 4. Read, and look at the health
#
# **Predict first.** From which depth on will the halves of the data agree?

# %%
sites = [("pre", i) for i in range(1, depth + 1)]
read = extract.read(model, tok, pairs, sites, token="last")
vector = extract.contrastive(read)
for site in sites:
    h = vector.health[site]
    print(f"pre {site[1]:<3} split-half {h.split_half:+.2f}, d' {h.separability:+.2f}, agreement {h.agreement:+.2f}")

# %% [markdown]
# Split-half and agreement flatter here: many pairs, and so both halves, share a beginning's difference. Trust d' more:
# from pre 4 on the two moods lie well apart.
#
# ## Step 5. Choose the site on the training prompts
#
# **Predict first.** Will the site where the health is best also be the one where the same dose does most?


# %%
def effect(texts, v, site, words=mood):
    """Half the difference between adding and subtracting, of each text, (N,), in nats."""
    steer = Steer(interventions.relative(v), site, [SHARE] * len(texts) + [-SHARE] * len(texts), where="all")
    both = measured([*texts, *texts], steer, words)  # one run: a coefficient for each row
    return (both[: len(texts)] - both[len(texts) :]) / 2


by_site = {site: float(effect(TRAIN, vector[site], site).mean()) for site in sites}
site = max(by_site, key=by_site.get)
print("chosen:", site, {f"pre {i}": round(nats, 2) for (_, i), nats in by_site.items()})

# %% [markdown]
# On nano it is not: the health is best at pre 5, and the last site does most. After the last block nothing is computed
# from the vector. It pushes the words that are counted, not a thought. If that is not what you mean by a
# mood, leave this site out of `sites`.
#
# ## Step 6. Measure what was held out, beside random vectors
#
# Flip the sign of a random vector, and its effect changes sign too, so each one drawn stands for two. We draw fifty, which
# makes a hundred with their opposites. The smallest possible rank is then 1 / 101, just below 0.01; with fewer nothing
# could be supported.
#
# **Predict first.** You saw the effect on the training prompts. Larger here, or smaller? And how many of the random
# ones do as much?


# %%
def by_chance(texts, x, site, words=mood):
    """The mean effects on texts of 50 random mixes of streams x, (N, 2, D), and of their opposites, a list."""
    away = x.flatten(0, 1) - x.flatten(0, 1).mean(0)
    effects = []
    for seed in range(50):
        mix = torch.randn(len(away), generator=torch.Generator().manual_seed(seed)) @ away
        nats = float(effect(texts, mix, site, words).mean())
        effects += [nats, -nats]
    return effects


found = effect(HELD_OUT, vector[site], site)
mean, low, high = metrics.bootstrap(found, seed=0)
random = by_chance(HELD_OUT, read.streams[site], site)
its_rank = (1 + sum(nats >= mean for nats in random)) / (1 + len(random))
print(f"{mean:+.2f} nats [{low:+.2f}, {high:+.2f}]; {(found < 0).sum()} of {len(found)} prompts move the wrong way")
print(f"rank {its_rank:.4f} beside {len(random)} random vectors, of which the strongest does {max(random):+.2f}")

# %%
import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
axes.hist(random, bins=25, color="grey", label="random vectors")
axes.axvspan(low, high, alpha=0.3, label="the vector, 95 % interval")
axes.axvline(mean, label="the vector")
axes.axvline(THRESHOLD, color="black", linestyle=":", label="to exceed")
axes.set_xlabel("half the difference between adding and subtracting (nats)")
axes.set_ylabel("vectors")
axes.legend(fontsize=8)
show()

# %% [markdown]
# As much as on the training prompts: so few choices were made on those that little of it is luck. But look how near the
# strongest random vector comes. Had a single one done as much, the rank would have been too large.
#
# ## Step 7. The price, and the receipt
#
# **Predict first.** The vector has nothing to do with capitals and colours. What does it do to them?

# %%
facts = [row for row in data.facts(tok)[::4] if len(tok.continuation(" " + row["right"])) == 1]
asked = [tok.prompt(row["prompt"]) for row in facts]
right = torch.tensor([tok.single(" " + row["right"]) for row in facts])
plain, receipt = prefill(model, asked), Receipt()
steered = prefill(model, asked, steer=Steer(interventions.relative(vector[site]), site, SHARE), receipt=receipt)
shares = [float((logits.argmax(-1) == right).float().mean()) for logits in (plain, steered)]
print(f"facts said right: {shares[0]:.0%} without the vector, {shares[1]:.0%} with it")
print(f"KL on them: {float(metrics.kl(steered, plain).mean()):.3f} nats")
print(receipt)

# %% [markdown]
# Nothing, on nano. The receipt counts the positions whose change a prediction can hear. At the last site these are
# the last tokens alone, as no later block looks back at the others.
#
# ## The verdict
#
# The rule of step 1 and the numbers of step 6 leave nothing to decide. Exercise 7.1 writes the rule down and applies it
# to `low`, `high` and `its_rank`.
#
# Whatever it says, write beside it what it is about: this model, these prompts, this dose. And what you did not test:
# is it the mood, or does anything pleasant do it? Compare with a vector of another behaviour, as lesson 5 did with
# kindness.
#
# ## Exercises


# %% exercise 7.1
def verdict(low, high, threshold, rank):
    """The rule of step 1 for an interval from low to high: "supported", "not supported" or "inconclusive"."""
    # your lines here


# %%
@check(verdict)
def _(verdict):
    for given, wanted in (
        ((0.3, 0.9, 0.25, 0.001), "supported"),
        ((0.3, 0.9, 0.25, 0.01), "supported"),
        ((0.3, 0.9, 0.25, 0.03), "inconclusive"),
        ((0.3, 0.9, 0.25, 0.05), "inconclusive"),
        ((0.3, 0.9, 0.25, 0.2), "not supported"),
        ((0.1, 0.9, 0.25, 0.001), "inconclusive"),
        ((0.1, 0.9, 0.25, 0.2), "not supported"),
        ((0.25, 0.9, 0.25, 0.001), "inconclusive"),
        ((-0.2, 0.25, 0.25, 0.001), "not supported"),
    ):
        found = verdict(*given)
        assert found == wanted, f"expected {wanted!r} for verdict{given}, got {found!r}"
    print(f"a good mood: {verdict(low, high, THRESHOLD, its_rank)}")


# %% exercise 7.2
def my_pairs():
    """Eight pairs or more, (positive text, negative text), for a behaviour of your own. In each pair only the beginning
    differs: the last two words or more are the same, and do not yet show the behaviour. nano spells words
    that it does not know letter by letter; `len(tok.continuation(" word")) == 1` tells which it knows."""
    # your lines here


# %%
@check(my_pairs)
def _(my_pairs):
    mine = [tuple(pair) for pair in my_pairs()]
    assert len(mine) >= 8, f"expected eight pairs or more, got {len(mine)}"
    assert all(len(pair) == 2 and pair[0] != pair[1] for pair in mine), "each pair is two texts that differ"
    assert len(set(mine)) == len(mine), "a pair stands there twice"
    unlike = [plus for plus, minus in mine if plus.split()[-2:] != minus.split()[-2:]]
    assert not unlike, f"the two texts end differently in the pair of {unlike[0]!r}"
    health = extract.contrastive(model, tok, mine, sites, token="last").health
    best = max(health, key=lambda site: health[site].separability)
    assert not health[best].weak, (
        f"at no site is the direction of your pairs sound; at the best, {best}: {health[best]}"
    )
    print(f"your pairs, at {best}, where they lie furthest apart: {health[best]}")


# %% [markdown]
# Now say what would count for the behaviour of your pairs, before you measure it: words that show it and words that
# show its opposite, prompts that none of your pairs has, and the threshold in nats. The words and prompts below fit
# pairs on kind and cruel people. Change them, run the cell, and leave it as it is from then on.

# %%
SHOWS, OPPOSITE = ["kind", "gentle", "warm", "caring", "friendly"], ["cruel", "harsh", "mean", "cold", "brutal"]
ASKED = ["People say that Adam is", "Friends say that Adam is", "I think that Adam is", "The man is", "The woman is"]
ASKED += ["My sister is", "The doctor is", "Our teacher is"]
STATED = 0.25


# %% exercise 7.3
def judged(found, random, threshold):
    """The verdict of step 1's rule on a measurement: the effect of a vector on each held-out prompt, (N,), and the
    mean effect of each random vector, a list. The interval is `metrics.bootstrap`'s; the rank is that of the mean. If
    yours calls `verdict`, solve exercise 7.1 first."""
    # your lines here


# %%
@check(judged)
def _(judged):
    even, uneven = torch.linspace(0.8, 1.2, 7), torch.linspace(-1.0, 3.0, 7)  # the mean of both is 1
    for effects, chance, threshold, wanted, why in (
        (even, [0.0] * 100, 0.25, "supported", "the whole interval lies above the threshold"),
        (even, [0.0] * 100, 2.0, "not supported", "the whole interval lies below the threshold of 2"),
        (uneven, [0.0] * 100, 0.25, "inconclusive", "the interval holds the threshold, though the mean exceeds it"),
        (even, [0.0] * 99 + [1.5], 0.25, "inconclusive", "the rank is 2 / 101: the vector itself is ranked too"),
        (even, [0.0] * 95 + [1.5] * 5, 0.25, "not supported", "the rank is 6 / 101"),
        (even, [0.0] * 50, 0.25, "inconclusive", "50 random vectors allow no rank below 1 / 51"),
    ):
        said = judged(effects, chance, threshold)
        assert said == wanted, f"expected {wanted!r}, got {said!r}: {why}"
    yours = my_pairs() or pairs  # until exercise 7.2 is solved those of this lesson
    seen = [text for text in ASKED if any(text in pair[0] for pair in yours)]
    assert not seen, f"{seen[0]!r} is in your pairs, so it is not held out"
    x, words = extract.read(model, tok, yours, [site], token="last"), (known(SHOWS), known(OPPOSITE))
    effects = effect(ASKED, extract.contrastive(x)[site], site, words)
    random = by_chance(ASKED, x.streams[site], site, words)
    said, as_much = judged(effects, random, STATED), sum(nats >= float(effects.mean()) for nats in random)
    print(
        f"your behaviour: {metrics.interval(effects)} nats against {STATED}; {as_much} of {len(random)} random vectors do as "
        f"much: {said}"
    )


# %% [markdown]
# ## On SmolLM2
#
# A behaviour can have any words there; nano knows only those of its own sentences. The mood moves further, and at a
# price: of the facts that the model says right, two in five are lost. And expect to be unsure: of the
# nineteen claims tested on that model eleven came out inconclusive
# ([summary.md](../results/smollm2-135m-instruct/summary.md)).
#
# That is the course. From here: [one page per method](../methods.md), the [experiments](../../examples), and [what
# their verdicts do not say](../results/smollm2-135m-instruct/NOTES.md).
