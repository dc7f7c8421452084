# %% [markdown]
# # 3. Contrast, and why a random vector comes first
#
# One pair of words was luck. Contrastive activation addition (Panickssery et al. 2024) takes many pairs of texts that
# differ in one thing, and adds the mean of their differences. This lesson makes such a vector for honesty. But first it
# asks what a vector nobody chose does, because a result is only as good as what it is compared with.
#
# To see this lesson on a real language model, change `"nano"` in the next cell to `"smollm2-135m-instruct"`. The
# end says what differs there.

# %%
import torch
from check import check, show

import ministeer
from ministeer import Steer, extract, interventions, metrics, prefill
from ministeer.lab import data

model, tok = ministeer.load("nano")
SITE = ("pre", model.config.n_layer * 5 // 8)  # somewhat above the middle
print(SITE)

# %% [markdown]
# ## What we measure
#
# Each item is the beginning of a sentence with two ways to end it, an honest one and a dishonest one, one token each.
# We take the **logit difference**: the logit of the honest ending minus that of the other, in nats.

# %%
SIGNS = ("positive", "negative")
items = data.read("values.tsv", value="honesty", split="heldout")  # situations that no pair below is about
items = [row for row in items if all(len(tok.continuation(row[sign])) == 1 for sign in SIGNS)]
prompts = [tok.prompt(row["prompt"]) for row in items]
answers = [[tok.single(row[sign]) for row in items] for sign in SIGNS]
for row in items[::6]:
    print(f"{row['prompt']} ...{row['positive']} /{row['negative']}")


def differences(steer=None):
    """The logit difference of each item, (N,)."""
    return metrics.logit_difference(prefill(model, prompts, steer=steer), *answers)


plain = differences()
print(f"{len(items)} items; unsteered {plain.mean():+.2f} nats, honest ending preferred in {(plain > 0).sum()}")

# %% [markdown]
# ## The same dose for every vector
#
# Vectors have different lengths, so equal coefficients are not equal doses. `interventions.relative(v)` adds along v
# whatever its length: the coefficient is then the share of the stream's own length. From here on we add a tenth, at the
# last token of the prompt (`where="last"`).


# %%
def effect(v, share=0.1):
    """By how much a vector moves each item, (N,), in nats."""
    return differences(Steer(interventions.relative(v), SITE, share, where="last")) - plain


# %% [markdown]
# ## First, a random vector
#
# **Predict first.** We draw 20 directions at random and add each. They know nothing of honesty. How far do they move
# the mean of the items: not at all, or by a hundredth, a tenth, or a whole nat?

# %%
random = []
for seed in range(20):
    drawn = torch.randn(model.config.width, generator=torch.Generator().manual_seed(seed))
    random.append(float(effect(drawn).mean()))
print(f"20 random vectors move the items by {min(random):+.2f} to {max(random):+.2f} nats")

# %% [markdown]
# Not zero. Any push moves the logits, and the items are related: the same few endings occur in many of them, so a
# push that favours one ending moves them all. An effect inside this range is no result, whatever the vector is called.
#
# ## Pairs
#
# Now texts that differ in one thing. A first sentence says whether the person is honest; then the same
# sentence follows.

# %%
pairs = data.context_pairs("honesty")
print(len(pairs), "pairs")
for plus, minus in pairs[:2]:
    print("+", plus)
    print("-", minus)

# %% [markdown]
# Both texts of a pair end alike. We read the stream at their last token, where the model is about to continue and has
# to know whom it is talking about.
#
# **Predict first.** The last tokens are the same word. From which depth on can their streams tell honest from
# dishonest?

# %%
sites = [("pre", i) for i in range(1, model.config.n_layer + 1)]
read = extract.read(model, tok, pairs, sites, token="last")
vector = extract.contrastive(read)
print("site    norm  split-half     d'  agreement")
for site in sites:
    h = vector.health[site]
    print(f"pre {site[1]:<3} {h.relative_norm:5.2f}  {h.split_half:10.2f}  {h.separability:5.2f}  {h.agreement:9.2f}")

# %% [markdown]
# These four numbers are the **health** of the vector at each site, known before anything is steered. *Norm*: its length
# over the stream's. *Split-half*: the cosine between the vectors of two halves of the pairs. *d'*: how far
# apart the two kinds of text lie along it, in standard deviations. *Agreement*: the mean cosine between the differences
# of two pairs. Up to pre 3 single pairs have next to nothing in common, and the cosine between the halves is only
# about a half: attention has not yet carried the word "honest" to this token, and most of the difference is noise. From
# pre 4 on all numbers are high. A vector of noise can be added all the same, and looks like any other.
#
# By hand, the vector is one line:

# %%
x = read.streams[SITE]  # (N, 2, D), the positive text first
v = (x[:, 0] - x[:, 1]).mean(0)
assert torch.allclose(v, vector[SITE], atol=1e-4)

# %% [markdown]
# **Predict first.** Is its effect larger than that of all random vectors?

# %%
moved = effect(v)
print(f"the vector moves the items by {moved.mean():+.2f} nats, {(moved > 0).sum()} of {len(items)} the right way")
print(f"subtracted: {effect(-v).mean():+.2f} nats")

# %% [markdown]
# ## A harder control
#
# A direction drawn from all directions is an easy rival. The model's own states occupy only a few directions, and a
# vector outside them has little effect. A fairer rival lies where the streams lie: a random mix of the deviations of the
# pairs' streams from the mean. Drawn again and again, such mixes vary as the streams do: they have the same **covariance**.
#
# **Predict first.** Will these reach further than the first 20? As far as the vector?

# %%
states = x.flatten(0, 1)  # (2N, D)
away = states - states.mean(0)
harder = []
for seed in range(20):
    mix = torch.randn(len(away), generator=torch.Generator().manual_seed(seed))
    harder.append(float(effect(mix @ away).mean()))
print(f"20 with the stream's covariance: {min(harder):+.2f} to {max(harder):+.2f} nats")

# %%
import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
bins = torch.linspace(-2, 2, 41).tolist()
axes.hist(random, bins=bins, alpha=0.6, label="random")
axes.hist(harder, bins=bins, alpha=0.6, label="random, with the stream's covariance")
axes.axvline(float(moved.mean()), color="black", label="the vector")
axes.set_xlabel("mean change of the logit difference (nats)")
axes.set_ylabel("vectors")
axes.legend(fontsize=8)
show()

# %% [markdown]
# The harder rivals reach several times as far, and the strongest does most of what the vector does. They are hard indeed:
# drawn from the streams of the pairs, they hold some of the difference between honest and dishonest as well. The first
# question on any steering result is: against which random vectors?
#
# ## How many pairs?
#
# **Predict first.** The vector above was made of all pairs. How much of its effect does a single pair give?

# %%
for n in (1, 4, 16, len(pairs)):
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))
    few = (x[order[:n], 0] - x[order[:n], 1]).mean(0)
    cosine = torch.cosine_similarity(few, v, dim=0)
    print(f"{n:3} pairs: {effect(few).mean():+.2f} nats, cosine with the vector of all {cosine:.2f}")

# %% [markdown]
# Here one pair is nearly enough, which fits the agreement in the table: the differences of all pairs point the same
# way. That is a toy's luck. Where agreement is low, a mean over many pairs is all there is.
#
# ## Exercises


# %% exercise 3.1
def split_half(x):
    """Whether two halves of the pairs agree: the cosine of the vector of pairs 0, 2, 4, ... and that of pairs 1, 3, 5,
    .... That is one of the ways to halve them. x: the streams of N pairs, (N, 2, D), the positive text first."""
    # your lines here


# %%
@check(split_half)
def _(split_half):
    shared = torch.tensor([9.0, 9.0, 0.0])  # in every stream, whatever the text
    for differences, wanted in (
        ([[2.0, 0.0, 0.0], [3.0, 0.0, 0.0], [4.0, 0.0, 0.0], [1.0, 0.0, 0.0]], 1.0),
        ([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [4.0, 0.0, 0.0], [0.0, 5.0, 0.0]], 0.0),
        ([[1.0, 1.0, 0.0], [-3.0, 0.0, 0.0], [1.0, -1.0, 0.0], [1.0, 0.0, 0.0]], -1.0),
    ):
        plus = shared + torch.tensor(differences)
        found = float(split_half(torch.stack([plus, shared.expand_as(plus)], 1)))
        assert abs(found - wanted) < 1e-4, (
            f"for pairs that differ by {differences} expected {wanted}, got {found:.3g}; is it the cosine of mean "
            "differences, with every other pair in each half?"
        )
    print(f"at {SITE} {float(split_half(x)):.2f}; the table above has the mean over several ways to halve")


# %% exercise 3.2
def random_within(x, length, seed):
    """A random vector (D,) of this length: a random mix, by the seed, of how the streams x, (N, D), deviate from their
    mean."""
    # your lines here


# %%
@check(random_within)
def _(random_within):
    few = states[:5]
    found = random_within(few, 3.0, 0)
    assert found.shape == v.shape, f"expected the shape {tuple(v.shape)}, got {tuple(found.shape)}"
    assert abs(float(found.norm()) - 3) < 1e-3, f"asked for a length of 3, got {float(found.norm()):.3g}"
    assert torch.equal(found, random_within(few, 3.0, 0)), "the same seed gives another vector"
    assert not torch.allclose(found, random_within(few, 3.0, 1)), "another seed gives the same vector"
    alike = torch.cosine_similarity(few - few.mean(0), found[None]).abs().max()
    assert alike < 0.999, "this is one of the deviations; mix all of them"
    basis = torch.linalg.qr((few - few.mean(0)).T).Q[:, :4]  # five deviations, which sum to zero, span four directions
    outside = float((found - basis @ (basis.T @ found)).norm())
    assert outside < 0.03, f"a part of length {outside:.2g} is no mix of the deviations; was the mean subtracted?"


# %% exercise 3.3
def rank(effect, random):
    """How rarely chance does as much: among the vector and the random ones, the share whose effect is at least
    the vector's. The vector itself counts, so it is never 0. effect: a number; random: a list of numbers."""
    # your lines here


# %%
@check(rank)
def _(rank):
    for given, wanted in (((2.0, [0.0, 1.0, -3.0]), 1 / 4), ((1.0, [0.0, 1.0, 2.0]), 3 / 4), ((-1.0, [0.0]), 1.0)):
        found = float(rank(*given))
        assert abs(found - wanted) < 1e-6, f"expected {wanted} for rank{given}, got {found:.3g}"


# %% [markdown]
# ## On SmolLM2
#
# A tenth of the stream moves these items by a third of a nat there, and none of the 40 random vectors does as much; those
# of the second kind are hardly harder than the first. The pairs agree far less: a single one gives next to nothing, four
# give most of the effect. Experiment 6 asks the same of six values
# ([summary.md](../results/smollm2-135m-instruct/summary.md)).
#
# Next: `4_function_vectors.py`. A vector can hold more than a mood: it can hold a task.
