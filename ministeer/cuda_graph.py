"""Decoding on a GPU as one CUDA graph: the kernels of a token, recorded once, then started with one call for every token.

    generate(model, ids, max_new_tokens=50, steer=Steer(vector, ("pre", 20), 4.0), graph=True)

A small batch's token is little work for a GPU; what takes time is Python, which starts some twenty kernels a block one by one. A
graph repeats the same kernels on the same memory, so all that changes from one token to the next is in tensors here: the ids,
their positions, what is added at each site. Attention reads the whole cache and masks what is after a row's position.

Letters: B rows, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ministeer.model import Add, Cache, Site, Sites, Transformer


class Graph:
    """One token of each row through the model, after what the cache holds. Vectors are added at these sites, functions are not."""

    def __init__(self, model: Transformer, cache: Cache, sites: Iterable[Site]) -> None:
        self.model, self.cache = model, cache
        self.ids = torch.zeros(len(cache.lengths), 1, dtype=torch.int64, device=model.device)
        self.positions = torch.zeros_like(self.ids)
        nothing = model.wte.weight.new_zeros(*self.ids.shape, model.config.width)  # (B, 1, D)
        self.adds = {site: nothing.clone() for site in sites}
        self._sites = Sites(model, self.ids, self.adds, None, model.config.n_layer)
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, ids: Tensor, adds: Mapping[Site, Add]) -> Tensor:
        """The logits after `ids` `(B,)`, `(B, V)`, in memory that the next call writes over; adds: tensors, as the model's."""
        self.ids.copy_(ids[:, None])
        self.positions.copy_(self.cache.lengths[:, None])
        for site, held in self.adds.items():
            held.copy_(torch.as_tensor(adds.get(site, 0.0)))
        if self._graph is None:
            self._graph = self._recorded()
        self._graph.replay()
        self.cache.lengths = self.cache.lengths + 1
        return self._logits

    def _recorded(self) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.ids.device):
            # run once before, as libraries get their working memory then; the graph puts the same into the cache again
            beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                self._token()
            torch.cuda.current_stream().wait_stream(beside)
            # on this stream again: torch's own for it is of the device that recorded first
            with torch.cuda.graph(graph, stream=beside):
                self._logits = self._token()
        return graph

    def _token(self) -> Tensor:
        x = self.model.embed(self.ids, self.positions)  # (B, 1, D)
        self.cache.place(self.positions)
        for block in self.model.blocks:
            x = block(x, self.cache, self._sites)
        x = self._sites.at(("pre", self.model.config.n_layer), x)
        return self.model.unembed(x[:, 0])
