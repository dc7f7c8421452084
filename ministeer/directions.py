"""What was read of pairs -> a direction: `(N, 2, D)`, the positive text of each pair first -> `(D,)`.

Letters: N pairs, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def mean_difference(items: Tensor) -> Tensor:
    """Mean of the N differences, `(N, 2, D)` -> `(D,)`."""
    return (items[:, 0] - items[:, 1]).mean(0)


def clipped(differences: Tensor, length: float) -> Tensor:
    """N differences `(N, D)`, the longer ones cut to this length."""
    cut: Tensor = differences * (length / differences.norm(dim=-1, keepdim=True)).clamp(max=1.0)
    return cut


def principal(items: Tensor) -> Tensor:
    """The direction of length 1 along which the differences' sum of squares is largest, `(N, 2, D)` -> `(D,)`; zero if they are."""
    return _principal((items[:, 0] - items[:, 1]).double())


def principal_centred(items: Tensor) -> Tensor:
    """As `principal`, of the differences minus their mean: the largest variance."""
    differences = (items[:, 0] - items[:, 1]).double()
    return _principal(differences - differences.mean(0), differences)


def _principal(x: Tensor, voters: Tensor | None = None) -> Tensor:
    if not bool(x.any()):
        return torch.zeros(x.shape[1], dtype=torch.float32)
    weights = torch.linalg.eigh(x @ x.T).eigenvectors[:, -1]  # (N,): N is small against D
    direction = F.normalize(weights @ x, dim=0)  # (D,)
    votes = (x if voters is None else voters) @ direction  # (N,)
    balance = float(votes.sign().sum()) or float(votes.sum())
    return (direction if balance >= 0 else -direction).float()


def logistic(items: Tensor, l2: float) -> Tensor:
    """The weights of a logistic regression, scaled to length 1, `(N, 2, D)` -> `(D,)`; see `probe`."""
    x = items.transpose(0, 1).flatten(0, 1).double()  # (2N, D), the positive ones first
    x = x - x.mean(0)
    if not bool((items[:, 0] - items[:, 1]).any()):
        return torch.zeros(x.shape[1], dtype=torch.float32)
    x = x / x.std()
    basis, coordinates = torch.linalg.qr(x.T)  # the weights lie in the span of x: (D, M), (M, 2N), M = min(D, 2N)
    labels = torch.ones(len(x), dtype=x.dtype)
    labels[len(items) :] = 0
    weights = torch.zeros(len(coordinates) + 1, dtype=x.dtype, requires_grad=True)  # the last is the intercept
    solver = torch.optim.LBFGS(
        [weights], max_iter=1000, tolerance_grad=1e-9, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        solver.zero_grad()
        logits = weights[:-1] @ coordinates + weights[-1]  # (2N,)
        total = F.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
        total = total + l2 / 2 * weights[:-1].square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    with torch.enable_grad():
        solver.step(loss)  # type: ignore[no-untyped-call]
    return F.normalize(basis @ weights[:-1].detach(), dim=0).float()
