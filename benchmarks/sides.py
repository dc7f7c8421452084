"""The two sides of a comparison, and the others: what each library does for the same job, as its own documentation says.

A side is made from a checkpoint in the hub's layout, whose tokenizer reads "t5 t17" as the ids 5 and 17, so that libraries
which take texts read the same tokens. Its methods are the jobs; a job that is missing is one the library does not offer. Each
side runs in a process of its own (worker.py), and imports its library there and nowhere else.

Sites are named by the block that they enter. Letters: N prompts of T ids, L layers, H heads, D width.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

Ids = list[list[int]]  # N rows of as many ids
Cell = tuple[int, float]  # (layer, coefficient)


def texts(rows: Ids) -> list[str]:
    return [" ".join(f"t{i}" for i in row) for row in rows]


def some(vectors: list[Tensor]) -> list[list[float]]:
    """Of each layer's vector so much as shows whether two sides agree; not the last's, which some give after the final norm."""
    return [x.float()[:8].tolist() for x in vectors[:-1]]


def mean_difference(batches: list[Tensor]) -> list[list[float]]:
    """Of texts' last streams, `(L, B, D)` of each batch, the two of a pair in turns: the pairs' mean difference in every layer."""
    x = torch.cat(batches, 1)
    return some(list((x[:, 0::2] - x[:, 1::2]).mean(1)))


class Ministeer:
    """This package."""

    imports = ("ministeer",)

    def __init__(self, folder: str, dtype: str, device: str = "cpu") -> None:
        from ministeer.checkpoint import load_model

        self.model, self.graphs = load_model(folder, dtype=dtype, device=device), False

    def pack(self) -> None:
        from ministeer.pack import pack

        pack(self.model)

    def int8(self) -> None:
        from ministeer.pack import int8

        int8(self.model)

    def compile(self) -> None:
        for block in self.model.blocks:
            block.mlp.compile()

    def graph(self) -> None:
        self.graphs = True

    def decode(self, ids: Ids, new: int, layer: int, coeff: float, v: list[float]) -> Ids:
        from ministeer.generate import generate
        from ministeer.steer import Steer

        steer = Steer(torch.tensor(v), ("pre", layer), coeff)
        return generate(self.model, ids, max_new_tokens=new, steer=steer, temperature=0, graph=self.graphs)

    def extract(self, pairs: list[Ids], batch: int) -> list[list[float]]:
        from ministeer.extract import pair_streams

        sites = [("pre", i + 1) for i in range(self.model.config.n_layer)]
        last = [(len(a) - 1, len(b) - 1) for a, b in pairs]
        found = pair_streams(self.model, [(a, b) for a, b in pairs], last, sites, batch_size=batch)
        return some([(x[:, 0] - x[:, 1]).mean(0) for x in found.values()])

    def grid(self, ids: Ids, layers: list[int], coeffs: list[float], v: list[float]) -> list[list[list[float]]]:
        """Of each cell, layers outermost, two logits after each prompt."""
        from ministeer.sweep import sweep

        rows = sweep(self.model, ids, lambda logits, i: logits[:, :2], {"v": torch.tensor(v)}, layers, coeffs)
        found = {(row["site"][1], row["coeff"], row["prompt"]): row["score"] for row in rows}
        return [[found[layer, c, i] for i in range(len(ids))] for layer in layers for c in coeffs]

    def ablate(self, ids: Ids, answers: list[int], heads: list[Cell]) -> list[list[float]]:
        """How the probability of each prompt's answer changes when a head writes nothing at the last token."""
        from ministeer import heads as mediation

        c = self.model.config
        nothing = torch.zeros(c.n_layer, c.n_head, c.width)
        found = mediation.indirect_effects(self.model, Words(), texts(ids), texts([[i] for i in answers]), nothing)
        return [found[:, layer, head].tolist() for layer, head in heads]


class Words:
    """The tokenizer of the checkpoint, so far as `heads` asks for it."""

    def prompt(self, text: str) -> list[int]:
        return [int(word[1:]) for word in text.split()]

    def single(self, text: str) -> int:
        return self.prompt(text)[0]


class Transformers:
    """transformers, with PyTorch's own hooks."""

    imports = (
        "transformers.models.gpt2.modeling_gpt2",
        "transformers.models.auto.tokenization_auto",
    )  # it imports late

    def __init__(self, folder: str, dtype: str, device: str = "cpu") -> None:
        from transformers import AutoModelForCausalLM

        torch.set_default_device(device)  # of what the jobs make
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval().to(device)
        self.folder, self.base = folder, self.model.base_model
        self.gpt2 = hasattr(self.base, "h")
        self.blocks = self.base.h if self.gpt2 else self.base.layers

    @cached_property
    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.folder)

    @contextmanager
    def steered(self, layer: int, coeff: float, v: list[float]) -> Iterator[None]:
        """Within it, the vector is added to what enters a block."""
        push = coeff * torch.tensor(v, dtype=self.model.dtype)
        block = self.blocks[layer]
        handle = block.register_forward_pre_hook(lambda _, args: (args[0] + push, *args[1:]))
        try:
            yield
        finally:
            handle.remove()

    def decode(self, ids: Ids, new: int, layer: int, coeff: float, v: list[float]) -> Ids:
        rows = torch.tensor(ids)
        asked = {"attention_mask": torch.ones_like(rows), "max_new_tokens": new, "min_new_tokens": new}
        with self.steered(layer, coeff, v):
            found: Ids = self.model.generate(rows, **asked, do_sample=False, use_cache=True, pad_token_id=0).tolist()
        return found

    @torch.no_grad()
    def extract(self, pairs: list[Ids], batch: int) -> list[list[float]]:
        rows, found = torch.tensor(pairs).flatten(0, 1), []  # (2 N, T)
        for ids in rows.split(batch):
            # without the head: nobody reads its logits
            out = self.base(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True)
            found.append(torch.stack([x[:, -1] for x in out.hidden_states[1:]]).float())  # (L, B, D)
        return mean_difference(found)

    @torch.no_grad()
    def last_logits(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=ids, attention_mask=torch.ones_like(ids), logits_to_keep=1).logits[:, -1]
        return logits.float()

    def cells(self, ids: Ids, cells: list[Cell], v: list[float]) -> list[list[list[float]]]:
        """Of each cell two logits after each prompt: all prompts in one batch, a forward pass a cell."""
        rows, found = torch.tensor(ids), []
        for layer, coeff in cells:
            with self.steered(layer, coeff, v):
                found.append(self.last_logits(rows)[:, :2].tolist())
        return found

    def ablate(self, ids: Ids, answers: list[int], heads: list[Cell]) -> list[list[float]]:
        """One head at a time, all prompts in one batch."""
        rows, at, c = torch.tensor(ids), torch.arange(len(ids)), self.model.config
        size = c.hidden_size // c.num_attention_heads

        def silence(head: int) -> Any:
            def hook(_: Any, args: tuple[Tensor]) -> tuple[Tensor]:
                z = args[0].clone()  # (N, T, D), the heads side by side
                z[:, -1, head * size : (head + 1) * size] = 0
                return (z,)

            return hook

        before, found = self.last_logits(rows).softmax(-1)[at, answers], []
        for layer, head in heads:
            block = self.blocks[layer]
            projection = block.attn.c_proj if self.gpt2 else block.self_attn.o_proj
            handle = projection.register_forward_pre_hook(silence(head))
            try:
                found.append((self.last_logits(rows).softmax(-1)[at, answers] - before).tolist())
            finally:
                handle.remove()
        return found


class SteeringVectors(Transformers):
    """steering-vectors on a model of transformers: a vector for the output of a block is applied in a `with`."""

    imports = ("steering_vectors",)

    def steered(self, layer: int, coeff: float, v: list[float]) -> Any:
        from steering_vectors import SteeringVector

        return SteeringVector({layer - 1: torch.tensor(v, dtype=self.model.dtype)}).apply(self.model, multiplier=coeff)

    def extract(self, pairs: list[Ids], batch: int) -> list[list[float]]:
        from steering_vectors import train_steering_vector

        samples = [(texts(pair)[0], texts(pair)[1]) for pair in pairs]
        found = train_steering_vector(self.model, self.tokenizer, samples, batch_size=batch)
        return some([found.layer_activations[i] for i in sorted(found.layer_activations)])

    ablate = None


class Repeng(Transformers):
    """repeng's ControlModel around a model of transformers; its vectors are principal components, not mean differences."""

    imports = ("repeng",)

    def __init__(self, folder: str, dtype: str) -> None:
        super().__init__(folder, dtype)
        import repeng

        self.repeng = repeng

    @contextmanager
    def steered(self, layer: int, coeff: float, v: list[float]) -> Iterator[None]:
        control = self.repeng.ControlModel(self.model, [layer - 1])
        control.set_control(self.repeng.ControlVector("gpt2", {layer - 1: torch.tensor(v).numpy()}), coeff)
        try:
            yield
        finally:
            control.unwrap()

    @torch.no_grad()
    def last_logits(self, ids: Tensor) -> Tensor:
        # it asks for each row's positions, which `generate` gives and a plain forward pass does not
        positions = torch.arange(ids.shape[1]).expand_as(ids)
        out = self.model(input_ids=ids, attention_mask=torch.ones_like(ids), position_ids=positions, logits_to_keep=1)
        return out.logits[:, -1].float()

    def extract(self, pairs: list[Ids], batch: int) -> list[list[float]]:
        entries = [self.repeng.DatasetEntry(*texts(pair)) for pair in pairs]
        self.repeng.ControlVector.train(self.model, self.tokenizer, entries, batch_size=batch)
        return []

    ablate = None


class Nnsight:
    """nnsight's TransformersModel: what a `with` block says about the model is run inside its forward pass."""

    imports = ("nnsight",)

    def __init__(self, folder: str, dtype: str) -> None:
        from nnsight import TransformersModel

        self.model = TransformersModel(folder, task="text-generation", dtype=getattr(torch, dtype), dispatch=True)
        self.dtype = getattr(torch, dtype)

    def decode(self, ids: Ids, new: int, layer: int, coeff: float, v: list[float]) -> Ids:
        push = coeff * torch.tensor(v, dtype=self.dtype)
        asked = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 0}
        with self.model.generate(torch.tensor(ids), **asked) as tracer:
            for _ in tracer.iter[:new]:
                self.model.transformer.h[layer].input += push
            out = tracer.result.save()
        return out.tolist()

    def extract(self, pairs: list[Ids], batch: int) -> list[list[float]]:
        import nnsight

        rows, found = torch.tensor(pairs).flatten(0, 1), []  # (2 N, T)
        blocks = self.model.transformer.h
        for ids in rows.split(batch):
            with torch.no_grad(), self.model.trace(ids) as tracer:
                streams = nnsight.save([])
                for block in blocks:
                    streams.append(block.output[:, -1])
                tracer.stop()  # before the head
            found.append(torch.stack(streams).float())
        return mean_difference(found)

    def cells(self, ids: Ids, cells: list[Cell], v: list[float]) -> list[list[list[float]]]:
        rows, found = torch.tensor(ids), []
        for layer, coeff in cells:
            push = coeff * torch.tensor(v, dtype=self.dtype)
            with torch.no_grad(), self.model.trace(rows, logits_to_keep=1):
                self.model.transformer.h[layer].input += push
                logits = self.model.lm_head.output[:, -1, :2].save()
            found.append(logits.float().tolist())
        return found

    def ablate(self, ids: Ids, answers: list[int], heads: list[Cell]) -> list[list[float]]:
        rows, at = torch.tensor(ids), torch.arange(len(ids))
        size = self.model.config.n_embd // self.model.config.n_head
        with torch.no_grad(), self.model.trace(rows, logits_to_keep=1):
            before = self.model.lm_head.output[:, -1].float().softmax(-1)[at, answers].save()
        found = []
        for layer, head in heads:
            with torch.no_grad(), self.model.trace(rows, logits_to_keep=1):
                z = self.model.transformer.h[layer].attn.c_proj.input
                z[:, -1, head * size : (head + 1) * size] = 0
                after = self.model.lm_head.output[:, -1].float().softmax(-1)[at, answers].save()
            found.append((after - before).tolist())
        return found


class TransformerLens:
    """TransformerLens, its bridge around a model of transformers, and its hook points."""

    imports = ("transformer_lens",)

    def __init__(self, folder: str, dtype: str) -> None:
        from transformer_lens.model_bridge import TransformerBridge

        self.model = TransformerBridge.boot_transformers(folder, device="cpu", dtype=getattr(torch, dtype))
        self.dtype = getattr(torch, dtype)

    def hook(self, layer: int, coeff: float, v: list[float]) -> tuple[str, Any]:
        push = coeff * torch.tensor(v, dtype=self.dtype)
        return f"blocks.{layer}.hook_resid_pre", lambda x, hook: x + push

    def decode(self, ids: Ids, new: int, layer: int, coeff: float, v: list[float]) -> Ids:
        with self.model.hooks(fwd_hooks=[self.hook(layer, coeff, v)]):
            out = self.model.generate(
                torch.tensor(ids),
                max_new_tokens=new,
                do_sample=False,
                stop_at_eos=False,
                return_type="tokens",
                verbose=False,
            )
        return out.tolist()

    @torch.no_grad()
    def extract(self, pairs: list[Ids], batch: int) -> list[list[float]]:
        rows, found = torch.tensor(pairs).flatten(0, 1), []  # (2 N, T)
        names = [f"blocks.{i}.hook_resid_post" for i in range(self.model.cfg.n_layers)]
        for ids in rows.split(batch):
            _, cache = self.model.run_with_cache(
                ids, names_filter=names, stop_at_layer=len(names), output_attentions=False
            )
            found.append(torch.stack([cache[name][:, -1] for name in names]).float())
        return mean_difference(found)

    @torch.no_grad()
    def cells(self, ids: Ids, cells: list[Cell], v: list[float]) -> list[list[list[float]]]:
        rows, found = torch.tensor(ids), []
        for layer, coeff in cells:
            logits = self.model.run_with_hooks(rows, fwd_hooks=[self.hook(layer, coeff, v)])
            found.append(logits[:, -1, :2].float().tolist())
        return found

    @torch.no_grad()
    def ablate(self, ids: Ids, answers: list[int], heads: list[Cell]) -> list[list[float]]:
        rows, at = torch.tensor(ids), torch.arange(len(ids))
        before, found = self.model(rows)[:, -1].float().softmax(-1)[at, answers], []
        for layer, head in heads:

            def silence(z: Tensor, hook: Any, head: int = head) -> Tensor:
                z[:, -1, head] = 0
                return z

            logits = self.model.run_with_hooks(rows, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", silence)])
            found.append((logits[:, -1].float().softmax(-1)[at, answers] - before).tolist())
        return found


class LlamaCpp:
    """llama.cpp through llama-cpp-python, a control vector for the output of a block; `dtype` is the form of its file."""

    imports = ("llama_cpp",)

    def __init__(self, folder: str, dtype: str) -> None:
        import llama_cpp

        self.api = llama_cpp
        threads = torch.get_num_threads()
        asked = {"n_ctx": 128, "n_threads": threads, "n_threads_batch": threads, "verbose": False}
        self.model = llama_cpp.Llama(f"{folder}/{dtype}.gguf", **asked)

    def decode(self, ids: Ids, new: int, layer: int, coeff: float, v: list[float]) -> Ids:
        if len(ids) > 1:
            raise ValueError("one text at a time")
        block, width = layer - 1, len(v)
        push = torch.zeros(block, width)  # its buffer begins with block 1
        push[-1] = coeff * torch.tensor(v)
        data = push.flatten().tolist()
        buffer = (ctypes.c_float * len(data))(*data)
        if self.api.llama_set_adapter_cvec(self.model.ctx, buffer, len(data), width, block, block):
            raise RuntimeError("llama.cpp refused the control vector")
        self.model.reset()
        out = list(ids[0])
        for token in self.model.generate(ids[0], top_k=1, temp=0.0, min_p=0.0, top_p=1.0):
            out.append(token)
            if len(out) == len(ids[0]) + new:
                break
        return [out]


SIDES = {
    "ministeer": Ministeer,
    "transformers": Transformers,
    "steering-vectors": SteeringVectors,
    "repeng": Repeng,
    "nnsight": Nnsight,
    "transformer-lens": TransformerLens,
    "llama-cpp-python": LlamaCpp,
}
