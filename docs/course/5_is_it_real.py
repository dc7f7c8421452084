# %% [markdown]
# # 5. Is it real?
#
# A vector moved the mean by so many nats. Would it do so again, on other items? For each item, or for half of them
# while the others went the wrong way? This lesson puts a statistician's questions to the vector of lesson 3.
#
# To see it on a real language model, change `"nano"` in the next cell to `"smollm2-135m-instruct"`. The end says what
# differs there.

# %%
import numpy as np
import torch
from check import check, show

import ministeer
from ministeer import Steer, extract, interventions, metrics, prefill
from ministeer.lab import data

model, tok = ministeer.load("nano")
SITE = ("pre", model.config.n_layer * 5 // 8)

# %% [markdown]
# ## Items, and what each belongs to
#
# The items come from scenarios; several items are wordings of one scenario. The vectors are read from scenarios of the
# split `train`. The scenarios of `heldout` are others: nothing was read from them.

# %%
SIGNS = ("positive", "negative")


def rows_of(split):
    rows = data.read("values.tsv", value="honesty", split=split)
    return [row for row in rows if all(len(tok.continuation(row[sign])) == 1 for sign in SIGNS)]


train, held_out = rows_of("train"), rows_of("heldout")
scenarios = [row["scenario"] for row in held_out]
print(f"held out: {len(held_out)} items of {len(set(scenarios))} scenarios")

# %% [markdown]
# ## Four vectors
#
# Honesty, with the contrast in the context, as in lesson 3. Honesty, with the contrast in the answer itself, as the
# method was published. Kindness, in the context. And a random one: a mix of the streams of the first, the harder control
# of lesson 3.

# %%
in_answer = [(row["prompt"] + row["positive"], row["prompt"] + row["negative"]) for row in train]
pairs = data.context_pairs("honesty")
read = extract.read(model, tok, pairs, SITE, token="last")
away = read.streams[SITE].flatten(0, 1)  # (2N, D)
away = away - away.mean(0)
vectors = {
    "honesty, context": extract.contrastive(read)[SITE],
    "honesty, answer": extract.contrastive(model, tok, in_answer, SITE)[SITE],
    "kindness, context": extract.contrastive(model, tok, data.context_pairs("kindness"), SITE, token="last")[SITE],
    "random": torch.randn(len(away), generator=torch.Generator().manual_seed(0)) @ away,
}

# %% [markdown]
# ## One number for each item
#
# Add the vector at several strengths, from minus to plus, and take the logit difference each time. The slope of a
# straight line through these points is the item's **steerability** (Tan et al. 2024): nats per tenth of the
# stream's length.
#
# **Predict first.** You know the means from lesson 3. How many items move the wrong way, that is, have a negative
# slope?

# %%
MULTIPLIERS = [-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5]  # in tenths of the stream's length


def differences(v, rows):
    """The logit difference of each item at each multiplier, (N, M)."""
    prompts = [tok.prompt(row["prompt"]) for row in rows]
    answers = [[tok.single(row[sign]) for row in rows] for sign in SIGNS]
    columns = []
    for c in MULTIPLIERS:
        steer = Steer(interventions.relative(v), SITE, c / 10, where="last")
        columns.append(metrics.logit_difference(prefill(model, prompts, steer=steer), *answers))
    return torch.stack(columns, 1)


slopes = {name: metrics.steerability(MULTIPLIERS, differences(v, held_out)) for name, v in vectors.items()}
for name, each in slopes.items():
    print(f"{name:>17}: mean {each.mean():+.2f}, from {each.min():+.2f} to {each.max():+.2f}, "
          f"the wrong way {(each < 0).sum()} of {len(each)}")  # fmt: skip

# %%
import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
for name, each in slopes.items():
    axes.plot(sorted(each), range(len(each)), marker="o", markersize=3, linewidth=0.7, label=name)
axes.axvline(0, color="grey", linewidth=0.8)
axes.set_xlabel("steerability (nats for a tenth of the stream)")
axes.set_ylabel("items, from the lowest up")
axes.legend(fontsize=8)
show()

# %% [markdown]
# A dot left of zero is an item moved the wrong way. A mean hides them; so draw the items before you print a mean. And
# look at the vector for kindness: it was read from texts without a word of honesty, and it does nearly all of what you
# called honesty. What both have in common, a good person against a bad one, would explain either. Another behaviour
# is a stricter control than chance.
#
# ## How sure is the mean?
#
# The items are a few of many that could have been written. The **bootstrap** asks how the mean would vary: draw N
# of your N items, with repeats, take the mean, and do so a thousand times. The middle 95 % of these means is the
# interval.
#
# **Predict first.** We can draw items, or whole scenarios with all their items. Which interval will be wider?

# %%
for name, each in slopes.items():
    print(f"{name:>17}: over items {metrics.interval(each)}, over scenarios {metrics.interval(each, groups=scenarios)}")

# %% [markdown]
# Items of one scenario are alike. If they move alike too, there are fewer independent observations than items, and
# the interval over items is too narrow. The interval over scenarios is the honest one, even where it comes out
# narrower. (Its mean is the mean over scenarios, so it may differ a little.)
#
# The interval of the random vector excludes zero too. An interval says that an effect would recur with other
# items. It does not say what causes it: this one push favours some endings, and they recur. Only *many*
# random vectors tell how far such pushes reach, as in lesson 3.
#
# ## Does 95 % mean 95 %?
#
# Test the tool on data whose truth you know. 200 times, we draw 7 numbers around zero, make the interval, and see if it
# holds zero.
#
# **Predict first.** How often will plain resampling hold the truth: 95 times in 100, more, or fewer?

# %%
rng = np.random.default_rng(0)
plain = better = 0
for seed in range(200):
    seven = rng.normal(size=7)
    means = seven[rng.integers(0, 7, (500, 7))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    plain += low < 0 < high
    _, low, high = metrics.bootstrap(seven, seed=seed, draws=500)
    better += low < 0 < high
print(f"plain resampling holds the truth in {plain / 200:.0%}, metrics.bootstrap in {better / 200:.0%}")

# %% [markdown]
# A small sample understates the spread, so plain resampling is overconfident. `metrics.bootstrap` widens the interval
# by the ratio of Student's t to the normal. Do you see 95 % there? With 200 draws such a share is known to three
# points or so either way; put 2000 in the loop to be surer. Below five items no such remedy helps: write more items.
#
# ## Held out
#
# **Predict first.** The vector read in the answers has seen the training scenarios with their endings. Is it stronger
# on those than on the held-out ones?

# %%
for name in ("honesty, context", "honesty, answer"):
    seen = metrics.steerability(MULTIPLIERS, differences(vectors[name], train[::2]))
    print(f"{name:>17}: training {metrics.interval(seen, groups=[row['scenario'] for row in train[::2]])}, "
          f"held out {metrics.interval(slopes[name], groups=scenarios)}")  # fmt: skip

# %% [markdown]
# Both are stronger there. But the vector read in the context saw no scenario at all, so the training items are easier to
# move: by a third, judging by this vector. The one read in the answers moves them by twice as much, and what goes beyond
# that third is not honesty but a memory of these very words. Report the held-out result, and choose site and
# strength on the training items, or the held-out ones are no longer held out.
#
# ## Exercises


# %% exercise 5.1
def slope(multipliers, differences):
    """Steerability, (N,): for each row of `differences`, (N, M), the slope of the least-squares line over the
    M multipliers, (M,)."""
    # your lines here


# %%
@check(slope)
def _(slope):
    x = np.array([-1.0, 0.0, 3.0])
    y = np.array([[2.0, 4.0, 10.0], [1.0, 1.0, 1.0], [0.0, 3.0, 1.0]])
    found = np.asarray(slope(x, y), dtype=float)
    assert found.shape == (3,), f"expected a slope for each of 3 items, got the shape {found.shape}"
    assert abs(found[1]) < 1e-6, f"an item that does not move has slope 0, yours is {found[1]:.3g}"
    assert abs(found[0] - 2) < 1e-6, f"these points lie on a line of slope 2, yours is {found[0]:.3g}"
    wanted = metrics.steerability(x, y)[2]
    assert abs(found[2] - wanted) < 1e-6, f"through all points, not the first and the last: expected {wanted:.3g}"


# %% exercise 5.2
def interval_over(values, groups, seed):
    """(mean, low, high) by plain resampling of groups: what is drawn are the means of the groups, with
    repeats, 2000 times. values: an array (N,); groups: a list of N labels; low and high hold the middle 95 %."""
    # your lines here


# %%
@check(interval_over)
def _(interval_over):
    rng = np.random.default_rng(1)
    sizes = [1] * 27 + [20] * 3  # of 30 groups, whose items are all alike
    centres = rng.normal(size=30)
    values, groups = np.repeat(centres, sizes), np.repeat(np.arange(30), sizes).tolist()
    mean, low, high = (float(number) for number in interval_over(values, groups, 0))
    assert abs(mean - centres.mean()) < 1e-6, "the mean should be the mean of the groups' means"
    assert low < mean < high, f"expected low < mean < high, got {low:.3g}, {mean:.3g}, {high:.3g}"
    half, wanted = (high - low) / 2, 1.96 * centres.std() / 30**0.5
    assert 0.9 < half / wanted < 1.1, (
        f"half of your interval is {half:.2f} wide, expected about {wanted:.2f}; is the group the unit, does each drawn one count once, and "
        "does the interval hold 95 %?"
    )


# %% exercise 5.3
def at_most(n, level=0.95):
    """You saw none of n independent items move the wrong way. Return the share p of wrong items at which seeing none
    among n has the probability 1 - level: a larger share would have been a surprise."""
    # your lines here


# %%
@check(at_most)
def _(at_most):
    drawn = np.random.default_rng(0)
    for n, level, wanted in ((21, 0.95, 0.1329), (7, 0.95, 0.3482), (100, 0.99, 0.0450)):
        p = float(at_most(n, level))
        assert 0 < p < 1, f"expected a share between 0 and 1, got {p:.3g}"
        none = float((drawn.binomial(n, p, 100_000) == 0).mean())
        assert abs(p - wanted) < 1e-4, (
            f"with a share of {p:.3f}, none of {n} was wrong in {none:.1%} of 100,000 draws; asked for {1 - level:.0%}"
        )


# %% [markdown]
# Exercise 5.3 tells what moving no item the wrong way is worth: enter the number of scenarios, not of
# items. A result is: an effect on held-out items, its interval over what is independent, what random vectors do, and
# how many items go the wrong way.
#
# ## On SmolLM2
#
# The two vectors read in the context do far less there, and honesty and kindness cannot be told apart again. The interval
# of the random vector holds zero, and the training items are no easier than the others. These items are few and of one
# value. Over six values, and in scenarios of all kinds, 31 % of the held-out items move the wrong way, with a 99.7 %
# interval from 21 to 43 % ([summary.md](../results/smollm2-135m-instruct/summary.md)). It is wider than one at 95 %,
# because nineteen claims share the 5 % of error.
#
# Next: `6_the_price.py`. It is real. What did it cost?
