"""Answers to the exercises, one function each by the exercise's name. Try for ten minutes before you look."""

from itertools import pairwise

import torch


# ---- 1. The residual stream, by hand
def stream_at(model, ids, i):
    x = model.embed(ids)
    for block in model.blocks[:i]:
        x = block(x)
    return x


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
    streams = [model.stream(torch.tensor([tok.prompt(text)]), depth=i)[0] for text in (plus, minus)]
    return streams[0] - streams[1]


def steered_logits(model, ids, v, i, c):
    x = model.embed(ids)
    for j, block in enumerate(model.blocks):
        if j == i:
            x[:, : len(v)] = x[:, : len(v)] + c * v
        x = block(x)
    return model.unembed(x)


def coefficient_for(v, x, share):
    return share * x.norm(dim=-1).mean() / v.norm()
