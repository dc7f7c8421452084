"""Functions of the stream, alone and through `Steer`: by the algebra they promise, and against a plain hook on transformers."""

import math
from typing import Any

import pytest
import torch
from reference import TOLERANCE, both, random_ids, random_tensor, reference_run, relative
from torch import Tensor

from ministeer import interventions
from ministeer.calibrate import calibrate
from ministeer.generate import decode, generate, prefill
from ministeer.interventions import Gate, clamp, decay, keep_norm, project_out, reflect, rotate, substitute
from ministeer.interventions import relative as share
from ministeer.model import Cache
from ministeer.receipt import GateWarning
from ministeer.steer import Steer, resolve

BOTH = both(5, 61, 32, 24, 3, 2)
MODEL, THEIRS = BOTH["gpt2"]
V, W = random_tensor(24, seed=1, scale=1.0), random_tensor(24, seed=2, scale=1.0)
X = random_tensor(2, 5, 24, seed=3, scale=1.0)
UNIT = V / V.norm()


def after(f: Any, *coeff: float) -> Tensor:
    return X + f(X, *coeff)


def along(x: Tensor, v: Tensor = V) -> Tensor:
    return x @ (v / v.norm())


def across(x: Tensor) -> Tensor:
    """What of the stream is orthogonal to V."""
    return x - along(x)[..., None] * UNIT


# --- what each promises -----------------------------------------------------------------------------------------------


def test_project_out_leaves_nothing_along_and_all_across() -> None:
    assert along(after(project_out(V))).abs().max() < 1e-6
    assert torch.allclose(across(after(project_out(V))), across(X), atol=1e-6)
    assert torch.allclose(along(after(project_out(V), 0.25)), 0.75 * along(X), atol=1e-6)
    assert torch.allclose(after(project_out(7 * V)), after(project_out(V)), atol=1e-6)  # its length is nothing to it


def test_the_coefficient_is_1_where_none_is_given_with_and_without_a_steer() -> None:
    ids = random_ids(MODEL, 1, 4)
    for f in (project_out(V), reflect(V), clamp(V), share(V), keep_norm(V), substitute(V), rotate(V, W)):
        assert torch.equal(f(X), f(X, 1.0))
        direct = MODEL(ids, adds={("pre", 1): f})[:, -1]
        assert relative(prefill(MODEL, ids.tolist(), None, Steer(f, ("pre", 1))), direct) < TOLERANCE


def test_reflect_twice_is_nothing() -> None:
    once = after(reflect(V))
    assert torch.allclose(along(once), -along(X), atol=1e-6)
    assert torch.allclose(across(once), across(X), atol=1e-6)
    assert torch.allclose(once + reflect(V)(once), X, atol=1e-5)
    assert torch.allclose(after(project_out(V), 2.0), once, atol=1e-6)


def test_clamp_sets_the_component_and_nothing_else() -> None:
    assert torch.allclose(along(after(clamp(V), 3.0)), torch.full((2, 5), 3.0), atol=1e-5)
    assert torch.allclose(after(clamp(V), -2.0), after(clamp(5 * V), -2.0), atol=1e-5)
    assert torch.allclose(across(after(clamp(V), 3.0)), across(X), atol=1e-5)


def test_relative_adds_a_share_of_the_streams_norm() -> None:
    added = share(V)(X, 0.3)
    assert torch.allclose(added.norm(dim=-1), 0.3 * X.norm(dim=-1), rtol=1e-5)
    assert torch.allclose(along(added), added.norm(dim=-1), rtol=1e-5)


def test_keep_norm_moves_as_an_add_and_keeps_the_norm() -> None:
    moved = after(keep_norm(V), 2.0)
    assert torch.allclose(moved.norm(dim=-1), X.norm(dim=-1), rtol=1e-5)
    assert torch.allclose(torch.cosine_similarity(moved, X + 2 * V, dim=-1), torch.ones(2, 5), atol=1e-5)


@pytest.mark.parametrize("make", [project_out, reflect, clamp, substitute, share, keep_norm, rotate])
def test_a_later_change_of_the_vector_does_not_reach_the_function(make: Any) -> None:
    own = [V.clone(), W.clone()]
    f = make(*own) if make is rotate else make(own[0])
    before = f(X)
    for v in own:
        v.mul_(-3.0).add_(1.0)
    assert torch.equal(f(X), before)


@pytest.mark.parametrize("angle", [0.0, 0.4, math.pi / 2, -2.0, math.pi])
def test_rotate_turns_within_the_plane(angle: float) -> None:
    e1 = V / V.norm()
    e2 = W - (W @ e1) * e1
    e2 = e2 / e2.norm()
    turned = after(rotate(V, W), angle)
    assert torch.allclose(turned.norm(dim=-1), X.norm(dim=-1), rtol=1e-5)
    outside = [x - (x @ e1)[..., None] * e1 - (x @ e2)[..., None] * e2 for x in (turned, X)]
    assert torch.allclose(*outside, atol=1e-5)
    wanted = torch.complex(X @ e1, X @ e2) * complex(math.cos(angle), math.sin(angle))  # the plane as complex numbers
    assert torch.allclose(torch.complex(turned @ e1, turned @ e2), wanted, atol=1e-5)
    assert torch.allclose(turned + rotate(V, W)(turned, -angle), X, atol=1e-5)


def test_a_right_angle_turns_start_into_end() -> None:
    end = W - along(W)[..., None] * UNIT
    stream = (3 * UNIT).expand(1, 1, -1)
    turned = stream + rotate(V, end)(stream, math.pi / 2)
    assert torch.allclose(turned[0, 0], 3 * end / end.norm(), atol=1e-5)


def turned(x: Tensor, angle: float) -> Tensor:
    """By the matrix of the rotation, written out."""
    e2 = W - along(W) * UNIT
    e2 = e2 / e2.norm()
    plane = torch.outer(UNIT, UNIT) + torch.outer(e2, e2)
    turn = torch.outer(e2, UNIT) - torch.outer(UNIT, e2)
    return x @ (torch.eye(24) + (math.cos(angle) - 1) * plane + math.sin(angle) * turn).T


ALL = {
    "project_out": (project_out(V), 0.7, lambda x: x - 0.7 * along(x)[..., None] * UNIT),
    "reflect": (reflect(V), 1.0, lambda x: x - 2 * along(x)[..., None] * UNIT),
    "clamp": (clamp(V), 1.5, lambda x: x - along(x)[..., None] * UNIT + 1.5 * UNIT),
    "substitute": (substitute(V), 0.8, lambda x: 0.2 * x + 0.8 * V),
    "relative": (share(V), 0.2, lambda x: x + 0.2 * x.norm(dim=-1, keepdim=True) * UNIT),
    "keep_norm": (keep_norm(V), 0.5, lambda x: (x + 0.5 * V) * x.norm(dim=-1, keepdim=True) / (x + 0.5 * V).norm(dim=-1, keepdim=True)),
    "rotate": (rotate(V, W), 0.6, lambda x: turned(x, 0.6)),
    "add": (V, 0.5, lambda x: x + 0.5 * V),
}  # fmt: skip


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("site", [("pre", 0), ("pre", 2), ("pre", 3)])
def test_a_plain_hook_on_transformers_gives_the_same_logits(name: str, site: tuple[str, int]) -> None:
    vector, coeff, becomes = ALL[name]
    ids = random_ids(MODEL, 2, 6)
    wanted, _ = reference_run(THEIRS, ids, {site: lambda x: becomes(x) - x})
    found = prefill(MODEL, ids.tolist(), None, [Steer(vector, site, coeff)])
    assert relative(found, wanted[:, -1]) < TOLERANCE
    assert relative(found, THEIRS(input_ids=ids).logits[:, -1]) > 1e-4


@pytest.mark.parametrize("name", [name for name in ALL if name != "add"])
@pytest.mark.parametrize("where", ["all", "prompt", "last", "generated", [1]])
def test_functions_touch_the_positions_asked_for_with_and_without_a_cache(name: str, where: Any) -> None:
    """Cached and batched, position by position, is what one pass over the whole texts gives."""
    vector, coeff, _ = ALL[name]
    prompts = [random_ids(MODEL, 1, n, seed=n)[0].tolist() for n in (3, 6)]
    steer = Steer(vector, ("mid", 1), coeff, where)
    cache, plan = Cache(MODEL, 2, 12), resolve(MODEL, steer, prompts, 4)
    logits = [prefill(MODEL, prompts, cache, plan)]
    more = random_ids(MODEL, 2, 3, seed=9)
    logits += [decode(MODEL, more[:, i], cache, plan) for i in range(3)]
    for row, prompt in enumerate(prompts):
        whole = torch.tensor([prompt + more[row].tolist()])
        positions = torch.arange(len(whole[0]))[None]
        add = resolve(MODEL, steer, [prompt], 4).adds(positions)["mid", 1]
        wanted = MODEL(whole, adds={("mid", 1): add})[0, len(prompt) - 1 :]
        assert relative(torch.stack([x[row] for x in logits]), wanted) < TOLERANCE
        touched = steer.touches(positions, torch.tensor([len(prompt)]))
        tapes: list[Any] = [{}, {}]
        MODEL(whole, adds={("mid", 1): add}, tape=tapes[0])
        MODEL(whole, tape=tapes[1])
        changed = (tapes[0]["mid", 1] != tapes[1]["mid", 1]).any(-1)
        assert torch.equal(changed, touched)


def test_each_row_has_its_own_coefficient() -> None:
    ids = random_ids(MODEL, 1, 5)[0].tolist()
    coeffs = [0.0, 0.5, -1.0]
    together = prefill(MODEL, [ids] * 3, None, [Steer(rotate(V, W), ("pre", 1), coeffs)])
    for row, coeff in enumerate(coeffs):
        alone = prefill(MODEL, [ids], None, [Steer(rotate(V, W), ("pre", 1), coeff)])
        assert relative(together[row : row + 1], alone) < TOLERANCE


def test_interventions_at_one_site_act_in_their_order() -> None:
    ids = random_ids(MODEL, 1, 4)
    first, second = Steer(V, ("pre", 1), 2.0), Steer(project_out(V), ("pre", 1))
    for steers, becomes in [
        ([first, second], lambda x: across(x + 2 * V)),
        ([second, first], lambda x: across(x) + 2 * V),
        ([first, first], lambda x: x + 4 * V),
        ([second, Steer(clamp(V), ("pre", 1), 1.0), Steer(W, ("pre", 1))], lambda x: across(x) + UNIT + W),
    ]:
        wanted, _ = reference_run(THEIRS, ids, {("pre", 1): lambda x, becomes=becomes: becomes(x) - x})
        assert relative(prefill(MODEL, ids.tolist(), None, steers), wanted[:, -1]) < TOLERANCE


def test_several_sites_at_once() -> None:
    ids = random_ids(MODEL, 1, 4)
    steers = [Steer(project_out(V), site) for site in (("pre", 0), ("pre", 1), ("pre", 3))]
    adds = {site: lambda x: across(x) - x for site in (("pre", 0), ("pre", 1), ("pre", 3))}
    wanted, _ = reference_run(THEIRS, ids, adds)
    assert relative(prefill(MODEL, ids.tolist(), None, steers), wanted[:, -1]) < TOLERANCE


def test_what_a_function_makes_of_other_positions_cannot_hurt() -> None:
    """A zero stream has no direction: NaN there, where nothing is steered, must not reach the positions that are."""
    steer = Steer(
        lambda x, coeff: torch.full_like(x, torch.nan).index_fill(1, torch.tensor([2]), 0.5), ("pre", 1), where=[2]
    )
    found = prefill(MODEL, random_ids(MODEL, 1, 4).tolist(), None, [steer])
    assert bool(found.isfinite().all())


def test_decay_halves_with_every_half_life() -> None:
    steer = Steer(V, ("pre", 1), 8.0, schedule=decay(2))
    plan = resolve(MODEL, steer, [[0] * 4], 6)
    delta = plan.adds(torch.arange(9)[None])["pre", 1]
    factors = delta[0] @ V / (V @ V)
    wanted = [8.0] * 4 + [8 * 2 ** (-n / 2) for n in (1, 2, 3, 4, 5)]
    assert torch.allclose(factors, torch.tensor(wanted), rtol=1e-5)
    late = plan.adds(torch.tensor([[7]]))["pre", 1]  # one token, as with a cache
    assert torch.allclose(late[0, 0], delta[0, 7])


def test_decayed_generation_is_that_of_the_coefficients_by_hand() -> None:
    prompt = random_ids(MODEL, 1, 4)[0].tolist()
    steer = Steer(V, ("pre", 1), 3.0, where="last", schedule=decay(1))
    found = generate(MODEL, prompt, max_new_tokens=4, steer=steer, temperature=0)
    text = list(prompt)
    for _ in range(4):
        add = torch.zeros(1, len(text), 24)
        for position in range(3, len(text)):
            add[0, position] = 3.0 * 0.5 ** (position - 3) * V
        text.append(int(MODEL(torch.tensor([text]), adds={("pre", 1): add})[0, -1].argmax()))
    assert found == text


# --- gates ------------------------------------------------------------------------------------------------------------

SITE = ("pre", 2)
PROMPTS = [random_ids(MODEL, 1, n, seed=20 + n)[0].tolist() for n in (3, 7, 5, 4, 6, 1)]


def states(prompts: list[list[int]], token: str) -> Tensor:
    found = []
    for prompt in prompts:
        x = reference_run(THEIRS, torch.tensor([prompt]))[1][SITE][0]
        found.append(x[-1] if token == "last" else x[1:].mean(0) if len(x) > 1 else x[0])
    return torch.stack(found)


@pytest.mark.parametrize("token", ["last", "mean"])
def test_cosines_are_of_the_prompt_alone_whatever_the_batch(token: str) -> None:
    gate = Gate(V, SITE, 0.0, token)
    wanted = torch.cosine_similarity(states(PROMPTS, token), V[None], dim=-1)
    assert torch.allclose(gate.cosines(MODEL, PROMPTS), wanted, atol=1e-5)
    assert torch.allclose(gate.cosines(MODEL, PROMPTS[1:2]), wanted[1:2], atol=1e-5)
    assert wanted.min() < 0 < wanted.max()


def test_only_the_rows_that_pass_are_steered_and_stay_so_while_generating() -> None:
    gate = Gate(V, SITE, 0.0)
    passes = (gate.cosines(MODEL, PROMPTS) > 0).tolist()
    assert 0 < sum(passes) < len(passes)
    steer = Steer(20 * W, ("pre", 1))
    gated = generate(MODEL, PROMPTS, max_new_tokens=5, steer=gate.over(MODEL, PROMPTS, steer), temperature=0)
    plain = generate(MODEL, PROMPTS, max_new_tokens=5, temperature=0)
    steered = generate(MODEL, PROMPTS, max_new_tokens=5, steer=steer, temperature=0)
    assert all(a != b for a, b in zip(plain, steered, strict=True))
    assert gated == [s if ok else p for ok, s, p in zip(passes, steered, plain, strict=True)]


def test_two_gates_both_have_to_open() -> None:
    cosines = Gate(V, SITE, 0.0).cosines(MODEL, PROMPTS)
    low, high = cosines.sort().values[[1, 4]].tolist()
    upward, downward = Gate(V, SITE, low), Gate(-V, SITE, -high)
    steer = downward.over(MODEL, PROMPTS, upward.over(MODEL, PROMPTS, Steer(W, SITE)))
    assert steer.rows == [low < c < high for c in cosines.tolist()]
    assert 0 < sum(steer.rows) < 6


def test_a_schedule_that_means_nothing_before_the_first_token_hurts_no_row_that_has_ended() -> None:
    free = generate(MODEL, PROMPTS[:2], max_new_tokens=4, temperature=0)
    steer = Steer(1e-3 * V, SITE, 1.0, "generated", schedule=lambda n: 1 / n)
    found = generate(MODEL, PROMPTS[:2], max_new_tokens=4, temperature=0, steer=steer, stop=[free[0][3]])
    assert len(found[0]) == 4


def test_a_decision_is_for_its_prompts_in_their_order() -> None:
    low, high = (Gate(V, SITE, 0.0).cosines(MODEL, PROMPTS).sort().values[[2, 3]]).tolist()
    steer = Gate(V, SITE, (low + high) / 2).over(MODEL, PROMPTS, Steer(W, SITE))
    prefill(MODEL, PROMPTS, steer=steer)
    with pytest.raises(ValueError, match="the prompts that the gate decided on"):
        prefill(MODEL, PROMPTS[::-1], steer=steer)
    with pytest.raises(ValueError, match="the prompts that the gate decided on"):
        generate(MODEL, [*PROMPTS[:-1], [1, 2]], max_new_tokens=1, steer=steer)
    with pytest.raises(
        ValueError, match="got one whose rows were decided for others; gate the Steer that it was made from"
    ):
        Gate(V, SITE, (low + high) / 2).over(MODEL, PROMPTS[::-1], steer)
    with pytest.raises(ValueError, match="the prompts that the gate decided on"):
        calibrate(MODEL, PROMPTS[::-1], steer, kl=1e-3)
    assert calibrate(MODEL, PROMPTS, steer, kl=1e-3, batch_size=2).kl == pytest.approx(1e-3, rel=0.02)


def test_a_schedule_can_return_one_number() -> None:
    def added(coeff: float, schedule: Any = None) -> Tensor:
        steer = Steer(V, ("pre", 1), coeff, schedule=schedule)
        return resolve(MODEL, steer, [[0] * 4], 9).adds(torch.arange(9)[None])["pre", 1].expand(1, 9, -1)

    assert torch.equal(added(2.0, lambda n: 0.5), added(1.0))
    early = added(1.0, lambda n: (n < 3) * 1.0)
    assert early[0].any(-1).tolist() == [True] * 6 + [False] * 3


def test_the_fitted_threshold_tells_the_two_kinds_apart() -> None:
    cosines = torch.cosine_similarity(states(PROMPTS, "last"), V[None], dim=-1)
    order = cosines.argsort(descending=True).tolist()
    high, low = ([PROMPTS[i] for i in some] for some in (order[:2], order[2:]))
    gate = Gate.fit(MODEL, high, low, V, SITE)
    assert gate.accuracy == 1.0
    assert cosines[order[2]] < gate.threshold < cosines[order[1]]
    with pytest.warns(GateWarning, match="decides rightly for"):
        mixed = Gate.fit(MODEL, [high[0], low[0], low[-1]], [high[1], low[1], low[2]], V, SITE)
    right = [cosines[i] > mixed.threshold for i in (order[0], order[2], order[5])]
    wrong = [cosines[i] > mixed.threshold for i in (order[1], order[3], order[4])]
    assert mixed.accuracy == pytest.approx((sum(right) / 3 + 1 - sum(wrong) / 3) / 2)


def test_a_gate_that_cannot_tell_is_refused() -> None:
    with pytest.raises(ValueError, match="no threshold"):
        Gate.fit(MODEL, PROMPTS[:1], PROMPTS[:1], V, SITE)  # the same prompt on both sides
    cosines = Gate(V, SITE, 0.0).cosines(MODEL, PROMPTS)
    low, high = PROMPTS[int(cosines.argmin())], PROMPTS[int(cosines.argmax())]
    with pytest.raises(ValueError, match="no threshold"):
        Gate.fit(MODEL, [low], [high], V, SITE)  # the wrong way round
    assert Gate.fit(MODEL, [low], [high], -V, SITE).accuracy == 1.0


@pytest.mark.parametrize(("threshold", "word"), [(-1.0, "every one"), (1.0, "none")])
def test_a_gate_that_always_or_never_opens_says_so(threshold: float, word: str) -> None:
    with pytest.warns(GateWarning, match=f"{word} of 6 prompts"):
        steer = Gate(V, SITE, threshold).over(MODEL, PROMPTS, Steer(W, SITE))
    assert steer.rows == [threshold < 0] * 6


# --- wrong calls ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: project_out(torch.zeros(24)), "length above 0"),
        (lambda: reflect(torch.full((24,), torch.nan)), "finite length"),
        (lambda: clamp(torch.ones(2, 24)), r"\(D,\), got \(2, 24\)"),
        (lambda: keep_norm([1.0, 2.0]), "got list"),  # type: ignore[arg-type]
        (lambda: rotate(V, -3 * V), "parallel"),
        (lambda: rotate(V, torch.zeros(24)), "length above 0"),
        (lambda: rotate(V, torch.ones(7)), "one width, got 24 and 7"),
        (lambda: rotate(V, W.numpy()), "got ndarray"),
        (lambda: Steer(V, SITE, schedule=5), "schedule that is a function"),  # type: ignore[arg-type]
        (lambda: prefill(MODEL, PROMPTS, None, Steer(V, SITE, schedule=lambda n: [1.0])), r"got \[1.0\]"),  # type: ignore
        (lambda: prefill(MODEL, PROMPTS, None, Steer(project_out, SITE)), "cannot be called so"),  # type: ignore[arg-type]
        (lambda: prefill(MODEL, PROMPTS, None, Steer(lambda x, c: None, SITE)), "got NoneType"),  # type: ignore
        (lambda: prefill(MODEL, PROMPTS, steer=Steer(V, SITE, schedule=lambda n: 1.0 if n < 3 else 0.0)), "counts"),
        (lambda: prefill(MODEL, PROMPTS, steer=Steer(V, SITE, schedule=decay)), "decay\\(half_life=5\\)"),  # type: ignore
        (lambda: Gate(V, ("head", 1), 0.1), "site of the stream"),
        (lambda: Gate(V, SITE, 0.1).over(MODEL, PROMPTS, V), "got Tensor"),  # type: ignore[arg-type]
        (lambda: Gate(V, SITE, 0.1).over(MODEL, PROMPTS, Steer(V, SITE, rows=[True])), "6 prompts, got one for 1"),
        (lambda: Gate(V, SITE, 0.1).over(MODEL, PROMPTS[0], Steer(V, SITE)), "list of lists"),  # type: ignore[arg-type]
        (lambda: share(torch.ones(5))(X), "width 24, got 5"),
        (lambda: decay(0.0), "above 0"),
        (lambda: decay("a"), "above 0, .*got 'a'"),  # type: ignore[arg-type]
        (lambda: Gate(V, SITE, "a"), "got 'a': it would"),  # type: ignore[arg-type]
        (lambda: Steer(project_out(V), SITE, where="front"), "got a function"),
        (lambda: Steer(V, SITE, rows=[1, 0]), "True and False"),  # type: ignore[list-item]
        (lambda: prefill(MODEL, PROMPTS, None, [Steer(V, SITE, rows=[True])]), "each of 6 rows, got 1"),
        (lambda: prefill(MODEL, PROMPTS, None, [Steer(project_out(V), ("pre", 4))]), "expected a site"),
        (lambda: prefill(MODEL, PROMPTS, None, [Steer(project_out(torch.ones(7)), SITE)]), "width 24, got 7"),
        (lambda: prefill(MODEL, PROMPTS, None, [Steer(lambda x, c: x / 0, SITE)]), "finite values to add"),
        (lambda: Gate(V, SITE, 1.2), "open always, or never"),
        (lambda: Gate(V, SITE, 0.1, "first"), "'last' or 'mean'"),
        (lambda: Gate.fit(MODEL, [], PROMPTS, V, SITE), "0 wanted and 6"),
        (lambda: Gate(V, ("pre", 9), 0.1).cosines(MODEL, PROMPTS), "expected a site"),
        (lambda: Gate(torch.ones(7), SITE, 0.1).cosines(MODEL, PROMPTS), "width"),
    ],
)
def test_wrong_calls_say_what_was_expected(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_every_maker_is_tested_here() -> None:
    makers = {name for name, f in vars(interventions).items() if callable(f) and f.__module__ == interventions.__name__}
    makers = {name for name in makers if name[0] != "_"}
    assert makers - {"Function", "Gate", "decay"} == set(ALL) - {"add"}
