"""Where a Steer steers, written out by hand; what a plan of Steers adds at each call, and what it refuses."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import both, random_tensor
from torch import Tensor

from ministeer import generate, prefill
from ministeer.interventions import Gate, clamp, keep_norm, project_out, reflect, relative, rotate, substitute
from ministeer.model import check_add
from ministeer.provenance import Provenance
from ministeer.receipt import Receipt
from ministeer.steer import Plan, Steer, resolve
from ministeer.vectors import SteeringVector

BOTH = both(seed=1)
MODEL, THEIRS = BOTH["gpt2"]
WIDTH = MODEL.config.width
V = random_tensor(WIDTH, seed=5)
FRONT = random_tensor(2, WIDTH, seed=6)


def some_vector() -> SteeringVector:
    tensors = {site: random_tensor(WIDTH, seed=n) for n, site in enumerate([("pre", 0), ("mid", 1), ("pre", 3)])}
    return SteeringVector(tensors, Provenance("weights", "contrastive", "0123456789abcdef", "answer", "float32", 7))


def plan_for(steers: Any, lengths: list[int], new: int = 9) -> Plan:
    return resolve(MODEL, steers, [[0] * n for n in lengths], new)


def added(steer: Steer, positions: Tensor, lengths: list[int]) -> Tensor:
    """What is added at each position, `(B, T, D)`, zero where nothing is."""
    found = plan_for(steer, lengths).adds(positions).get(steer.site, torch.zeros(WIDTH))
    return found.expand(*positions.shape, WIDTH)


# --- where a Steer steers ---

# one prompt of 4 tokens, one of 2, one of 1, padded to 4; then two tokens behind each
PROMPTS = torch.tensor([[0, 1, 2, 3], [0, 1, -1, -1], [0, -1, -1, -1]])
BEHIND = torch.tensor([[4, 5], [2, 3], [1, 2]])
LENGTHS = torch.tensor([4, 2, 1])
TOUCHED = {
    "all": (["xxxx", "xx..", "x..."], ["xx", "xx", "xx"]),
    "prompt": (["xxxx", "xx..", "x..."], ["..", "..", ".."]),
    "last": (["...x", ".x..", "x..."], ["xx", "xx", "xx"]),
    "generated": (["....", "....", "...."], ["xx", "xx", "xx"]),
    "front": (["xx..", "xx..", "x..."], ["..", "..", "x."]),  # `resolve` refuses it for the row of one token
    (0,): (["x...", "x...", "x..."], ["..", "..", ".."]),
    (1, 3): ([".x.x", ".x..", "...."], ["..", ".x", "x."]),  # likewise for the two short rows
}


def drawn(mask: Tensor) -> list[str]:
    return ["".join(".x"[int(on)] for on in row) for row in mask]


@pytest.mark.parametrize("where", TOUCHED, ids=str)
def test_which_positions_are_steered_drawn_by_hand(where: Any) -> None:
    steer = Steer(FRONT if where == "front" else V, ("pre", 1), where=where)
    assert drawn(steer.touches(PROMPTS, LENGTHS)) == TOUCHED[where][0]
    assert drawn(steer.touches(BEHIND, LENGTHS)) == TOUCHED[where][1]
    one_by_one = torch.cat([steer.touches(BEHIND[:, i : i + 1], LENGTHS) for i in range(2)], dim=1)
    assert drawn(one_by_one) == TOUCHED[where][1]


@pytest.mark.parametrize("where", ["all", "prompt", "last", "generated", [0], [0, 1]])
def test_the_first_steered_position_is_steered_and_the_one_before_is_not(where: Any) -> None:
    """Published: `>` written for `>=`. For prompts of 2 tokens in texts of 4."""
    first = {"all": 0, "prompt": 0, "last": 1, "generated": 2}.get(where, 0) if isinstance(where, str) else 0
    touched = Steer(V, ("pre", 1), where=where).touches(torch.arange(4)[None], torch.tensor([2]))[0].tolist()
    assert touched.index(True) == first


def test_a_one_token_prompt_is_not_taken_for_a_decoding_step() -> None:
    """Published. Its one position is the prompt's, though a call with one token looks like one that decodes."""
    position, length = torch.tensor([[0]]), torch.tensor([1])
    steered = [
        w for w in ("all", "prompt", "last", "generated") if Steer(V, ("pre", 1), where=w).touches(position, length)
    ]
    assert steered == ["all", "prompt", "last"]
    steered = [
        w for w in ("all", "prompt", "last", "generated") if Steer(V, ("pre", 1), where=w).touches(position + 1, length)
    ]
    assert steered == ["all", "last", "generated"]


@given(
    st.lists(st.integers(2, 6), min_size=1, max_size=4),
    st.sampled_from(["all", "prompt", "last", "generated", "front", (0,), (1, 0)]),
    st.integers(0, 3),
    st.integers(0, 99),
)
def test_what_is_added_is_the_coefficient_times_the_vector_there_and_zero_elsewhere(
    lengths: list[int], where: Any, behind: int, seed: int
) -> None:
    coeffs = random_tensor(len(lengths), seed=seed, scale=3.0).tolist()
    steer = Steer(FRONT if where == "front" else V, ("pre", 1), coeffs, where)
    rows = [[*range(n), *[-1] * (max(lengths) - n), *range(n, n + behind)] for n in lengths]
    delta = added(steer, torch.tensor(rows), lengths)
    for row, (positions, n, c) in enumerate(zip(rows, lengths, coeffs, strict=True)):
        for column, p in enumerate(positions):
            at = {"all": True, "prompt": p < n, "last": p >= n - 1, "generated": p >= n, "front": p < 2}
            on = p >= 0 and (at[where] if isinstance(where, str) else p in where)
            expected = (FRONT[p] if where == "front" else V) * c if on else torch.zeros(WIDTH)
            torch.testing.assert_close(delta[row, column], expected)


def test_one_coefficient_serves_every_row_and_a_list_gives_each_its_own() -> None:
    positions, lengths = torch.arange(3).expand(2, 3), [3, 3]
    assert torch.equal(added(Steer(V, ("pre", 1), 2), positions, lengths), (2 * V).expand(2, 3, -1))
    swept = added(Steer(V, ("pre", 1), (2, -1.5)), positions, lengths)
    assert torch.equal(swept, torch.tensor([2, -1.5])[:, None, None] * V.expand(2, 3, -1))


def test_coefficients_may_lie_in_a_tensor_or_an_array() -> None:
    sweep = torch.linspace(-1, 1, 3)
    for coeff in (sweep, sweep.numpy()):
        assert Steer(V, ("pre", 1), coeff).coeffs == [-1.0, 0.0, 1.0]
    assert Steer(V, ("pre", 1), sweep[2]).coeffs == [1.0]


def test_a_coefficient_is_not_rounded_away() -> None:
    assert torch.equal(added(Steer(V, ("pre", 1), 0.1), torch.tensor([[0]]), [1])[0, 0], 0.1 * V)


def test_interventions_at_one_site_are_summed_and_at_two_sites_kept_apart() -> None:
    w, site = random_tensor(WIDTH, seed=9), ("pre", 1)
    steers = [Steer(V, site, 2.0), Steer(w, site, -1.0, "last"), Steer(w, ("mid", 0))]
    adds = plan_for(steers, LENGTHS.tolist()).adds(PROMPTS)
    assert list(adds) == [site, ("mid", 0)]
    expected = torch.zeros(3, 4, WIDTH)
    for row, n in enumerate(LENGTHS.tolist()):
        expected[row, :n] = 2.0 * V
        expected[row, n - 1] -= w
    torch.testing.assert_close(adds[site], expected)
    assert torch.equal(adds["mid", 0], (PROMPTS >= 0)[:, :, None] * w)


def test_an_intervention_that_touches_none_of_these_positions_is_left_out() -> None:
    steers = [
        Steer(FRONT, ("pre", 0), where="front"),
        Steer(V, ("pre", 1), where="prompt"),
        Steer(V, ("pre", 2), where=[1]),
    ]
    plan = plan_for(steers, [4, 2])
    assert list(plan.adds(PROMPTS[:2])) == [("pre", 0), ("pre", 1), ("pre", 2)]
    assert plan.adds(torch.tensor([[4], [2]])) == {}
    assert plan_for([], [4, 2, 1]).adds(PROMPTS) == {}


def test_a_steer_keeps_what_it_was_given() -> None:
    """What becomes of the caller's tensors afterwards changes neither it nor a vector or a gate."""
    mine, site = V.clone(), ("pre", 1)
    given = [torch.tensor([1.0, 2.0]), np.array([1.0, 2.0]), [1.0, 2.0]]
    where, rows = [0, 2], [True, False]
    vector = SteeringVector({site: mine}, Provenance("weights", "method", "data", "last", "float32"))
    steers = [Steer(v, site, coeff, where=where, rows=rows) for v in (mine, vector) for coeff in given]
    gate, taken = Gate(mine, site, 0.0), vector[site]
    mine.zero_(), taken.zero_(), where.append(5), rows.reverse()
    for coeff in given:
        coeff[0] = 0.0
    for held in (vector[site], gate.vector, *(steer.content for steer in steers)):
        assert torch.equal(held, V)
    assert all((s.coeffs, s.where, s.rows) == ([1.0, 2.0], [0, 2], [True, False]) for s in steers)


def test_a_steering_vector_gives_its_tensor_at_the_site() -> None:
    vector = some_vector()
    for site in vector.sites:
        assert torch.equal(Steer(vector, site).content, vector.tensors[site])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"where": "first"}, ["'all'", "'first'"]),
        ({"where": ""}, ["'all'", "''"]),
        ({"where": []}, ["counted from 0", "[]"]),
        ({"where": [-1]}, ["counted from 0", "[-1]", "where='last'"]),
        ({"where": [0, 1.0]}, ["counted from 0", "[0, 1.0]"]),
        ({"where": [True, False]}, ["counted from 0", "[True, False]"]),
        ({"where": 3}, ["list of prompt positions", "3"]),
        ({"where": None}, ["list of prompt positions", "None"]),
        ({"vector": FRONT}, ["(D,)", "(2, 16)", "'all'", "goes with where='front'"]),
        ({"where": "front"}, ["(P, D)", "(16,)", "'front'"]),
        ({"vector": FRONT[:0], "where": "front"}, ["(P, D)", "(0, 16)"]),
        ({"vector": torch.tensor(1.0)}, ["(D,)", "()"]),
        ({"vector": torch.arange(16)}, ["floating-point", "int64"]),
        ({"vector": [1.0, 2.0]}, ["floating-point", "list"]),
        ({"vector": V.to(torch.float8_e4m3fn)}, ["floating-point", "float8_e4m3fn"]),
        ({"vector": V.to_sparse()}, ["floating-point", "sparse"]),
        ({"vector": V / 0.0}, ["finite values"]),
        ({"coeff": math.nan}, ["finite coefficients", "nan"]),
        ({"coeff": [1.0, math.inf]}, ["finite coefficients", "[1.0, inf]"]),
        ({"coeff": []}, ["list of one per row", "[]"]),
        ({"coeff": "10"}, ["list of one per row", "'10'"]),
        ({"coeff": torch.tensor([1.0, math.nan])}, ["finite coefficients", "nan"]),
        ({"coeff": "strong"}, ["list of one per row", "strong"]),
        ({"coeff": None}, ["list of one per row", "None"]),
        ({"site": ["pre", 1]}, ['("pre", i)', "['pre', 1]"]),
        ({"vector": some_vector()}, ["('pre', 0), ('mid', 1), ('pre', 3)", "got ('pre', 1)"]),
    ],
)
def test_a_steer_that_means_nothing_is_refused_as_it_is_made(change: dict, words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:
        Steer(**{"vector": V, "site": ("pre", 1), **change})
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("steer", "lengths", "new", "words"),
    [
        (Steer(FRONT, ("pre", 1), where="front"), [5, 1, 4], 3, ["at least 2 tokens", "one of 1", "tok.bos"]),
        (Steer(V, ("pre", 1), where="generated"), [5, 1, 4], 1, ["one new token", "where='last'"]),
        (Steer(V, ("pre", 1), where=[0, 4]), [5, 4, 9], 3, ["below 4", "[0, 4]"]),
        (Steer(V, ("pre", 1), [1.0, 2.0]), [5, 1, 4], 3, ["each of 3 rows", "got 2"]),
    ],
)
def test_a_run_in_which_less_would_be_steered_than_asked_for_is_refused(
    steer: Steer, lengths: list[int], new: int, words: list[str]
) -> None:
    with pytest.raises(ValueError) as caught:
        resolve(MODEL, steer, [[0] * n for n in lengths], new)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("steer", "lengths", "new"),
    [
        (Steer(FRONT, ("pre", 1), where="front"), [5, 2, 4], 1),
        (Steer(V, ("pre", 1), where="generated"), [5, 1, 4], 2),
        (Steer(V, ("pre", 1), where="last"), [5, 1, 4], 1),
        (Steer(V, ("pre", 1), where=[0, 3]), [5, 4, 9], 1),
        (Steer(V, ("pre", 1), [1.0, 2.0, 0.0]), [5, 1, 4], 1),
        (Steer(V, ("pre", 1), [1.0]), [5, 1, 4], 1),
    ],
)
def test_a_run_at_the_edge_of_what_can_be_steered_is_accepted(steer: Steer, lengths: list[int], new: int) -> None:
    resolve(MODEL, steer, [[0] * n for n in lengths], new)


# --- a plan: checked once, then asked at every call ---

TEXTS = [[1, 2, 3, 4], [5, 6], [7]]


def test_a_run_checks_its_steers_once(monkeypatch: pytest.MonkeyPatch) -> None:
    checks: list[Any] = []

    def counted(site: Any, *rest: Any) -> None:
        checks.append(site)
        check_add(site, *rest)

    monkeypatch.setattr("ministeer.steer.check_add", counted)
    generate(MODEL, TEXTS, max_new_tokens=5, temperature=0, steer=[Steer(V, ("pre", 1)), Steer(V, ("mid", 2), 2.0)])
    assert checks == [("pre", 1), ("mid", 2)]


def test_a_plan_serves_its_prompts_and_its_model_alone() -> None:
    plan = resolve(MODEL, Steer(V, ("pre", 1)), TEXTS)
    assert resolve(MODEL, plan, tuple(map(tuple, TEXTS))) is plan
    assert torch.equal(prefill(MODEL, TEXTS, steer=plan), prefill(MODEL, TEXTS, steer=Steer(V, ("pre", 1))))
    other = next(some.ours for some in BOTH.values() if some.ours is not MODEL)
    for model, prompts in ((MODEL, TEXTS[:2]), (MODEL, TEXTS[::-1]), (MODEL, [*TEXTS[:2], [8]]), (other, TEXTS)):
        with pytest.raises(ValueError, match="a plan for this model and these prompts, got one for others"):
            prefill(model, prompts, steer=plan)
    with pytest.raises(ValueError, match=r"expected positions \(3, T\), .* got \(2, 1\)"):
        plan.adds(torch.zeros(2, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match="give the receipt to resolve"):
        prefill(MODEL, TEXTS, steer=plan, receipt=Receipt())
    longer = resolve(MODEL, Steer(V, ("pre", 1), where="generated"), TEXTS, 5)
    assert generate(MODEL, TEXTS, max_new_tokens=3, temperature=0, steer=longer)
    for run in (
        lambda: prefill(MODEL, TEXTS, steer=longer),
        lambda: generate(MODEL, TEXTS, max_new_tokens=1, steer=longer),
    ):
        with pytest.raises(ValueError, match="expected a run of two new tokens or more, got 1"):
            run()


@pytest.mark.parametrize(
    ("steer", "words"),
    [
        (Steer(V, ("pre", 4)), "i from 0 to 3"),
        (Steer(project_out(V), ("mid", 3)), "i from 0 to 2"),
        (Steer(random_tensor(WIDTH + 1), ("pre", 1)), "was the vector read from this model"),
        (Steer(random_tensor(2, WIDTH + 1), ("pre", 1), where="front"), "was the vector read from this model"),
        (Steer(100 * V / V.abs().max(), ("pre", 1), 1e38), "finite values to add"),
        (Steer(V, ("pre", 1), schedule=lambda n: n[0]), "a schedule that makes a tensor"),
        (Steer(V, ("pre", 1), rows=[True]), "a decision for each of 3 rows"),
        (Steer(V, ("pre", 1), rows=[True] * 3, decided_for="another"), "the prompts that the gate decided on"),
        (V, "a Steer or several, got Tensor"),
        ([Steer(V, ("pre", 1)), None], "a Steer or several, got NoneType"),
    ],
)
def test_what_a_model_or_its_prompts_have_no_place_for_is_refused_before_anything_runs(steer: Any, words: str) -> None:
    texts = [[1, 2, 3], [4, 5], [6, 7]]
    with pytest.raises(ValueError, match=words):
        resolve(MODEL, steer, texts)


@pytest.mark.parametrize("where", ["all", "prompt", "last", "generated", [0]])
def test_a_receipt_is_the_sum_of_what_the_plan_added(where: Any) -> None:
    """Told from a run without one: at each call, the share of the stream's norm at every position of the plan's own adds."""
    above = (
        "mid",
        1 if where == [0] else 2,
    )  # of three blocks: a vector at [0] would not be heard after the last attention
    steers = [Steer(V, ("pre", 1), [2.0, 0.0, -1.0], where), Steer(clamp(V), above, 0.5, where)]
    receipt = Receipt()
    rows = generate(MODEL, TEXTS, max_new_tokens=4, temperature=0, steer=steers, receipt=receipt)
    plan = resolve(MODEL, steers, TEXTS, 4)
    totals, counts = dict.fromkeys(plan.sites, 0.0), dict.fromkeys(plan.sites, 0)
    for row, text in enumerate(rows):
        positions = torch.arange(len(text) - 1).repeat(3, 1)
        ids = torch.tensor([text[:-1]] * 3)
        tape: dict[Any, Tensor] = {}
        adds = plan.adds(positions)
        MODEL(ids, adds=adds, tape=tape)
        for site, add in adds.items():
            after = tape[site][row]
            if callable(add):  # a clamp: before it, the stream without that site's add
                before: dict[Any, Tensor] = {}
                MODEL(ids, adds={other: a for other, a in adds.items() if other != site}, tape=before)
                delta = add(before[site])[row]
            else:
                delta = add.expand(3, len(text) - 1, WIDTH)[row]
            share = delta.norm(dim=-1) / (after - delta).norm(dim=-1)
            if site == ("mid", 2):  # of the prompt, what is added before its last token reaches no logit that is read
                share = share[len(TEXTS[row]) - 1 :]
            totals[site] += float(share.sum())
            counts[site] += int((share > 0).sum())
    for site in plan.sites:
        assert receipt.sites[site].positions == counts[site]
        assert receipt.sites[site].total == pytest.approx(totals[site], rel=1e-4)


def test_the_stream_after_a_plan_is_what_the_model_makes_of_it() -> None:
    low, _, high = Gate(V, ("pre", 1), 0.0).cosines(MODEL, TEXTS).sort().values.tolist()
    gate = Gate(V, ("pre", 1), (low + high) / 2)
    gated = gate.over(MODEL, TEXTS, Steer(project_out(V), ("pre", 2), [0.5, 1.0, 2.0]))
    plan = resolve(MODEL, [gated, Steer(V, ("pre", 2), 3.0, "last")], TEXTS)
    positions = torch.tensor([[0, 1, 2, 3], [0, 1, -1, -1], [0, -1, -1, -1]])
    ids = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0], [7, 0, 0, 0]])
    plain: list[Any] = [("pre", 2)]
    MODEL.stream(ids, tape=plain)
    steered: list[Any] = [("pre", 2)]
    MODEL.stream(ids, plan.adds(positions), tape=steered)
    assert torch.equal(plan.at(("pre", 2), plain[0], positions), steered[0])
    assert torch.equal(plan.at(("mid", 1), plain[0], positions), plain[0])
    assert not torch.equal(plain[0], steered[0])


def halves(x: Tensor, coeff: Tensor) -> Tensor:
    x.mul_(0.5)
    return torch.full_like(x, 1e-3)


@pytest.mark.parametrize("inference", [False, True])
def test_a_function_that_changes_the_stream_in_place_is_refused(inference: bool) -> None:
    """Its change would reach every position, and no receipt: also where it is the second at a site, and without a gradient's record."""
    run, receipt = Steer(halves, ("pre", 1), where=[0]), Receipt()
    for steer in (run, [Steer(V, ("pre", 1)), run], [Steer(project_out(V), ("pre", 1)), run]):
        with (
            torch.inference_mode(inference),
            pytest.raises(ValueError, match="one that changes it in place; return what"),
        ):
            prefill(MODEL, TEXTS, steer=steer, receipt=receipt if steer is run else None)
    assert not receipt.sites
    with torch.inference_mode(inference):
        prefill(MODEL, TEXTS, steer=Steer(lambda x, coeff: coeff * x.detach().clone().mul_(0.5), ("pre", 1)))


def test_a_function_that_returns_the_stream_as_a_hook_does_is_refused() -> None:
    """What it returns is added: the stream would be doubled, with a receipt that says all is well."""
    for steer in (
        Steer(lambda x, coeff: x + coeff * V, ("pre", 1)),
        Steer(lambda x, coeff: x + coeff * V, ("mid", 0), where="last"),
    ):
        with pytest.raises(ValueError, match="got one that adds the stream itself; return what to add"):
            prefill(MODEL, TEXTS, steer=steer)
    asked = []

    def counted(x: Tensor, coeff: Tensor) -> Tensor:
        asked.append(float(coeff.abs().max()))
        return coeff * V

    generate(MODEL, TEXTS[0], max_new_tokens=4, temperature=0, steer=Steer(counted, ("pre", 1), 2.0))
    assert asked == [0.0, 2.0, 2.0, 2.0, 2.0]  # once in a run


@pytest.mark.parametrize("made", ["tensor", "SteeringVector", "keep_norm"])
def test_a_steer_made_before_training_follows_the_vector_that_learns(made: str) -> None:
    """An optimiser changes it where it lies; a copy would be trained against, and never move."""
    v = random_tensor(MODEL.config.width).requires_grad_()
    held: Any = {
        "SteeringVector": lambda: SteeringVector(
            {("pre", 1): v}, Provenance("0" * 16, "a test", "0" * 16, None, "float32")
        ),
        "keep_norm": lambda: keep_norm(v),
    }.get(made, lambda: v)()
    steer, losses = Steer(held, ("pre", 1), 1.0), []
    step = torch.optim.SGD([v], lr=1.0)
    for _ in range(2):
        loss = -prefill(MODEL, [[1, 2, 3]], steer=steer).log_softmax(-1)[0, 5]
        step.zero_grad()
        loss.backward()
        step.step()
        losses.append(float(loss.detach()))
    assert losses[1] < losses[0]


@pytest.mark.parametrize("make", [project_out, reflect, clamp, substitute, relative, keep_norm, rotate])
def test_a_function_made_before_training_follows_the_direction_that_learns(make: Any) -> None:
    v, other = random_tensor(MODEL.config.width).requires_grad_(), random_tensor(MODEL.config.width, seed=1)

    def made(direction: torch.Tensor) -> Any:
        return make(direction, other) if make is rotate else make(direction)

    steer, step = Steer(made(v), ("pre", 1), 0.5), torch.optim.SGD([v], lr=10.0)
    for _ in range(2):  # the second one needs a graph of its own
        step.zero_grad()
        prefill(MODEL, [[1, 2, 3]], steer=steer).log_softmax(-1)[0, 5].backward()
        step.step()
    with torch.no_grad():
        now = prefill(MODEL, [[1, 2, 3]], steer=Steer(made(v.detach().clone()), ("pre", 1), 0.5))
        assert torch.equal(prefill(MODEL, [[1, 2, 3]], steer=steer), now)


def test_a_coefficient_that_would_not_learn_is_refused() -> None:
    v, coeff = random_tensor(MODEL.config.width), torch.tensor(1.0, requires_grad=True)
    with pytest.raises(ValueError, match="expected coefficients that are numbers, got a tensor that learns"):
        Steer(v, ("pre", 1), coeff)
    (coeff * prefill(MODEL, [[1, 2]], steer=Steer(v, ("pre", 1), coeff.detach()))).sum().backward()


def test_a_steer_keeps_what_does_not_learn() -> None:
    v = random_tensor(MODEL.config.width)
    steer, before = Steer(v, ("pre", 1), 1.0), v.clone()
    v.zero_()
    assert torch.equal(steer.content, before)
