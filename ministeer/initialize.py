"""Random weights, from which training starts."""

from __future__ import annotations

import torch
from torch import nn

from ministeer.model import Transformer


def initialize(model: Transformer, generator: torch.Generator) -> Transformer:
    """Fill the weights as for training from nothing, and return the model: normal(0, 0.02), the writes into the stream divided
    by sqrt(2 n_layer), biases 0 (Radford et al. 2019, section 2.3; the standard deviation is that of OpenAI's code)."""
    # attention and MLP each write by the last of their matrices
    writes = [[*part.children()][-1].weight for block in model.blocks for part in (block.attn, block.mlp)]  # type: ignore[union-attr]
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            nn.init.constant_(parameter, float("ln_" in name and name.endswith("weight")))
        else:
            shrink = (2 * model.config.n_layer) ** 0.5 if any(parameter is w for w in writes) else 1.0
            nn.init.normal_(parameter, std=0.02 / shrink, generator=generator)
    return model
