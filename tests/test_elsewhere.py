"""Everything runs on another device as it does on the CPU: a pretended one (elsewhere.py), so that it is tested without a GPU."""

import contextlib
import tempfile
from collections.abc import Callable
from typing import Any

import pytest
import torch
from elsewhere import Elsewhere, There, pretend_graphs
from reference import fused, pair, random_tensor, sizes
from torch import Tensor
from torch.utils._pytree import tree_leaves

import ministeer
from ministeer import Cache, Receipt, Steer, calibrate, checkpoint, extract, generate, heads, metrics, prefill, sweep
from ministeer import interventions as by
from ministeer.lab.answers import answers, disturbance, passes
from ministeer.model import Transformer
from ministeer.prompts import pad
from ministeer.provenance import fingerprint

TOKENIZER = ministeer.load("nano")[1]
TEXTS = ["Q: big\nA:", "The nurse who lived near the old bridge said that", "I feel very"]
IDS = [[TOKENIZER.eot, *TOKENIZER.encode(text)] for text in TEXTS]
PAIRS = [("It is love", "It is hate"), ("We feel the love", "We feel the hate"), ("She says love", "She says hate")]
SITE, V = ("pre", 3), 5 * random_tensor(256)
ITEMS = [{"prompt": "<|endoftext|>" + text, "words": [" he", " she"]} for text in TEXTS]


class InOrder(contextlib.ExitStack):
    """A pool that works in the thread that calls it: what pretends to be a GPU does so in that one."""

    map = staticmethod(map)


@pytest.fixture(scope="module", params=["nano", "llama"])
def name(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What to load: nano, or a Llama of its sizes and with its tokenizer, whose weights are random."""
    if request.param == "nano":
        return "nano"
    c = checkpoint.read_config("nano")
    model = pair(sizes("llama", c.vocab_size, c.context, c.width, c.n_layer, 4), seed=1).ours
    model.ln_f.weight.mul_(5)  # predictions that are sure of themselves, so that they can change a lot
    folder = tmp_path_factory.mktemp("llama")
    ministeer.save_model(model, folder, tokenizer=TOKENIZER)
    return str(folder)


def on_each(
    run: Callable[[Transformer], Any], name: str, monkeypatch: pytest.MonkeyPatch, dtype: str = "float32"
) -> tuple[Any, Any]:
    """What a job returns on the CPU and elsewhere."""
    monkeypatch.setattr(checkpoint, "ThreadPoolExecutor", lambda workers: InOrder())
    here = run(ministeer.load_model(name, dtype=dtype))
    with Elsewhere():
        model = ministeer.load_model(name, device="cuda", dtype=dtype)
        there = run(model)
        assert all(isinstance(p, There) for p in model.parameters())
    return here, there


def same(here: Any, there: Any) -> None:
    pairs = list(zip(tree_leaves(here), tree_leaves(there), strict=True))
    assert pairs
    for a, b in pairs:
        if isinstance(a, Tensor | float):
            a, b = (torch.as_tensor(x).as_subclass(Tensor).float() for x in (a, b))
            torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4)
        else:
            assert a == b


def padded(model: Transformer) -> tuple[Tensor, Tensor]:
    ids, positions = pad(IDS)
    return ids.to(model.wte.weight.device), positions


def forward(model: Transformer) -> Any:
    ids, _ = padded(model)
    tape: dict[Any, Tensor] = {}
    some = [("head", 2), ("mid", 3)]
    adds = {SITE: V, ("mid", 4): V[None, None].expand(3, 1, -1), ("pre", 5): lambda x: -0.5 * x}
    return model(ids, adds, tape), tape, model(ids, tape=some), some


def cached(model: Transformer) -> Any:
    ids, _ = padded(model)
    cache = Cache(model, 3, 20)
    first = model(ids[:, :4], cache=cache)
    cache.keep(torch.tensor([1, 4, 3]))
    return first, model(ids[:, 2:4], cache=cache), model(ids[:, :1], cache=cache)


def gradient(model: Transformer) -> Any:
    ids, _ = padded(model)
    v = V.clone().to(ids.device).requires_grad_(True)
    model(ids, {SITE: v}).log_softmax(-1)[:, :, 5].sum().backward()
    return v.grad


def generation(model: Transformer) -> Any:
    touched = Receipt()
    steers = [Steer(V, SITE, [1.0, 0.0, -1.0]), Steer(by.project_out(V), ("mid", 2), 1.0, where="last")]
    seeds = [torch.Generator().manual_seed(i) for i in range(3)]
    return (
        generate(model, IDS, max_new_tokens=6, temperature=0, steer=steers, receipt=touched, stop=[IDS[0][1]]),
        str(touched),
        generate(model, IDS, max_new_tokens=6, generator=seeds, top_k=20, top_p=0.9, frequency_penalty=0.5, repetition_penalty=1.2),
        prefill(model, IDS, steer=Steer(V, SITE, 1.0, where="last")),
        generate(model, torch.tensor(IDS[:1], device=model.wte.weight.device), max_new_tokens=3, temperature=0),
    )  # fmt: skip


def gated(model: Transformer) -> Any:
    first = int(by.Gate(V, SITE, 0.0).cosines(model, IDS).argmax())
    gate = by.Gate.fit(model, [IDS[first]], [ids for ids in IDS if ids != IDS[first]], V, SITE)
    return generate(model, IDS, max_new_tokens=4, temperature=0, steer=gate.over(model, IDS, Steer(V, SITE, 2.0)))


def vectors(model: Transformer) -> Any:
    made = [
        extract.activation_addition(model, TOKENIZER, " love", " hate", SITE),
        *(method(model, TOKENIZER, PAIRS, [SITE]) for method in (extract.contrastive, extract.pca, extract.probe)),
        extract.private_mean(model, TOKENIZER, PAIRS, [SITE], clip=1.0, epsilon=0.5, delta=1e-5, seed=0),
        extract.function_vector(model, TOKENIZER, TEXTS, [SITE], others=[[a for a, _ in PAIRS]]),
    ]  # fmt: skip
    assert all(v[SITE].device.type == "cpu" for v in made)
    steered = [prefill(model, IDS, steer=Steer(v, SITE, 1.0, where="front" if v is made[0] else "all")) for v in made]
    return [v[SITE] for v in made], steered


def of_heads(model: Transformer) -> Any:
    means = heads.mean_writes(model, TOKENIZER, TEXTS)
    effects = heads.indirect_effects(model, TOKENIZER, TEXTS[:2], [" small", " he"], means)
    top = heads.top_heads(effects, k=3)
    return means, effects, heads.function_vector(model, TOKENIZER, TEXTS, top, SITE)[SITE]


def sweeps(model: Transformer) -> Any:
    beginning = IDS[1][:6]
    alike = [[*beginning, 5], [*beginning, 7, 8], [*beginning, 9, 3, 4], IDS[0]]
    methods = {"add": V, "relative": by.relative(V), "keep norm": by.keep_norm(V), "rotate": by.rotate(V, random_tensor(256, seed=1)),
               "substitute": by.substitute(V), "clamp": by.clamp(V), "reflect": by.reflect(V), "project out": by.project_out(V)}  # fmt: skip
    asked = [[[1], [2, 3]], [[4]], [[5, 6], [8]], [[9]]]
    return [
        [row["score"] for row in sweep(model, alike, score, methods, [1, ("mid", 5)], [0.5, 1.0], where=where)]
        for score in (lambda logits, i: logits[:, :2], asked)
        for where in ("all", "last", [0, 1])
    ]


def measured(model: Transformer) -> Any:
    vector = extract.contrastive(model, TOKENIZER, PAIRS, [SITE], token="last")
    some = {"vectors": {"v": vector}, "coefficients": [-1.0, 0.0, 2.0]}
    randoms = {"texts": TEXTS, "count": 2}
    found = calibrate(model, IDS, Steer(vector, SITE, 1.0), kl=0.1)
    ids, positions = padded(model)
    logits = model(ids)
    return (
        answers(model, TOKENIZER, items=ITEMS, layers=[3], **some),
        answers(model, TOKENIZER, items=ITEMS, layers=[3], randoms=randoms, how="project_out", **some),
        passes(model, TOKENIZER, items=ITEMS, vector=vector, layer=3, threshold=0.0),
        disturbance(model, TOKENIZER, texts=TEXTS, layer=3, **some),
        (found.coeff, found.kl),
        metrics.log_odds(logits[:, -1], [1, 2], [3]),
        metrics.logit_difference(logits[:, -1], [1, 2, 3], [4, 5, 6]),
        metrics.perplexity(logits, ids, positions >= 0),
    )


def saved(model: Transformer) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        ministeer.save_model(model, folder, dtype="bfloat16")
        return fingerprint(model), fingerprint(ministeer.load_model(folder, device=model.wte.weight.device))


JOBS = (forward, cached, gradient, generation, gated, vectors, of_heads, sweeps, measured, saved)


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.__name__)
def test_the_numbers_are_those_of_the_cpu(
    job: Callable[[Transformer], Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    same(*on_each(job, name, monkeypatch))


@pytest.mark.parametrize("job", [of_heads, sweeps], ids=lambda job: job.__name__)
def test_in_bfloat16_too(job: Callable[[Transformer], Any], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one attention for both: many short texts have another on a CPU, which rounds elsewhere."""
    monkeypatch.setattr("ministeer.model.short", fused)
    same(*on_each(job, name, monkeypatch, "bfloat16"))


STEERS = {
    "none": [],
    "one": [Steer(V, SITE, 1.0)],
    "of each row, fading": [Steer(V, SITE, [1.0, 0.0, -1.0], where="last", schedule=by.decay(2))],
    "several": [Steer(V, SITE, 0.5), Steer(-V, SITE, [0.1, 0.2, 0.3]), Steer(V, ("mid", 5), 1.0), Steer(V, ("pre", 8), -0.5)],
    "of the prompt only": [Steer(V, SITE, 1.0, where="prompt")],
    "gated": [Steer(V, SITE, 1.0, rows=[True, False, True])],
}  # fmt: skip


@pytest.mark.parametrize("steer", STEERS.values(), ids=STEERS)
def test_a_graph_decodes_what_is_decoded_without(
    steer: list[Steer], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is recorded once; each token after the first is one replay, with its own ids, positions and adds."""
    graphs = pretend_graphs(monkeypatch)

    stop = generate(ministeer.load_model(name), IDS, max_new_tokens=3, temperature=0, steer=steer)[1][-1:]  # row 1 ends

    def run(model: Transformer) -> Any:
        settings = {"max_new_tokens": 9, "temperature": 0, "steer": steer, "stop": stop}
        graph = model.wte.weight.device.type == "cuda"
        return [generate(model, prompts, **settings, graph=graph) for prompts in (IDS, IDS[::-1])]

    same(*on_each(run, name, monkeypatch))
    assert [graph.replays for graph in graphs] == [8, 8]


def test_a_graph_is_for_vectors_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="expected a model on a GPU for graph=True, got one on cpu; leave graph out"):
        generate(ministeer.load_model("nano"), IDS, max_new_tokens=2, graph=True)
    monkeypatch.setattr(checkpoint, "ThreadPoolExecutor", lambda workers: InOrder())
    with Elsewhere():
        model = ministeer.load_model("nano", device="cuda")
        for asked, got in (
            ({"steer": Steer(by.project_out(V), SITE, 1.0)}, "a function"),
            ({"steer": Steer(V, SITE, 1.0), "receipt": Receipt()}, "a receipt"),
        ):
            with pytest.raises(ValueError, match=f"expected vectors alone for graph=True, got {got}"):
                generate(model, IDS, max_new_tokens=2, graph=True, **asked)
