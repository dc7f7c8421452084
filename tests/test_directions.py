"""Directions in pairs of streams: planted ones are found, and found as independent implementations find them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ministeer.directions import logistic, mean_difference, principal, principal_centred

D = 40


def pairs(n: int = 30, seed: int = 0, shift: float = 4.0) -> tuple[Tensor, Tensor, Tensor]:
    """N pairs whose differences share a shift, and vary most along another direction: items, the shift, the other."""
    generator = torch.Generator().manual_seed(seed)
    axes = torch.linalg.qr(torch.randn(D, 2, generator=generator))[0].T
    start = torch.randn(n, D, generator=generator) * 3
    spread = torch.randn(n, 1, generator=generator) * 2
    noise = 0.2 * torch.randn(n, D, generator=generator)
    return torch.stack([start + shift * axes[0] + spread * axes[1] + noise, start], 1), axes[0], axes[1]


def cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.cosine_similarity(a, b, dim=0))


def test_pca_finds_the_shift_that_all_pairs_share_and_centred_pca_deletes_it() -> None:
    items, shift, spread = pairs(400)
    assert cosine(principal(items), shift) > 0.99
    assert abs(cosine(principal_centred(items), shift)) < 0.1
    assert abs(cosine(principal_centred(items), spread)) > 0.99


def test_pca_is_the_first_right_singular_vector() -> None:
    items, _, _ = pairs()
    d = (items[:, 0] - items[:, 1]).double()
    v = torch.linalg.svd(d).Vh[0]
    assert abs(cosine(principal(items).double(), v)) > 1 - 1e-6
    centred = torch.linalg.svd(d - d.mean(0)).Vh[0]
    assert abs(cosine(principal_centred(items).double(), centred)) > 1 - 1e-6
    assert float(principal(items).norm()) == pytest.approx(1.0)


def test_the_sign_is_the_majority_s() -> None:
    """Three small differences one way, two large ones the other: the mean's sign would be the wrong one."""
    axis = torch.eye(D)[0]
    lengths = torch.tensor([1.0, 1.0, 1.0, -5.0, -5.0])
    items = torch.stack([lengths[:, None] * axis, torch.zeros(5, D)], 1)
    assert torch.allclose(principal(items), axis, atol=1e-6)
    assert torch.allclose(principal(items.flip(1)), -axis, atol=1e-6)


def test_order_and_which_text_comes_first_only_turn_the_sign() -> None:
    items, _, _ = pairs()
    for find in (mean_difference, principal, lambda x: logistic(x, 1.0)):
        assert torch.allclose(find(items.flip(0)), find(items), atol=1e-5)
        assert torch.allclose(find(items.flip(1)), -find(items), atol=1e-4)


@pytest.mark.parametrize("l2", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("n", [6, 60])  # fewer and more texts than dimensions
def test_the_probe_is_scikit_learns_logistic_regression(l2: float, n: int) -> None:
    sklearn = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    items, _, _ = pairs(n, shift=1.0)
    x = items.transpose(0, 1).flatten(0, 1).double()
    x = (x - x.mean(0)) / (x - x.mean(0)).std()
    labels = [1] * n + [0] * n
    fitted = sklearn.LogisticRegression(C=1 / l2, tol=1e-10, max_iter=10000).fit(x.numpy(), labels)
    assert cosine(logistic(items, l2).double(), torch.from_numpy(fitted.coef_[0])) > 1 - 1e-6
    assert float(logistic(items, l2).norm()) == pytest.approx(1.0)


def test_a_strong_penalty_leaves_the_mean_difference() -> None:
    items, _, _ = pairs()
    assert cosine(logistic(items, 1e6), mean_difference(items)) > 0.9999
    assert cosine(logistic(items, 1e-3), mean_difference(items)) < 0.999


@pytest.mark.parametrize("find", [mean_difference, principal, principal_centred, lambda x: logistic(x, 1.0)])
def test_texts_that_do_not_differ_give_zero(find: Callable[[Tensor], Tensor]) -> None:
    same = torch.randn(5, 1, D, generator=torch.Generator().manual_seed(0)).expand(5, 2, D)
    assert torch.equal(find(same), torch.zeros(D))
