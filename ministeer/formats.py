"""Other tools' vectors, in and out, and what they call our sites; no other module converts layer numbers.

| here | is the same stream as |
|---|---|
| `("pre", i)`, i from 1 | what block i - 1 puts out: `transformer.h.{i-1}`'s output, steering-vectors' layer i - 1, llama.cpp's `direction.{i-1}` |
| `("pre", i)`, i below n_layer | what block i takes in: `hidden_states[i]` of transformers, `blocks.{i}.hook_resid_pre` of TransformerLens |
| `("pre", 0)` | the embeddings: `transformer.drop`'s output |
| `("pre", n_layer)` | the last block's output, before the final norm; transformers' `hidden_states[-1]` is after it, and no site |
| `("mid", i)` | what block i's MLP half takes in: `blocks.{i}.hook_resid_mid`; to add there, add to `transformer.h.{i}.attn`'s output |

A Llama of transformers calls them `model.layers.{i}`, `model.embed_tokens` and `model.layers.{i}.self_attn`.
"""

from __future__ import annotations

import io
import math
import os
import re
import warnings
from numbers import Integral
from pathlib import Path
from typing import Any

import torch

from ministeer.files import replacing
from ministeer.gguf_file import GGUFFile
from ministeer.layouts import write_config
from ministeer.model import Site, Transformer, check_site
from ministeer.provenance import Provenance
from ministeer.vectors import SteeringVector, one_vector

UNKNOWN = "unknown"
SAID = ("controlvector.model_hint", "controlvector.layer_count")  # the second tells nothing that the tensors do not
# of each model_type of transformers: what puts out the embeddings, a block, and its attention
LLAMA = ("embed_tokens", "layers.{}", "layers.{}.self_attn")
MODULES = {"gpt2": ("drop", "h.{}", "h.{}.attn"), "llama": LLAMA, "qwen2": LLAMA}


def from_block_output(layer: int) -> Site:
    """The site of the stream that block `layer` puts out."""
    if not isinstance(layer, Integral) or layer < 0:
        raise ValueError(f"expected the number of a block, 0 or more, got {layer!r}")
    return ("pre", layer + 1)


def to_block_output(site: Site) -> int:
    """The block whose output the stream at `site` is. Raises `ValueError` for the embeddings and for "mid"."""
    check_site(site)
    name, layer = site
    if name != "pre" or layer < 1:
        what = "the embeddings, before any block" if name == "pre" else "inside a block"
        raise ValueError(
            f'expected a site that is a block\'s output, ("pre", i) with i from 1, got {site}: that is {what}; '
            "of a vector at more sites take vector.only([...])"
        )
    return layer - 1


def module_name(site: Site, model_type: str = "gpt2") -> str:
    """The module of transformers' model to whose output a `site` vector is added: for `SteeringVector.hook`.

    Named within the model without its unembedding: `.transformer` of a `GPT2LMHeadModel`, `.model` of a `LlamaForCausalLM`,
    `.base_model` of any. model_type: "gpt2", "llama" or "qwen2", as `model.config.model_type` says.
    """
    check_site(site)
    if model_type not in MODULES:
        raise ValueError(
            f"expected model_type as transformers' config has it, one of {[*MODULES]}, got {model_type!r}; "
            "of another model, name the module yourself"
        )
    embeddings, block, attention = MODULES[model_type]
    name, layer = site
    if name == "mid":
        return attention.format(layer)
    return block.format(to_block_output(site)) if layer else embeddings


def transformer_lens_name(site: Site) -> str:
    """TransformerLens's hook point of a site. For the stream that leaves the last block, it has only the block's own name."""
    check_site(site)
    name, layer = site
    return f"blocks.{layer}.hook_resid_{name}" if name == "mid" or layer == 0 else f"blocks.{layer - 1}.hook_resid_post"


# --- llama.cpp and repeng: GGUF control vectors ---


def save_gguf(
    vector: SteeringVector, path: str | os.PathLike[str], *, coeff: float = 1.0, model_hint: str = UNKNOWN
) -> None:
    """Write a control vector for llama.cpp or repeng: `direction.N`, what is added to block N's output, in float32.

    llama.cpp takes N from 1, so our sites `("pre", 2)` and up; others raise `ValueError`. coeff: the tensors are
    multiplied by it; llama.cpp's `--control-vector-scaled` multiplies once more. model_hint: the architecture as llama.cpp
    names it, "gpt2", "llama" or "qwen2": a vector does not know its model's, and `load_gguf` compares the hint. Needs the package `gguf`.
    """
    if not isinstance(model_hint, str):
        raise ValueError(f"expected model_hint as a text, such as 'gpt2', got {model_hint!r}")
    gguf = _gguf()
    target = Path(path)
    directions = {}
    for site in vector.sites:
        layer = to_block_output(site)
        if layer == 0:
            raise ValueError(
                f'expected sites from ("pre", 2) up, got {site}, the output of block 0: llama.cpp\'s control vectors begin with '
                "block 1, as direction.0 is not read; leave it out with vector.only([...])"
            )
        directions[layer] = (one_vector(vector, site, coeff).float() * float(coeff)).cpu().numpy()
    with replacing(target) as unfinished:
        writer = gguf.GGUFWriter(unfinished, "controlvector")
        writer.add_string("controlvector.model_hint", model_hint)
        writer.add_uint32("controlvector.layer_count", len(directions))
        writer.add_description(vector.provenance.method)
        for layer, direction in sorted(directions.items()):
            writer.add_tensor(f"direction.{layer}", direction)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def load_gguf(path: str | os.PathLike[str], model: Transformer | None = None) -> SteeringVector:
    """Read a control vector that llama.cpp, repeng or `save_gguf` wrote, as llama.cpp does, or not at all.

    With the model it is meant for, another width is an error, and a `model_hint` of another architecture a warning. The hint
    stands in the provenance. Raises `ValueError` for tensors and metadata that llama.cpp refuses or that may ask for anything
    but being added, `FileNotFoundError` if there is no file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: expected a GGUF file, found none")
    file = GGUFFile(Path(path))
    said = file.metadata
    if (kind := said.get("general.architecture")) != "controlvector":
        file.refuse("a control vector", f"the architecture {kind!r}", "to load a model use load_model")
    if more := [key for key in said if not key.startswith("general.") and key not in SAID]:
        file.refuse(
            f"of a control vector only {' and '.join(SAID)}",
            f"{more[0]} {said[more[0]]!r}",
            "if it is only to be added, write it again without",
        )
    hint, method = said.get(SAID[0], UNKNOWN), said.get("general.description", "control vector")
    if not isinstance(hint, str) or not isinstance(method, str):
        file.refuse(f"texts as {SAID[0]} and general.description", f"{hint!r} and {method!r}")
    if not file.table:
        file.refuse("a tensor direction.1 or a later one", "no tensors")
    tensors: dict[Site, torch.Tensor] = {}
    for name, (shape, *_) in file.table.items():
        match = re.fullmatch("direction[.]([1-9][0-9]{0,8})", name)  # one spelling, so that no layer comes twice
        if match is None:
            file.refuse("tensors direction.N with N from 1", repr(name), "is it a control vector of llama.cpp's?")
        if math.prod(shape[:-1]) != 1 or file.kind(name) != "F32":  # (1, D) has one dimension for llama.cpp too
            file.refuse(f"{name} with one dimension in F32, as control vectors are", f"{shape} in {file.kind(name)}")
        tensors[from_block_output(int(match[1]))] = file.tensor(name).view(-1).clone()
    known = UNKNOWN if hint == UNKNOWN else f"{UNKNOWN} {hint}"
    vector = SteeringVector(
        dict(sorted(tensors.items())), Provenance(known, f"{method} (gguf)", UNKNOWN, UNKNOWN, UNKNOWN)
    )
    if model is not None:
        if vector.width != model.config.width:
            file.refuse(
                f"a vector of the model's width {model.config.width}", str(vector.width), "it is another model's"
            )
        if hint not in (UNKNOWN, here := write_config(model.config)["model_type"]):
            warnings.warn(
                f"{path}: this vector was made for {hint!r}, as its model_hint says, and the model is {here!r}; "
                "a direction need not mean the same in both",
                stacklevel=2,
            )
    return vector


def _gguf() -> Any:
    try:
        import gguf
    except ImportError:
        raise ImportError("GGUF files need the package gguf; install it: pip install 'ministeer[formats]'") from None
    return gguf


# --- lm-evaluation-harness: steer files for its model "steered" ---


def save_lm_eval(
    vector: SteeringVector, site: Site, path: str | os.PathLike[str], *, coeff: float = 1.0, model_type: str = "gpt2"
) -> None:
    """Write one site as a steer file: `lm_eval --model steered --model_args pretrained=gpt2-xl,steer_path=PATH`.

    The harness adds it at every position of every text. One site a file: some of its versions add the last entry's
    vector at every hook point of a file. model_type: as in `module_name`. Written by torch.save, since the harness reads nothing else; it holds tensors,
    numbers and strings only, and loads with `weights_only=True`.
    """
    target, tensor, name = Path(path), one_vector(vector, site, coeff), module_name(site, model_type)
    if target.suffix not in (".pt", ".pth"):
        raise ValueError(f"expected a path that ends in .pt or .pth, as the harness asks, got {target.name!r}")
    entry = {
        "steering_vector": tensor.detach().float().cpu().clone(),
        "steering_coefficient": float(coeff),
        "action": "add",
        "bias": None,
        "head_index": None,
    }
    content = io.BytesIO()
    torch.save({name: entry}, content)  # not into the file: its errors of the disk are RuntimeErrors of many texts
    with replacing(target) as unfinished:
        unfinished.write_bytes(content.getvalue())


# --- the package steering-vectors ---


def from_steering_vectors(theirs: Any) -> SteeringVector:
    """A `steering_vectors.SteeringVector` as ours; its layers are decoder blocks' outputs, or attention's.

    The package need not be installed. Raises `ValueError` for its other layer types, which are no sites of the stream.
    """
    kind, activations = getattr(theirs, "layer_type", None), getattr(theirs, "layer_activations", None)
    if not isinstance(activations, dict) or not activations:
        raise ValueError(f"expected a steering_vectors.SteeringVector with layers, got {type(theirs).__name__}")
    if kind not in ("decoder_block", "self_attn"):
        raise ValueError(
            f"expected a vector for decoder_block or self_attn, got {kind!r}: what it is added to is not the stream"
        )
    shapes = [tuple(t.shape) if isinstance(t, torch.Tensor) else type(t).__name__ for t in activations.values()]
    if any(isinstance(shape, str) or not shape or math.prod(shape) != shape[-1] for shape in shapes):
        raise ValueError(f"expected one vector (D,) a layer, a tensor, got {shapes}")
    tensors: dict[Site, Any] = {
        from_block_output(layer) if kind == "decoder_block" else ("mid", layer): tensor.detach()
        .float()
        .cpu()
        .reshape(-1)
        for layer, tensor in sorted(activations.items())
    }
    return SteeringVector(tensors, Provenance(UNKNOWN, f"steering-vectors, {kind}", UNKNOWN, UNKNOWN, UNKNOWN))
