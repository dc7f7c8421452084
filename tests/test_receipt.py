"""What a run says it did, against what it was told to do."""

import copy
import warnings
from typing import Any

import pytest
import torch
from reference import both, random_ids, random_tensor
from torch import Tensor

from ministeer.generate import generate, prefill
from ministeer.interventions import Gate, clamp, project_out
from ministeer.interventions import relative as share
from ministeer.receipt import GateWarning, Receipt
from ministeer.steer import Steer

BOTH = both(6, 61, 32, 24, 3, 2)
MODEL, THEIRS = BOTH["gpt2"]
V = random_tensor(24, seed=1, scale=1.0)
PROMPTS = [random_ids(MODEL, 1, n, seed=n)[0].tolist() for n in (3, 6, 4)]


def run(steer: Any, new: int = 4, **kwargs: Any) -> Receipt:
    receipt = Receipt()
    generate(MODEL, PROMPTS, max_new_tokens=new, steer=steer, temperature=0, receipt=receipt, **kwargs)
    return receipt


@pytest.mark.parametrize(
    ("where", "positions", "first", "last"),
    [
        ("all", 13 + 9, 0, 8),  # 13 prompt tokens; of 4 new ones a row 3 are read
        ("prompt", 13, 0, 5),
        ("last", 3 + 9, 2, 8),
        ("generated", 9, 3, 8),
        ([1, 2], 6, 1, 2),
    ],
)
def test_sites_positions_and_rows_are_counted(where: Any, positions: int, first: int, last: int) -> None:
    receipt = run(Steer(V, ("pre", 1), 2.0, where))
    touched = receipt.sites["pre", 1]
    assert list(receipt.sites) == [("pre", 1)]
    assert (touched.positions, touched.first, touched.last) == (positions, first, last)
    assert receipt.positions == 13 + 9
    assert (touched.rows, receipt.rows) == ({0, 1, 2}, 3)


def test_the_share_of_the_norm_is_what_was_added_over_the_stream_before() -> None:
    receipt = run(Steer(share(V), ("mid", 1), 0.25))
    touched = receipt.sites["mid", 1]
    assert touched.total / touched.positions == pytest.approx(0.25, rel=1e-4)
    assert touched.largest == pytest.approx(0.25, rel=1e-4)
    tape: dict[Any, Any] = {}
    MODEL(torch.tensor(PROMPTS[:1]), tape=tape)
    norms = tape["pre", 2][0].norm(dim=-1)
    one = Receipt()
    prefill(MODEL, PROMPTS[:1], None, [Steer(V, ("pre", 2), -3.0)], one)
    ratios = 3 * V.norm() / norms
    assert one.sites["pre", 2].total == pytest.approx(float(ratios.sum()), rel=1e-4)
    assert one.sites["pre", 2].largest == pytest.approx(float(ratios.max()), rel=1e-4)


def test_a_receipt_changes_nothing() -> None:
    steers = [Steer(V, ("pre", 1), 2.0, "last"), Steer(clamp(V), ("mid", 2), 1.0), Steer(V, ("mid", 2), 1.0)]
    plain = prefill(MODEL, PROMPTS, None, steers)
    assert torch.equal(prefill(MODEL, PROMPTS, None, steers, Receipt()), plain)


def test_rows_that_have_ended_are_not_counted() -> None:
    def sampled(**kwargs: Any) -> list[list[int]]:
        generators = [torch.Generator().manual_seed(seed) for seed in (1, 2, 3)]
        return generate(MODEL, PROMPTS, max_new_tokens=4, generator=generators, steer=Steer(V, ("pre", 1)), **kwargs)

    free = sampled()
    stop = free[0][3]  # the first row ends with its first new token, the others go on
    assert stop not in free[1][6:] + free[2][4:]
    receipt = Receipt()
    ended = sampled(stop=[stop], receipt=receipt)
    assert [len(row) for row in ended] == [4, 10, 8]
    assert receipt.positions == receipt.sites["pre", 1].positions == 3 + 9 + 7


def test_a_coefficient_of_zero_touches_no_row() -> None:
    receipt = run(Steer(V, ("pre", 1), [0.0, 2.0, 0.0]))
    assert receipt.sites["pre", 1].rows == {1}
    assert receipt.sites["pre", 1].positions == 6 + 3


@pytest.mark.parametrize(
    "steer", [Steer(V, ("pre", 1), 0.0), Steer(0 * V, ("pre", 1)), Steer(project_out(V), ("pre", 1), 0.0)]
)
def test_a_run_in_which_nothing_was_touched_is_an_error(steer: Any) -> None:
    with pytest.raises(ValueError, match="nothing was added"):
        run(steer)
    with pytest.raises(ValueError, match="nothing was added"):
        prefill(MODEL, PROMPTS, steer=steer, receipt=Receipt())


def test_a_receipt_serves_one_run_and_names_what_did_nothing() -> None:
    receipt = run([Steer(V, ("pre", 1)), Steer(V, ("mid", 2), 0.0)])
    assert str(receipt).endswith("; mid 2: nothing")
    with pytest.raises(ValueError, match="receipt of its own for each run"):
        generate(MODEL, PROMPTS, max_new_tokens=2, steer=Steer(V, ("pre", 1), 0.0), receipt=receipt)


def test_what_is_rounded_away_was_not_added() -> None:
    """In bfloat16 a stream keeps three digits: of a smaller add some or all is lost, and the receipt says what was not."""
    half = copy.deepcopy(MODEL).bfloat16()
    tape: dict[Any, Any] = {}
    half(torch.tensor(PROMPTS[:1]), tape=tape)
    x, delta = tape["pre", 1].float(), (1e-4 * V).bfloat16()
    moved = ((x.bfloat16() + delta).float() - x).norm(dim=-1) / x.norm(dim=-1)
    receipt = Receipt()
    prefill(half, PROMPTS[:1], None, Steer(V, ("pre", 1), 1e-4), receipt)
    assert receipt.sites["pre", 1].total == pytest.approx(float(moved.sum()), rel=1e-2)
    assert abs(float(moved.sum()) / float((delta.float().norm() / x.norm(dim=-1)).sum()) - 1) > 0.05
    with pytest.raises(ValueError, match="nothing was added"):
        prefill(half, PROMPTS[:1], None, Steer(V, ("pre", 1), 1e-9), Receipt())


def test_a_receipt_of_a_run_without_a_steer_says_so() -> None:
    with pytest.raises(ValueError, match="without a Steer; leave the receipt out"):
        run(None)


def test_a_gate_is_in_the_receipt_and_a_closed_one_is_a_warning() -> None:
    steer = Steer(V, ("pre", 1))
    cosines = Gate(V, ("pre", 2), 0.0).cosines(MODEL, PROMPTS)
    low, _, high = cosines.sort().values.tolist()
    one = run(Gate(V, ("pre", 2), (low + high) / 2).over(MODEL, PROMPTS, steer))
    open_rows = {i for i, c in enumerate(cosines.tolist()) if c > (low + high) / 2}
    assert one.sites["pre", 1].rows == open_rows
    assert f"gate open in {len(open_rows)} of 3 rows" in str(one)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GateWarning)
        closed = Gate(V, ("pre", 2), 1.0).over(MODEL, PROMPTS, steer)
    with pytest.warns(GateWarning, match="opened in no row"):
        assert "gate open in 0 of 3 rows" in str(run(closed))


def test_it_prints_in_one_line() -> None:
    receipt = run([Steer(share(V), ("pre", 1), 0.5, "last"), Steer(V, ("mid", 1), 1.0, [0])])
    assert str(receipt).startswith(
        "pre 1: 12 of 22 positions (2 to 8) in 3 of 3 rows, added 0.5 of the stream's norm (at most 0.5); mid 1: 3 of 22"
    )
    assert "\n" not in str(receipt)
    assert str(Receipt()) == "nothing was touched"


def test_adds_of_ones_own_loop_can_be_watched() -> None:
    receipt = Receipt()
    ids = torch.tensor(PROMPTS[1:2])

    def second_half(x: Tensor) -> Tensor:
        return torch.where(torch.arange(x.shape[1])[:, None] >= 3, V, 0.0).expand(x.shape)

    logits = MODEL(ids, adds=receipt.watch({("pre", 1): V, ("mid", 1): second_half}, torch.arange(6)[None]))
    assert torch.equal(logits, MODEL(ids, adds={("pre", 1): V, ("mid", 1): second_half}))
    assert receipt.sites["pre", 1].positions == 6
    assert (receipt.sites["mid", 1].positions, receipt.sites["mid", 1].first) == (3, 3)
    padded = Receipt()
    MODEL(torch.tensor(PROMPTS[1:2]), adds=padded.watch({("pre", 1): V}, torch.tensor([[0, 1, 2, 3, -1, -1]])))
    assert (padded.positions, padded.sites["pre", 1].positions) == (4, 4)


@pytest.mark.parametrize("made", [torch.zeros(3), torch.zeros(7, 9, 24), torch.zeros(3, 6, 1), torch.tensor(1.0)])
@pytest.mark.parametrize("receipt", [None, Receipt])
def test_a_function_of_another_shape_is_one_sentence_with_a_receipt_and_without(made: Tensor, receipt: Any) -> None:
    steer = Steer(lambda x, c: made, ("pre", 1))
    with pytest.raises(
        ValueError, match=r"expected a function that makes the stream \(3, 6, 24\) a tensor to add to it"
    ):
        prefill(MODEL, PROMPTS, steer=steer, receipt=receipt and receipt())
