"""Where training starts: GPT-2's spread of weights, for both architectures."""

from typing import Any

import pytest
import torch

from ministeer.initialize import initialize
from ministeer.llama import Llama, LlamaConfig
from ministeer.model import GPT2, GPT2Config


@pytest.mark.parametrize(
    "config", [GPT2Config(300, 100, 128, 2, 2), LlamaConfig(300, 100, 128, 300, 2, 2, 1, 64, qkv_bias=True, tied=False)]
)
def test_initialize_is_gpt2s_start_and_comes_from_the_generator_alone(config: Any) -> None:
    kind = GPT2 if isinstance(config, GPT2Config) else Llama
    models: list[Any] = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(models))
        models.append(initialize(kind(config), torch.Generator().manual_seed(seed)))
    one, same, other = (model.state_dict() for model in models)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["wte.weight"], other["wte.weight"])
    for name, x in one.items():
        if name.endswith("bias"):
            assert not x.any(), name
        elif "ln_" in name:
            assert (x == 1).all(), name
        else:
            write = name.endswith(("c_proj.weight", "attn.o.weight", "mlp.down.weight"))
            expected = 0.02 / 2 if write else 0.02  # sqrt(2 n_layer) = 2
            assert float(x.std()) == pytest.approx(expected, rel=0.03), name
            assert float(x.mean()) == pytest.approx(0, abs=expected / 20), name
