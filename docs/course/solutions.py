"""Answers to the exercises, one function each by the exercise's name. Try for ten minutes before you look."""

from itertools import pairwise

import numpy as np
import torch

from ministeer import metrics


# ---- 1. The residual stream, by hand
def mid_stream(model, ids, i):
    x = model.embed(ids)
    for block in model.blocks[:i]:
        x = block(x)
    return model.blocks[i].attend(x)


def writes(model, ids):
    streams = [model.embed(ids)]
    for block in model.blocks:
        streams.append(block(streams[-1]))
    return torch.stack([(after - before)[0, -1] for before, after in pairwise(streams)])


def settled(said):
    i = len(said) - 1
    while i > 0 and said[i - 1] == said[-1]:
        i -= 1
    return i


# ---- 2. Adding a vector
def difference(model, tok, plus, minus, i):
    rows = [tok.prompt(text) for text in (plus, minus)]
    longest = max(len(row) for row in rows)
    filled = [row + [tok.single(" ")] * (longest - len(row)) for row in rows]
    x = model.stream(torch.tensor(filled), depth=i)  # (2, T, D)
    return x[0] - x[1]


def steered_logits(model, ids, v, i, c):
    x = model.embed(ids)
    for j, block in enumerate(model.blocks):
        x = block.attend(x)
        if j == i:
            x[:, -1] = x[:, -1] + c * v
        x = block.feed_forward(x)
    return model.unembed(x)


def coefficient_for(v, x, share):
    return share * x.norm(dim=-1).mean() / v.norm()


# ---- 3. Contrast, and why a random vector comes first
def split_half(x):
    differences = x[:, 0] - x[:, 1]  # (N, D)
    return torch.cosine_similarity(differences[::2].mean(0), differences[1::2].mean(0), dim=0)


def random_within(x, length, seed):
    away = x - x.mean(0)
    mix = torch.randn(len(x), generator=torch.Generator().manual_seed(seed)) @ away
    return mix * length / mix.norm()


def rank(effect, random):
    return (1 + sum(r >= effect for r in random)) / (1 + len(random))


# ---- 4. Function vectors, and the heads that write them
def layer_average(mine, others):
    return mine.mean(0) - torch.stack([other.mean(0) for other in others]).mean(0)


def strongest(effects, k):
    mean = effects.mean(0)  # (L, H)
    order = mean.flatten().argsort(descending=True)[:k].tolist()
    return [divmod(i, mean.shape[1]) for i in order]


def patched(model, ids, layer, head, mean):
    tape = [("head", layer)]
    model(ids, tape=tape)
    delta = torch.zeros(*ids.shape, len(mean))  # (1, T, D)
    delta[0, -1] = mean - tape[0][0, -1, head]
    return model(ids, adds={("mid", layer): delta})[0, -1]


# ---- 5. Is it real?
def slope(multipliers, differences):
    x = multipliers - multipliers.mean()
    return differences @ x / (x @ x)


def interval_over(values, groups, seed):
    labels = np.array(groups)
    means = np.array([values[labels == label].mean() for label in dict.fromkeys(groups)])
    drawn = means[np.random.default_rng(seed).integers(0, len(means), (2000, len(means)))].mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return means.mean(), low, high


def at_most(n, level=0.95):
    return 1 - (1 - level) ** (1 / n)


# ---- 6. The price
def divergence(steered, plain, options):
    p, q = (logits.gather(1, options).log_softmax(-1) for logits in (plain, steered))  # (N, 4)
    return (p.exp() * (p - q)).sum(-1)


def without(x, v, w):
    u = v / v.norm()
    rest = w - (w @ u) * u  # what w has beside v
    for direction in (u, rest / rest.norm()):
        x = x - (x @ direction)[:, None] * direction
    return x


def threshold(inside, outside):
    def told(t):
        return sum(c > t for c in inside) / len(inside) + sum(c <= t for c in outside) / len(outside)

    return max([min(inside) - 1, *inside, *outside], key=told)


# ---- 7. Your own behaviour, from pairs to a verdict
def verdict(low, high, threshold, rank):
    if low > threshold and rank <= 0.01:
        return "supported"
    if high <= threshold or rank > 0.05:
        return "not supported"
    return "inconclusive"


def my_pairs():
    people = ("Luke", "David", "Susan", "Emma", "Grace", "James", "Nina", "Ben", "Mark", "Sarah")
    endings = ("People say that {} is", "The voice of {} is")
    return [
        (f"{name} is a kind person. {end.format(name)}", f"{name} is a cruel person. {end.format(name)}")
        for i, name in enumerate(people)
        for end in endings[i % 2 :][:1]
    ]


def judged(found, random, threshold):
    mean, low, high = metrics.bootstrap(found, seed=0)
    return verdict(low, high, threshold, rank(mean, random))
