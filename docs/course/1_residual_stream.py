# %% [markdown]
# # 1. The residual stream, by hand
#
# A transformer keeps one vector for each token. Every block reads these vectors and adds something to them. At the end
# the vector of the last token is turned into a prediction of the next word. The vectors are called the **residual
# stream**. Steering adds one more vector to them, so this is what we look at first.
#
# You need PyTorch and an hour at most. The model is `nano`: a small GPT-2 trained on sentences that a program wrote. It
# knows a few thousand words and runs in seconds on a laptop. Keep [`model.py`](../../ministeer/model.py) open
# as you read: all that happens here is in it.
#
# To see this lesson on a real language model, change `"nano"` in the next cell to `"smollm2-135m-instruct"`. The
# end says what differs there.

# %%
import torch
from check import by_hand, check, show

import ministeer

model, tok = ministeer.load("nano")
depth, width = model.config.n_layer, model.config.width
print(f"{depth} blocks on a stream that is {width} numbers wide")

# %% [markdown]
# ## From text to stream
#
# `tok.prompt` gives the ids of a text. It puts one special token first, because that is how the model's training texts
# began. Letters for shapes: B texts, T tokens, D width, V vocabulary.

# %%
text = "The capital of France is"
ids = torch.tensor([tok.prompt(text)])  # (B, T), here with B = 1
print([tok.decode([i]) for i in ids[0].tolist()])

x = model.embed(ids)  # (B, T) -> (B, T, D)
print("the stream that enters block 0:", tuple(x.shape))

# %% [markdown]
# ## The whole model is a loop
#
# Nothing is hidden in these five lines: embed, run each block on the stream, unembed. The result equals `model(ids)` to
# the last bit.

# %%
x = model.embed(ids)
for block in model.blocks:
    x = block(x)  # (B, T, D) -> (B, T, D)
logits = model.unembed(x)  # (B, T, D) -> (B, T, V)

assert torch.equal(logits, model(ids))
print(text, "->", tok.decode([int(logits[0, -1].argmax())]))

# %% [markdown]
# ## Reading the stream early
#
# `unembed` takes any stream, not only the last one. So we can ask after each block: if the model had to answer now,
# what would it say? This is known as the logit lens.
#
# **Predict first.** After how many of its blocks does the model know that the answer is Paris? And what does the stream
# say before the first block, when each token knows only itself?


# %%
def lens(text):
    """The likeliest next word at each depth: before block 0, before block 1, ..., after the last block."""
    x = model.embed(torch.tensor([tok.prompt(text)]))
    said = [tok.decode([int(model.unembed(x)[0, -1].argmax())])]
    for block in model.blocks:
        x = block(x)
        said.append(tok.decode([int(model.unembed(x)[0, -1].argmax())]))
    return said


for some in (text, "The opposite of hot is", "The queen said that"):
    print(some)
    for i, word in enumerate(lens(some)):
        print(f"   pre {i}: {word}")

# %% [markdown]
# Before block 0 the stream mostly says the token just read: the embedding also unembeds. Then come common words that
# have nothing to do with the question, and the answer in the upper half. The lens shows when the answer becomes readable.
# The word that decides it, "France", "hot" or "queen", may have been copied to this token earlier, in a form that only
# later blocks turn into a word.
#
# ## Names for places
#
# A place in the stream is called a **site**. `("pre", i)` is the stream that enters block i, so `("pre", 0)` is the
# embedding and `("pre", n_layer)` leaves the last block. `("mid", i)` lies inside block i, between its attention and
# its MLP. What other libraries call the output of block i is `("pre", i + 1)` here. In the drawing, of a model with 30
# blocks, the line is the stream and the points are the sites `("pre", i)`.
#
# ![The stream as a line, blocks that read it and add to it, and a vector added at one site](../../ministeer/play/stream.svg)
#
# A **tape** records the stream at the sites you ask for; an empty one records all of them.

# %%
tape = {}
model(ids, tape=tape)
print(len(tape), "sites:", list(tape)[:4], "...", list(tape)[-1])

assert torch.equal(tape["pre", 1], model.blocks[0](model.embed(ids)))

# %% [markdown]
# ## What is in it
#
# **Predict first.** Take the last token of two texts that have nothing in common. How alike are their streams? A cosine
# of 1 means the same direction, 0 means unrelated ones.

# %%
one, other = "The capital of France is", "I think you are"
tapes = []
for some in (one, other):
    tapes.append({})
    model(torch.tensor([tok.prompt(some)]), tape=tapes[-1])
print("site     length  cosine")
for i in range(depth + 1):
    a, b = (t["pre", i][0, -1] for t in tapes)
    print(f"pre {i}   {a.norm():7.1f}  {torch.cosine_similarity(a, b, dim=0):+.2f}")

# %% [markdown]
# The first block makes the stream many times longer, and what it adds is much the same in every text. Low in the model,
# most of a stream's length says nothing about the text; only further up do two texts diverge. So we seldom look at one
# stream alone. We look at the **difference** of two streams: what they share cancels, and what tells the texts apart is
# left. All of steering begins there.
#
# ## Who hears what
#
# Attention is causal: a token reads those before it, never those after it.
#
# **Predict first.** We replace "France" by "Germany". At which positions will the last stream differ?

# %%
swapped = torch.tensor([tok.prompt("The capital of Germany is")])
assert swapped.shape == ids.shape
differs = (model.stream(ids) - model.stream(swapped)).norm(dim=-1)[0]  # (T,)
for token, d in zip(ids[0].tolist(), differs.tolist()):
    print(f"{tok.decode([token]):>15} {d:8.2f}")

# %% [markdown]
# From the changed word on, and never before it. Remember this when you choose where to add a vector: what is added to a
# token reaches that token and all later ones.
#
# ## A figure: Paris against Rome
#
# The **logit difference** of two answers is the logit of one minus that of the other. It is also the difference of
# their log-probabilities, because the normalising constant cancels. Its unit is the **nat**, the unit of natural
# logarithms: one nat makes the first answer e = 2.7 times likelier against the second.
#
# **Predict first.** The lens said "Paris" from some depth on. Where will the line leave zero?

# %%
import matplotlib.pyplot as plt

right, wrong = tok.single(" Paris"), tok.single(" Rome")
difference = []
for i in range(depth + 1):
    at = model.unembed(tape["pre", i])[0, -1]  # (V,)
    difference.append(float(at[right] - at[wrong]))

figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
axes.plot(range(depth + 1), difference, marker="o")
axes.axhline(0, color="grey", linewidth=0.8)
axes.set_xlabel('depth i of the site ("pre", i)')
axes.set_ylabel("logit of Paris - logit of Rome (nats)")
axes.set_title(text)
show()

# %% [markdown]
# It lies above zero long before the lens says "Paris": a lens shows the winner alone, and a difference of two answers
# shows who leads long before one of them wins. So we shall measure differences.
#
# ## Exercises
#
# Write your code below each docstring, then run that cell and the next, which says "right" or what is still
# wrong. Solutions are in `solutions.py`; try for ten minutes before you look.


# %% exercise 1.1
def mid_stream(model, ids, i):
    """The stream (B, T, D) at the site ("mid", i), without a tape. Look at `Block` in model.py first: which part of
    block i has run there?"""
    # your lines here


# %%
@check(mid_stream)
def _(mid_stream):
    for i in (0, 3, depth - 1):
        found, wanted = mid_stream(by_hand(model), ids, i), tape["mid", i]
        assert found.shape == wanted.shape, f"expected the shape {tuple(wanted.shape)}, got {tuple(found.shape)}"
        assert not torch.equal(found, tape["pre", i]), f"this is ('pre', {i}): no part of block {i} has run there"
        assert not torch.equal(found, tape["pre", i + 1]), f"this is ('pre', {i + 1}): all of block {i} has run there"
        assert torch.equal(found, wanted), (
            f"another stream than that at ('mid', {i}): how many blocks have run there, does yours still hold what "
            f"entered block {i}, and did attention read the normed stream?"
        )


# %% exercise 1.2
def writes(model, ids):
    """What each block adds to the stream of the last token: a tensor (n_layer, D). Of one text, ids (1, T)."""
    # your lines here


# %%
@check(writes)
def _(writes):
    found = writes(model, ids)
    assert isinstance(found, torch.Tensor), (
        f"expected a tensor, got a {type(found).__name__}; torch.stack makes one of a list"
    )
    assert found.shape == (depth, width), f"expected the shape {(depth, width)}, got {tuple(found.shape)}"
    so_far = model.embed(ids)[0, -1] + found.cumsum(0)  # (n_layer, D): the embedding and what the first blocks add
    for i, x in enumerate(so_far, 1):
        assert torch.allclose(x, tape["pre", i][0, -1], atol=1e-3), (
            f"the embedding plus rows 0 to {i - 1} should be the stream at ('pre', {i}); is each row the stream after "
            "a block minus the stream before it?"
        )


# %% exercise 1.3
def settled(said):
    """The depth at which a lens settles: the smallest i such that all words of said[i:] are the same."""
    # your lines here


# %%
@check(settled)
def _(settled):
    for said, wanted in ((lens(text), None), (["a", "b", "b"], 1), (["b", "a", "b"], 2), (["a", "a"], 0)):
        i = settled(said)
        assert 0 <= i < len(said) and set(said[i:]) == {said[-1]}, f"from {i} on, {said} does not say the same"
        assert i == 0 or said[i - 1] != said[-1], f"{said} says its last word before {i} already"
        assert wanted in (None, i), f"expected {wanted} for {said}, got {i}"


# %% [markdown]
# ## On SmolLM2
#
# It has more blocks, a vocabulary in which a word can be several tokens, and no vector for the position: positions
# enter inside attention. The lens shows the answers only in the last three blocks. And the stream grows nearly all the
# way up, to some seven times the length it has after a quarter of the blocks, so one and the same vector weighs less the
# higher it is added.
#
# Next: `2_adding_a_vector.py`. You have read the stream; now you write to it.
