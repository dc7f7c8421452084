"""The health of a vector: numbers that are known beforehand, and words where they are bad."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ministeer.directions import mean_difference, principal
from ministeer.health import Health, health

D = 64


def classes(n: int, gap: float, noise: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """N pairs `(N, 2, D)` whose classes lie `gap` apart along a direction `(D,)`, with independent noise on each text."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.nn.functional.normalize(torch.randn(D, generator=generator), dim=0)
    items = noise * torch.randn(n, 2, D, generator=generator)
    items[:, 0] += gap / 2 * direction
    items[:, 1] -= gap / 2 * direction
    return items, direction


def mean(items: Tensor) -> Tensor:
    return items.mean(0)


def test_a_planted_direction_is_healthy_in_its_own_numbers() -> None:
    items, _ = classes(4000, gap=3.0, noise=1.0)
    found = health(mean_difference(items), items, mean_difference)
    assert found.separability == pytest.approx(3.0, rel=0.05)  # d' is the gap over the noise
    assert found.split_half == pytest.approx(1.0, abs=0.05)
    # two differences share gap^2, of gap^2 + 2 D noise^2 of each
    assert found.agreement == pytest.approx(9 / (9 + 2 * D), rel=0.05)
    length = float(items.norm(dim=-1).mean())
    assert found.relative_norm == pytest.approx(3.0 / length, rel=0.05)
    assert found.weak == ["weak: the items share little of it"]
    assert health(mean_difference(items), classes(50, 30.0, 1.0)[0], mean_difference).weak == []


@pytest.mark.parametrize("find", [mean_difference, principal])
def test_noise_alone_is_weak_in_every_way(find: Callable[[Tensor], Tensor]) -> None:
    """Measured on the data it came from, a direction of noise would seem to separate the classes perfectly."""
    items, _ = classes(20, gap=0.0, noise=1.0)
    direction = find(items)
    along = items @ direction
    fooled = float((along[:, 0] - along[:, 1]).mean() / along.var(0).mean().sqrt())
    found = health(direction, items, find)
    assert find is not mean_difference or fooled > 1.5
    assert abs(found.separability or 9) < 0.7
    assert abs(found.split_half or 9) < 0.35
    assert abs(found.agreement or 9) < 0.1
    assert len(found.weak) == 3
    assert "two halves of the data give different directions" in str(found)


def test_each_number_on_a_case_done_by_hand() -> None:
    items = torch.zeros(4, 2, 2)
    items[:, 0] = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 1.0], [1.0, -1.0]])
    found = health(mean_difference(items), items, mean_difference)
    root = math.sqrt(0.5)
    # pairs of unit differences: (1,0)(1,0): 1; four times (1,0)(1,±1)/√2: √½; (1,1)(1,-1)/2: 0
    assert found.agreement == pytest.approx((1 + 4 * root + 0) / 6)
    assert found.relative_norm == pytest.approx(1.0 / ((2 + 2 * math.sqrt(2)) / 8))


def test_one_class_has_no_separability() -> None:
    items = torch.randn(40, D, generator=torch.Generator().manual_seed(1)) + 3
    found = health(items.mean(0), items, mean, norm=2.0)
    assert found.separability is None
    assert found.relative_norm == pytest.approx(float(items.mean(0).norm()) / 2)
    assert found.split_half == pytest.approx(1.0, abs=0.05)
    assert "d'" not in str(found)


def test_few_items_leave_out_what_they_cannot_tell() -> None:
    items, _ = classes(3, 3.0, 1.0)
    assert health(mean_difference(items[:1]), items[:1], mean_difference).agreement is None
    found = health(mean_difference(items), items, mean_difference)
    assert (found.split_half, found.separability) == (None, None)
    assert found.agreement is not None


def test_a_zero_vector_says_so_and_nothing_else() -> None:
    items = torch.ones(6, 2, D)
    found = health(torch.zeros(D), items, mean_difference)
    assert found == Health(0.0)
    assert str(found) == "norm 0.00; weak: the vector is zero here, as the texts do not differ"


def test_classes_without_spread_are_very_far_apart_and_such_that_disagree_are_weak() -> None:
    items = torch.zeros(6, 2, D)
    items[:, 0] = 1.0
    assert health(mean_difference(items), items, mean_difference).separability == pytest.approx(1e6)
    items = torch.zeros(4, 2, D)
    items[:2, 0, 0], items[2:, 0, 0], items[:, 0, 1] = 1.0, -1.0, 0.5
    found = health(mean_difference(items), items, mean_difference)
    assert math.isfinite(found.separability)
    assert Health(0.1, 0.9, math.nan, 0.5).weak == ["weak: the two classes overlap along it"]


def test_it_prints_in_one_line() -> None:
    assert str(Health(0.1234, 0.9, 2.0, 0.5)) == "norm 0.12, split-half 0.90, d' 2.00, agreement 0.50"
    assert str(Health()) == "not measured"
    assert "\n" not in str(Health(0.1, 0.2, 0.3, 0.01))
