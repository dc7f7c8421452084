# %% [markdown]
# # 2. Adding a vector
#
# Activation addition (Turner et al. 2023) is the shortest way to steer. Run the model on two words, subtract one stream
# from the other, and add the difference while the model reads something else. No training, no new prompt.
#
# To see this lesson on a real language model, change `"nano"` in the next cell to `"smollm2-135m-instruct"`. The
# end says what differs there.

# %%
import torch
from check import by_hand, check, show

import ministeer
from ministeer import Receipt, Steer, extract, metrics, prefill, say
from ministeer.lab import data

model, tok = ministeer.load("nano")
SITE = ("pre", 1)  # the stream that enters block 1

# %% [markdown]
# ## The vector
#
# Record the stream over "Love" and over "Hate" at one site, and subtract. The two words must have equally many tokens,
# so that their rows match. Where these do not, we take "Good" and "Bad". Put your own words first in the
# list; nano spells most capitalised words letter by letter, so try lower case, as in "love" and "hate", or "Warm" and
# "Cold", which are four tokens each.
#
# **Predict first.** The difference has one row for each token: one for the special token that begins every text, and
# one for the word. How long is the first row?


# %%
def stream_over(text):
    """The stream at SITE over a text, (T, D)."""
    tape = [SITE]  # a list of sites is filled with the stream at each
    model(torch.tensor([tok.prompt(text)]), tape=tape)
    return tape[0][0]


pairs = [("Love", "Hate"), ("Good", "Bad")]
sizes = [[len(tok.encode(word)) for word in pair] for pair in pairs]  # in tokens
assert any(one == other for one, other in sizes), f"expected a pair of equally many tokens, got {sizes}; try others"
PLUS, MINUS = next(pair for pair, (one, other) in zip(pairs, sizes) if one == other)
v = stream_over(PLUS) - stream_over(MINUS)  # (P, D)
print(tuple(v.shape), "lengths of its rows:", [round(float(row.norm()), 1) for row in v])
print(f"length of the stream over {PLUS}:", [round(float(row.norm()), 1) for row in stream_over(PLUS)])

# %% [markdown]
# The first row is zero. The first token comes before the word, so its stream cannot know which word follows.
#
# ## The plus
#
# Lesson 1 ran the model as a loop. Here is the same loop with one line more.


# %%
def logits_with(text, c):
    """Logits after a text, (V,), with c * v added to the first tokens of the stream that enters block 1."""
    x = model.embed(torch.tensor([tok.prompt(text)]))
    for i, block in enumerate(model.blocks):
        if i == 1:
            x[:, : len(v)] = x[:, : len(v)] + c * v  # this line is steering
        x = block(x)
    return model.unembed(x)[0, -1]


def continued(text, c, tokens=12):
    """A text and what follows it: the likeliest token, again and again."""
    for _ in range(tokens):
        text += tok.decode([int(logits_with(text, c).argmax())])
    return text


# %% [markdown]
# **Predict first.** How does "The world is" go on with `c = 2`, how with `c = -2`? And with `c = 10`: twice as much
# love as with 5, or something else?

# %%
for c in (-2.0, 0.0, 1.0, 2.0, 5.0, 10.0):
    print(f"{c:+5.1f}   {continued('The world is', c)}")

# %% [markdown]
# Small coefficients change the mood and leave the language alone. Large ones break the language. There is no formula
# for where that begins: it depends on the model, the site and the vector.
#
# `Steer` and `say` do the same for you, with a cache, so that each new token is computed once. `where="front"` means:
# add the rows to the first positions, one each.

# %%
steer = Steer(v, SITE, 2.0, where="front")
said = say(model, tok, "The world is", max_new_tokens=12, steer=steer)
assert "The world is" + said == continued("The world is", 2.0)

love = extract.activation_addition(model, tok, PLUS, MINUS, SITE)  # the vector, as the library makes it
assert torch.allclose(love[SITE], v, atol=1e-4)  # to rounding, as both texts are read in one batch there
print(love)

# %% [markdown]
# ## A number for it
#
# A single text proves nothing: for any vector you could find one that looks good. We want a number over several prompts.
# Take 40 pleasant and 40 unpleasant words, and keep those that are one token. The **valence** of a prompt is
# log p(the next word is pleasant) - log p(it is unpleasant), in nats.
#
# **Predict first.** The valence, averaged over eight prompts, against the coefficient from -10 to 10: is it a straight
# line?

# %%
PROMPTS = ["I feel", "The world is", "My life is", "I think you are", "Today I am", "Our home is", "This garden is"]
PROMPTS += ["We are"]
prompts = [tok.prompt(text) for text in PROMPTS]
words = {}
for sign in ("1", "-1"):
    encoded = [tok.continuation(" " + row["word"]) for row in data.read("valence.tsv", sign=sign)]
    words[sign] = [i[0] for i in encoded if len(i) == 1]  # those that are one token where a text goes on


def valence(steer=None):
    """Of each prompt, (N,), in nats."""
    return metrics.log_odds(prefill(model, prompts, steer=steer), words["1"], words["-1"])


COEFFICIENTS = [-10.0, -5.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 5.0, 10.0]
found = torch.stack([valence(Steer(v, SITE, c, where="front")) for c in COEFFICIENTS])  # (C, N)
for c, row in zip(COEFFICIENTS, found):
    print(f"{c:+6.1f}  {row.mean():+.2f} nats")

# %%
import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
axes.plot(COEFFICIENTS, found, color="grey", linewidth=0.7)  # a line for each prompt
axes.plot(COEFFICIENTS, found.mean(1), color="black", marker="o", label="mean of the prompts")
axes.axhline(0, color="grey", linewidth=0.8, linestyle=":")
axes.set_xlabel(f'coefficient of "{PLUS}" - "{MINUS}"')
axes.set_ylabel("valence of the next word (nats)")
axes.legend()
show()

# %% [markdown]
# Near zero the mean is roughly a line: there a coefficient predicts the effect. Further out it bends, and at both
# ends it turns. At the far left the vector is subtracted, and yet the next word is pleasant. Look at the text there before
# you believe the number:

# %%
print(continued("The world is", -10.0))

# %% [markdown]
# So keep two habits. Read the text beside the number. And look at the thin lines, not only at the mean: prompts differ.
#
# ## How much is much?
#
# A coefficient of 2 means nothing by itself. What counts is how long the added vector is relative to the stream. A
# **receipt** says so, read off the tensors that were added.
#
# **Predict first.** You saw the lengths of `v` and of the stream above. What share of the stream is `2 * v`?

# %%
receipt = Receipt()
prefill(model, prompts, steer=steer, receipt=receipt)
print(receipt)

# %% [markdown]
# It counts the tokens of all prompts, and those at which something was added: one in each, at position 1. The first row
# of the vector is zero, and adds nothing.
#
# ## Where it is added
#
# Only the word at the front is changed; the later tokens notice it only through attention. We can also add the vector's
# last row to every token, with `where="all"`. And we can add at another depth.
#
# **Predict first.** Added at the front, the vector works at low sites. Will it work at the last one, after all blocks?

# %%
print(f"all tokens, c = 0.5: {valence(Steer(v[-1], SITE, 0.5, where='all')).mean() - valence().mean():+.2f} nats")
for i in range(model.config.n_layer + 1):
    site = ("pre", i)
    here = extract.activation_addition(model, tok, PLUS, MINUS, site)
    try:
        up, down = (valence(Steer(here, site, c, where="front")).mean() for c in (1.0, -1.0))
        print(f"front, pre {i}: {up - down:+.2f} nats between +1 and -1")
    except ValueError as error:
        print(f"front, pre {i}: {error}")

# %% [markdown]
# In the upper half nothing is left of it. By then the later tokens have read what they need from the first ones. After
# the last block nobody looks back at all, so ministeer refuses a vector that no prediction can hear.
#
# ## Exercises


# %% exercise 2.1
def difference(model, tok, plus, minus, i):
    """The stream over `plus` minus the stream over `minus` at the site ("pre", i), (T, D). Either text may be the
    shorter one: Turner et al. lengthen it on the right by spaces, each one token, `tok.single(" ")`."""
    # your lines here


# %%
@check(difference)
def _(difference):
    for plus, minus, i in (("Love", "Hate", 1), ("I love you", "I hate you so", 3), ("I love you so", "Hate", 2)):
        found = difference(model, tok, plus, minus, i)
        wanted = extract.activation_addition(model, tok, plus, minus, ("pre", i))["pre", i]
        assert found.shape == wanted.shape, (
            f"expected the shape {tuple(wanted.shape)}, got {tuple(found.shape)}; did tok.prompt make the ids, and is "
            "the shorter text as long as the other now?"
        )
        assert not torch.allclose(found, -wanted, atol=1e-3), "it points the other way"
        assert torch.allclose(found, wanted, atol=1e-3), (
            f"another vector than that at ('pre', {i}): is the shorter text lengthened on its right, and is it the "
            "stream of the whole text?"
        )


# %% exercise 2.2
def steered_logits(model, ids, v, i, c):
    """Logits (1, T, V) of ids (1, T), with c * v, v (D,), added to the last token alone, at ("mid", i): after the
    attention of block i, before its MLP. By hand, without `adds` and without `Steer`; exercise 1.1 met the site."""
    # your lines here


# %%
@check(steered_logits)
def _(steered_logits):
    ids = torch.tensor([tok.prompt("I think you are")])
    for i, c in ((1, 2.0), (3, -1.5)):
        alone = torch.zeros(1, ids.shape[1], 1)
        alone[:, -1] = c
        found = steered_logits(by_hand(model), ids, v[-1], i, c)
        wanted = model(ids, adds={("mid", i): alone * v[-1]})
        assert found.shape == wanted.shape, f"expected the shape {tuple(wanted.shape)}, got {tuple(found.shape)}"
        for adds, wrong in (
            ({}, "these are the unsteered logits"),
            ({("mid", i): c * v[-1]}, "it was added to every token"),
            ({("pre", i): alone * v[-1]}, f"it was added before the attention of block {i}"),
            ({("pre", i + 1): alone * v[-1]}, f"it was added after the MLP of block {i}"),
            ({("mid", i): alone / c * v[-1]}, "v was added, and not c * v"),
        ):
            assert not torch.allclose(found, model(ids, adds=adds), atol=1e-3), wrong
        assert torch.allclose(found, wanted, atol=1e-3), f"other logits; was it added in block {i} alone?"


# %% exercise 2.3
def coefficient_for(v, x, share):
    """The coefficient at which c * v is `share` times as long as the stream: v is (D,), and x, (N, D), are streams
    whose mean length counts."""
    # your lines here


# %%
@check(coefficient_for)
def _(coefficient_for):
    x = torch.stack([stream_over(text)[-1] for text in PROMPTS])
    for some, share in ((v[-1], 0.1), (5 * v[-1], 0.5)):
        c = float(coefficient_for(some, x, share))
        got = float(c * some.norm() / x.norm(dim=-1).mean())
        assert abs(got - share) < 1e-3, f"asked for {share} of the stream's length, your coefficient makes it {got:.3g}"


# %% [markdown]
# ## On SmolLM2
#
# The vector there is "Good" minus "Bad". The next words are pleasant without any vector, and the curve has its peak at 0:
# subtracting the vector makes them less pleasant, and adding it does too, but less. At a coefficient of 2 the vector is
# more than twice as long as the stream, and still the texts stay grammatical. The effect fades with depth: at three
# quarters something is left. Results on more prompts are in [NOTES.md](../results/smollm2-135m-instruct/NOTES.md).
#
# Next: `3_contrast.py`. One pair of words was luck. What do many pairs give, and what does a random vector do?
