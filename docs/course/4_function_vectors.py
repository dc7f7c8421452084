# %% [markdown]
# # 4. Function vectors, and the heads that write them
#
# Show a model a few words with their opposites, and it gives the opposite of the next one. Somewhere at the last token
# its stream must hold "give the opposite". Todd et al. (2024) took that state out, added it to a prompt that shows
# nothing, and found the attention heads that write it. So does this lesson.
#
# To see it on a real language model, change `"nano"` in the next cell to `"smollm2-135m-instruct"`. What differs there:
# that the model knows the task means that demonstrations are worth a nat, not that it answers right, so look at nats.
# Its antonym vectors add 1.0 nats to log p(opposite), with an interval from 0.49 to 1.50
# ([summary.md](../results/smollm2-135m-instruct/summary.md), [NOTES.md](../results/smollm2-135m-instruct/NOTES.md)).

# %%
import torch
from check import check, show

import ministeer
from ministeer import Steer, extract, heads, interventions, prefill
from ministeer.lab import data

model, tok = ministeer.load("nano")
depth = model.config.n_layer

# %% [markdown]
# ## The task, shown and not shown

# %%
STRUCTURE = "question_answer"
every = data.answerable(tok)
tasks = {name: every[name] for name in ("antonym", "synonym", "plural", "past")}
held_out = [pair for pair in tasks["antonym"]["heldout"] if len(tok.encode(" " + pair[1])) == 1][::2][:40]


def asked(shown):
    """Of each held-out word the prompt, after so many demonstrations."""
    some = data.few_shot(held_out, tasks["antonym"]["train"], len(held_out), structure=STRUCTURE, shots=shown, seed=0)
    return [tok.prompt(item["prompt"]) for item in some], [item["words"][0] for item in some]


bare, answers = asked(0)
shown, _ = asked(5)
print(tok.decode(shown[0][1:]))


def measured(prompts, steer=None):
    """Of each prompt log p(the opposite) in nats, and whether the likeliest token is the opposite, each (N,)."""
    logits = prefill(model, prompts, steer=steer)
    right = torch.tensor([tok.single(word) for word in answers])
    return logits.log_softmax(-1)[torch.arange(len(right)), right], (logits.argmax(-1) == right).float()


# %% [markdown]
# **Predict first.** How often is the likeliest word the opposite after five demonstrations? And after none, where the
# prompt is a word and nothing else?

# %%
for name, prompts in (("5 demonstrations", shown), ("none", bare)):
    nats, right = measured(prompts)
    print(f"{name:>17}: log p(opposite) {nats.mean():+.2f} nats, right {right.mean():.0%}")

# %% [markdown]
# ## The state that demonstrations leave
#
# Read the stream at the last token of many lists and take the mean. Most of that mean is in every list of any task: a
# word is due, in this format. So subtract what lists of other tasks leave.

# %%
lists = data.task_prompts(tasks, 16, structure=STRUCTURE, shots=5, seed=1)  # of training pairs
sites = [("pre", i) for i in range(depth + 1)]


def vector_of(task):
    return extract.function_vector(model, tok, lists[task], sites, others=[lists[t] for t in lists if t != task])


vectors = {task: vector_of(task) for task in ("antonym", "synonym")}

# %% [markdown]
# We add it to the bare prompts at the last token, six tenths as long as the stream. Beside it stand the vector of
# another task and a random one, at the same dose.
#
# **Predict first.** At which depths will the antonym vector work: low, in the middle, at the top, everywhere? Will the
# vector of synonyms help, as it too says "answer with a related word"?

# %%
unsteered = measured(bare)[0]
random = torch.randn(model.config.width, generator=torch.Generator().manual_seed(0))
gains, rights = {}, {}
for name in ("antonym", "synonym", "random"):
    gains[name], rights[name] = [], []
    for site in sites[1:]:
        direction = random if name == "random" else vectors[name][site]
        nats, right = measured(bare, Steer(interventions.relative(direction), site, 0.6, where="last"))
        gains[name].append(float((nats - unsteered).mean()))
        rights[name].append(float(right.mean()))
print("site   " + "".join(f"{name:>18}" for name in gains))
for i in range(depth):
    print(f"pre {i + 1:<3}" + "".join(f"{gains[n][i]:+9.2f}, {rights[n][i]:4.0%}   " for n in gains))

# %%
import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
for name, line in gains.items():
    axes.plot(range(1, depth + 1), line, marker="o", label=name)
axes.axhline(0, color="grey", linewidth=0.8)
axes.set_xlabel('depth i of the site ("pre", i)')
axes.set_ylabel("gain in log p(opposite) (nats)")
axes.legend(title="vector of")
show()

# %% [markdown]
# Three things to see. Low down the vector does nothing useful: the state is not there yet, so what was read is no task.
# Where it works, it does most of what the demonstrations did, and it was made from other words. And the two controls do
# not help, so it is not any push that makes opposites likelier.
#
# ## Which heads wrote it?
#
# Only attention can carry something from the demonstrations to the last token. So ask each head: if it wrote here what
# it writes when the task is clear, would the answer be likelier? This is **causal mediation**. The prompts have
# shuffled answers, so that the task is not clear in them; what a head usually writes comes from lists in which it is.
#
# Replacing one head's write takes one `+`: at the site between attention and MLP, add the head's mean write and
# subtract what it wrote. A tape `[("head", i)]` records what each head of layer i writes, (1, T, H, D), and
# `model(ids, adds={("mid", i): t})` adds t, (D,) or (1, T, D), at that site.
#
# **Predict first.** Of all heads, how many matter: nearly all, half, a handful?

# %%
known = [pair for pair in tasks["antonym"]["train"] if len(tok.encode(" " + pair[1])) == 1]
few = data.few_shot(known, known, 20, structure=STRUCTURE, shots=5, seed=2, shuffled=True)
questions, words = [item["prompt"] for item in few], [item["words"][0] for item in few]
means = heads.mean_writes(model, tok, lists["antonym"])  # (L, H, D)
effects = heads.indirect_effects(model, tok, questions, words, means)  # (N, L, H), differences of probability
ranked = heads.top_heads(effects, k=10)
print(f"{effects[0].numel()} heads; the ten strongest, with their mean effect on p(opposite):")
print(", ".join(f"{layer}.{head} {effects[:, layer, head].mean():+.3f}" for layer, head in ranked))

# %% [markdown]
# The function vector of Todd et al. is the sum of what such heads write. It can be added below the depth at which the
# heads sit.

# %%
summed = heads.function_vector(model, tok, lists["antonym"], ranked, sites)
for i in (1, depth // 4, depth // 2):
    site = ("pre", i)
    nats, right = measured(bare, Steer(interventions.relative(summed[site]), site, 0.6, where="last"))
    print(f"sum of ten heads at pre {i}: {(nats - unsteered).mean():+.2f} nats, right {right.mean():.0%}")

# %% [markdown]
# ## Exercises


# %% exercise 4.1
def task_vector(mine, others):
    """What is particular to one task, (D,): the mean of its streams `mine`, (N, D), minus the mean of the other tasks'
    means. others: a list of streams, one (M, D) for each other task, of which some may have more rows."""
    # your lines here


# %%
@check(task_vector)
def _(task_vector):
    generator = torch.Generator().manual_seed(0)
    mine, one, two = (torch.randn(n, 6, generator=generator) for n in (4, 3, 9))
    found, wanted = task_vector(mine, [one, two]), mine.mean(0) - (one.mean(0) + two.mean(0)) / 2
    assert found.shape == wanted.shape, f"expected the shape {tuple(wanted.shape)}, got {tuple(found.shape)}"
    pooled = mine.mean(0) - torch.cat([one, two]).mean(0)
    assert not torch.allclose(found, pooled, atol=1e-4), "a task with more rows must not count more: mean of the means"
    assert torch.allclose(found, wanted, atol=1e-4), "another vector than the mean minus the mean of the others' means"


# %% exercise 4.2
def strongest(effects, k):
    """The k heads of the largest mean effect over prompts, largest first, as a list of (layer, head); effects are
    (N, L, H)."""
    # your lines here


# %%
@check(strongest)
def _(strongest):
    for k in (1, 5):
        found = [tuple(int(i) for i in head) for head in strongest(effects, k)]
        assert len(found) == k, f"asked for {k}, got {len(found)}"
        wanted = heads.top_heads(effects, k=k)
        assert found == wanted, f"expected {wanted} as (layer, head), got {found}"


# %% exercise 4.3
def patched(model, ids, layer, head, mean):
    """Logits (V,) after ids (1, T), where one head of one layer writes `mean`, (D,), at the last token, instead of what
    it wrote. A tape with the site ("head", layer) holds what each head wrote, (1, T, H, D); add at ("mid", layer)."""
    # your lines here


# %%
@check(patched)
def _(patched):
    for n, (layer, head) in enumerate(ranked[:3]):
        ids, answer = torch.tensor([tok.prompt(questions[n])]), tok.single(words[n])
        logits = patched(model, ids, layer, head, means[layer, head])
        assert logits.ndim == 1, f"expected logits (V,) of the last token, got {tuple(logits.shape)}"
        before, after = (float(some.softmax(-1)[answer]) for some in (model(ids)[0, -1], logits))
        wanted = float(effects[n, layer, head])
        assert abs(after - before - wanted) < 1e-3, (
            f"head {layer}.{head}: expected p(opposite) to change by {wanted:+.4f}, yours changes it by "
            f"{after - before:+.4f}; was the head's own write taken away, and the last token alone changed?"
        )


# %% [markdown]
# Next: `5_is_it_real.py`. An effect was printed. Would you bet on it?
