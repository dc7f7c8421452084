"""The other ways to a vector: PCA, probe, private mean, function vectors; and the same on another implementation."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import TOLERANCE, both, reference_run, relative, residual_sites
from torch import Tensor

import ministeer
from ministeer import extract
from ministeer.directions import logistic, mean_difference, principal, principal_centred
from ministeer.health import health
from ministeer.lab import data
from ministeer.tokenizer import Tokenizer
from ministeer.vectors import SteeringVector

BOTH = both(3, 257, 48, 48, 3, 4)
MODEL, THEIRS = BOTH["gpt2"]
BYTES = Tokenizer({bytes([byte]): byte for byte in range(256)}, eot=256)
SITES = residual_sites(3)
PAIRS = [(f"{start} (A", f"{start} (B") for start in ("it was", "no", "so they said", "it", "well then", "and")]
PROMPTS = ["hot: cold, up:", "<|endoftext|>in:", "big: small, wet: dry, old:"]
OTHERS = [["a: b, c:", "x:"], ["one: two, three:", "four: five, six: seven, eight:", "nine:"]]
PRIVATE = {"clip": 0.5, "epsilon": 0.5, "delta": 1e-5, "seed": 1}


def last_states(text: str) -> dict[Any, Tensor]:
    """Transformers' stream at the last token of one text by itself, `(D,)` a site."""
    ids = torch.tensor([BYTES.prompt(text)])
    return {site: x[0, -1] for site, x in reference_run(THEIRS, ids)[1].items()}


def pair_items(site: Any) -> Tensor:
    return torch.stack([torch.stack([last_states(text)[site] for text in texts]) for texts in PAIRS])  # (N, 2, D)


METHODS: dict[str, tuple[Callable[..., SteeringVector], Callable[[Tensor], Tensor]]] = {
    "contrastive": (extract.contrastive, mean_difference),
    "pca": (extract.pca, principal),
    "probe": (extract.probe, lambda items: logistic(items, 1.0)),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_of_pairs_is_its_direction_in_transformers_streams(name: str) -> None:
    method, find = METHODS[name]
    vector = method(MODEL, BYTES, PAIRS, SITES, batch_size=4)
    for site in SITES:
        wanted = find(pair_items(site))
        assert float((vector[site] - wanted).norm() / wanted.norm()) < 1e-3, site
    assert vector.provenance.method.startswith(name)


@pytest.mark.parametrize("name", METHODS)
def test_health_travels_with_the_vector(name: str, tmp_path: Path) -> None:
    method, find = METHODS[name]
    vector = method(MODEL, BYTES, PAIRS, SITES)
    for site in (("pre", 2), ("mid", 0)):
        items = pair_items(site)
        wanted = health(find(items), items, find)
        for field in ("relative_norm", "split_half", "separability", "agreement"):
            assert getattr(vector.health[site], field) == pytest.approx(getattr(wanted, field), rel=0.02), field
    vector.save(tmp_path / "v.safetensors")
    assert SteeringVector.load(tmp_path / "v.safetensors").health == vector.health
    assert (2 * vector).health == {}


def test_a_weak_vector_says_so_in_words() -> None:
    """Pairs that contrast nothing in common: each one's differing letters are others."""
    pairs = [
        ("it was q", "it was z"),
        ("no, m", "no, k"),
        ("so j", "so ("),
        ("x;", "x4"),
        ("hm v", "hm 7"),
        ("a%", "aB"),
    ]
    vector = extract.contrastive(MODEL, BYTES, pairs, [("pre", 0), ("pre", 2)])
    assert "weak: two halves of the data give different directions" in str(vector.health["pre", 0])
    assert repr(vector).endswith("weak at 2 of them, see .health)")
    assert "weak" not in repr(extract.contrastive(MODEL, BYTES, PAIRS, [("pre", 0)]))


def test_centred_pca_warns_and_is_another_direction() -> None:
    with pytest.warns(UserWarning, match="centred PCA subtracts the mean difference"):
        vector = extract.pca_centred(MODEL, BYTES, PAIRS, ("pre", 2))
    wanted = principal_centred(pair_items(("pre", 2)))
    assert float((vector["pre", 2] - wanted).norm()) < 1e-3
    assert abs(float(vector["pre", 2] @ extract.pca(MODEL, BYTES, PAIRS, ("pre", 2))["pre", 2])) < 0.5


def test_every_layer_is_read_by_default_and_a_site_without_difference_is_zero() -> None:
    vector = extract.pca(MODEL, BYTES, [(text + "!", text + "?!") for text, _ in PAIRS], token="last")
    assert vector.sites == [("pre", i) for i in range(4)]
    same = [("x of a!", "y of a!"), ("x to b!", "y to b!")]  # the last token and its position are the same
    vector = extract.pca(MODEL, BYTES, same, token="last")
    assert not vector["pre", 0].any()
    assert vector["pre", 1].any()
    assert vector.health["pre", 0].weak == ["weak: the vector is zero here, as the texts do not differ"]
    with pytest.raises(ValueError, match="a vector of zeros"):
        extract.pca(MODEL, BYTES, same, ("pre", 0), token="last")


# --- private mean -----------------------------------------------------------------------------------------------------


def test_differences_are_clipped_one_by_one_and_noise_of_the_stated_size_is_added() -> None:
    site = ("pre", 2)
    differences = pair_items(site)[:, 0] - pair_items(site)[:, 1]
    norms = differences.norm(dim=-1)
    clip = float(norms.sort().values[1])
    assert norms.min() < clip < norms.max()
    wanted = (differences * (clip / norms).clamp(max=1)[:, None]).mean(0)
    draws = torch.stack(
        [
            extract.private_mean(MODEL, BYTES, PAIRS, site, clip=clip, epsilon=0.5, delta=1e-5, seed=seed)[site]
            for seed in range(40)
        ]
    )
    sigma = 2 * clip * math.sqrt(2 * math.log(1.25 / 1e-5)) / (len(PAIRS) * 0.5)
    noise = draws - wanted
    assert float(noise.std()) == pytest.approx(sigma, rel=0.06)  # 1,920 numbers: 1.6 % is one standard error
    assert float(noise.mean(0).norm()) == pytest.approx(sigma * math.sqrt(48 / 40), rel=0.3)
    many = extract.private_mean(MODEL, BYTES, PAIRS * 200, site, clip=clip, epsilon=0.99, delta=0.9, seed=0)[site]
    assert relative(many, wanted) < 0.02  # the noise falls with the number of pairs, and what is left is clipped
    assert relative(many, differences.mean(0)) > 0.04


def delta_of(sigma: float, sensitivity: float, epsilon: float) -> float:
    """The exact delta of Gaussian noise (Balle and Wang 2018, theorem 8)."""

    def phi(x: float) -> float:
        return math.erfc(-x / math.sqrt(2)) / 2

    a, b = sensitivity / (2 * sigma), epsilon * sigma / sensitivity
    return phi(a - b) - math.exp(epsilon) * phi(-a - b)


@pytest.mark.parametrize("epsilon", [0.05, 0.5, 0.99])
@pytest.mark.parametrize("delta", [1e-6, 1e-3])
@pytest.mark.parametrize("sites", [1, 4])
def test_the_noise_keeps_the_privacy_it_states(epsilon: float, delta: float, sites: int) -> None:
    """Against the exact delta, for the largest change that exchanging one pair can make to all sites together."""
    n, clip = 20, 0.7
    sigma = extract.private_noise(n, clip=clip, epsilon=epsilon, delta=delta, sites=sites)
    largest = math.sqrt(sites) * 2 * clip / n
    assert delta_of(sigma, largest, epsilon) <= delta
    assert delta_of(sigma / 4, largest, epsilon) > delta  # and not by adding noise without end
    assert sigma == pytest.approx(math.sqrt(sites) * extract.private_noise(n, clip=clip, epsilon=epsilon, delta=delta))


def test_the_noise_of_all_sites_is_drawn_for_all_sites() -> None:
    few = extract.private_mean(MODEL, BYTES, PAIRS, ("pre", 1), **PRIVATE)
    more = extract.private_mean(MODEL, BYTES, PAIRS, SITES, **PRIVATE)
    for vector, count in ((few, 1), (more, len(SITES))):
        sigma = extract.private_noise(len(PAIRS), clip=0.5, epsilon=0.5, delta=1e-5, sites=count)
        assert f"sigma {sigma:.6g}" in vector.provenance.method
    noise = torch.stack([more[site] for site in SITES])
    assert len({float(x) for x in noise[:, 0]}) == len(SITES)
    assert float(noise.std()) == pytest.approx(
        extract.private_noise(len(PAIRS), clip=0.5, epsilon=0.5, delta=1e-5, sites=len(SITES)), rel=0.15
    )


@pytest.mark.parametrize(
    "other", [{"epsilon": 0.4}, {"delta": 1e-4}, {"clip": 0.6}, {"seed": 1 + 2**32}, {"pairs": PAIRS[::-1]}]
)
def test_two_private_vectors_share_no_noise(other: dict[str, Any]) -> None:
    """Otherwise a difference of two gives the secret mean away: noise of one seed that is only scaled by epsilon, or that stays where
    one pair is exchanged."""
    site: Any = ("pre", 1)
    items = pair_items(site)
    differences, noise = items[:, 0] - items[:, 1], []
    for settings in (PRIVATE, PRIVATE | other):
        settings = {"pairs": PAIRS, **settings}
        cut = (settings["clip"] / differences.norm(dim=-1, keepdim=True)).clamp(max=1.0)
        found = extract.private_mean(MODEL, BYTES, sites=site, **settings)[site]
        noise.append(found - (differences * cut).mean(0))
    assert float(torch.cosine_similarity(*noise, dim=0).abs()) < 0.5  # of 48 numbers: 0.14 is one standard error


def test_a_private_vector_tells_neither_texts_nor_seed() -> None:
    state = torch.get_rng_state()
    first, again = (extract.private_mean(MODEL, BYTES, PAIRS, ("pre", 1), **PRIVATE) for _ in range(2))
    other = extract.private_mean(MODEL, BYTES, PAIRS, ("pre", 1), **{**PRIVATE, "seed": 2})
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first["pre", 1], again["pre", 1])
    assert not torch.equal(first["pre", 1], other["pre", 1])
    assert (first.provenance.data, first.provenance.seed, first.health) == ("private", None, {})
    assert "epsilon 0.5, delta 1e-05, clip 0.5" in first.provenance.method


# --- function vectors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_a_function_vector_is_the_mean_stream_at_the_last_token(batch_size: int) -> None:
    vector = extract.function_vector(MODEL, BYTES, PROMPTS, SITES, batch_size=batch_size)
    for site in SITES:
        states = torch.stack([last_states(text)[site] for text in PROMPTS])
        assert relative(vector[site], states.mean(0)) < TOLERANCE
        norm = float(states.norm(dim=-1).mean())
        assert vector.health[site].relative_norm == pytest.approx(float(states.mean(0).norm()) / norm, rel=1e-3)
    assert vector.provenance.token == "last"


def test_the_health_of_noise_is_weak_however_few_the_others() -> None:
    """Two lists of one task: what is left is noise, and the few others' own noise must not pass for a shared direction."""
    pairs = data.word_tasks()["plural"]["train"]
    model, tok = ministeer.load("nano")
    for count in (4, 20):
        same = [
            [row["prompt"] for row in data.few_shot(pairs, pairs, n, structure="colon", shots=5, seed=seed)]
            for n, seed in ((20, 1), (count, 2))
        ]
        report = extract.function_vector(model, tok, same[0], ("pre", 5), others=[same[1]]).health["pre", 5]
        assert report.weak, (count, str(report))
    lists = [row["prompt"] for row in data.few_shot(pairs, pairs, 20, structure="colon", shots=5, seed=1)]
    antonyms = data.word_tasks()["antonym"]["train"]
    other = [row["prompt"] for row in data.few_shot(antonyms, antonyms, 20, structure="colon", shots=5, seed=1)]
    assert not extract.function_vector(model, tok, lists, ("pre", 5), others=[other]).health["pre", 5].weak
    plain = extract.function_vector(model, tok, lists, ("pre", 5)).health["pre", 5]
    assert (plain.split_half, plain.agreement) == (None, None)


def test_other_tasks_count_alike_however_many_prompts_they_have() -> None:
    vector = extract.function_vector(MODEL, BYTES, PROMPTS, [("pre", 2)], others=OTHERS)
    mine, *theirs = ([last_states(text)["pre", 2] for text in some] for some in (PROMPTS, *OTHERS))
    wanted = torch.stack(mine).mean(0) - (torch.stack(theirs[0]).mean(0) + torch.stack(theirs[1]).mean(0)) / 2
    assert relative(vector["pre", 2], wanted) < TOLERANCE
    assert vector.provenance.method == "function_vector minus the mean of 2 other tasks"
    plain = extract.function_vector(MODEL, BYTES, PROMPTS, [("pre", 2)])
    assert plain.provenance.data != vector.provenance.data


# --- wrong calls ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: extract.pca(MODEL, BYTES, []), "at least one pair"),
        (lambda: extract.probe(MODEL, BYTES, [("a", None)]), r"got \('a', None\) as number 0"),
        (lambda: extract.probe(MODEL, BYTES, [("a", "b"), ("c",)]), "as number 1"),
        (lambda: extract.pca(MODEL, BYTES, ["ab", "cd"]), "got 'ab' as number 0"),
        (lambda: extract.pca(MODEL, BYTES, [("a", "a")]), "same text twice"),
        (lambda: extract.probe(MODEL, BYTES, [("a", "ab")]), "continues the other"),
        (lambda: extract.probe(MODEL, BYTES, PAIRS, l2=0.0), "l2 above 0"),
        (lambda: extract.pca(MODEL, BYTES, PAIRS, ("pre", 4)), r"\('pre', 4\)"),
        (lambda: extract.private_mean(MODEL, BYTES, PAIRS, [], **PRIVATE), "a list of them"),
        (lambda: extract.private_mean(MODEL, BYTES, [], ("pre", 1), **PRIVATE), "at least one pair"),
        (lambda: extract.private_noise(9, clip=1.0, epsilon=1.0, delta=0.1), "epsilon and delta between 0 and 1"),
        (lambda: extract.private_noise(9, clip=1.0, epsilon=0.5, delta=0.0), "epsilon and delta between 0 and 1"),
        (lambda: extract.private_noise(9, clip=math.inf, epsilon=0.5, delta=0.1), "finite clip"),
        (lambda: extract.function_vector(MODEL, BYTES, []), r"lists of one prompt or more, got \[0\]"),
        (lambda: extract.function_vector(MODEL, BYTES, "hot: cold, up:"), "got .'hot: cold, up:'"),
        (lambda: extract.function_vector(MODEL, BYTES, PROMPTS, others=PROMPTS), "lists of one prompt"),
        (lambda: extract.function_vector(MODEL, BYTES, PROMPTS, others=[[]]), r"got \[3, 0\]"),
        (lambda: extract.function_vector(MODEL, BYTES, ["a", ""]), r"an empty text in row \[1\]"),
        (lambda: extract.function_vector(MODEL, BYTES, {"a": 1, "b": 2}), "lists of one prompt or more, got .{'a'"),
        (
            lambda: extract.pca(MODEL, BYTES, [{"positive": "a", "negative": "b"}]),
            r"got {'positive': .*row\['positive'\]",
        ),
        (lambda: extract.pca(MODEL, BYTES, [{"a", "b"}]), "the positive one first, got {.* as number 0"),
        (lambda: extract.pca(MODEL, BYTES, [("a", "b"), 3]), "got 3 as number 1"),
        (
            lambda: extract.pca(MODEL, BYTES, {"positive": ["a"], "negative": ["b"]}),
            "a list of pairs of texts, got dict",
        ),
        (lambda: extract.pca(MODEL, BYTES, zip(["a"], ["b"])), "a list of pairs of texts, got zip"),
        (lambda: extract.function_vector(MODEL, BYTES, ["a:"], ("pre", 0), others=[["b:"]]), "a vector of zeros"),
        (lambda: extract.contrastive(MODEL, BYTES, PAIRS, batch_size=-1), "batch size"),
        (lambda: extract.function_vector(MODEL, BYTES, PROMPTS, batch_size=0), "batch size"),
        (lambda: extract.pca(MODEL, BYTES, PAIRS, ("pre", "5")), "site of the stream"),
        (lambda: extract.private_noise(9, clip=1.0, epsilon=0.5, delta=0.1, sites=0), "one site"),
        (lambda: extract.private_mean(MODEL, BYTES, PAIRS, ("pre", 1), **{**PRIVATE, "seed": None}), "a seed"),
        (lambda: extract.random_like(torch.ones(3), seed=0), "got Tensor"),
        (lambda: extract.function_vector(MODEL, BYTES, [{"prompt": "a"}]), "of data.few_shot take"),
        (lambda: extract.contrastive(MODEL, BYTES, PAIRS)["post", 1], r"output of block i is \(.pre., i \+ 1\)"),
        (lambda: extract.random_like(extract.contrastive(MODEL, BYTES, PAIRS), seed=0.5), "a seed"),
        (lambda: extract.contrastive(MODEL, BYTES, PAIRS) * torch.ones(48), "finite number to scale"),
        (lambda: extract.contrastive(MODEL, BYTES, PAIRS) / float("nan"), "finite number to scale"),
        (lambda: extract.contrastive(MODEL, BYTES, PAIRS) + 1, "got one and int"),
        (lambda: 1 + extract.contrastive(MODEL, BYTES, PAIRS), "got one and int"),
    ],
)
def test_wrong_calls_say_what_was_expected(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# --- the package steering-vectors, on nano's weights ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["contrastive", "pca"])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_the_package_steering_vectors_finds_the_same(name: str, batch_size: int) -> None:
    theirs = pytest.importorskip("steering_vectors", reason="the package steering-vectors is not installed")
    transformers = pytest.importorskip("transformers")
    folder = Path(__file__).parents[1] / "weights" / "nano"
    hub_model = transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32)
    hub_tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    hub_tokenizer.pad_token = "<|endoftext|>"
    pairs = [
        tuple(f"<|endoftext|>{r['prompt']}{r[sign]}" for sign in ("positive", "negative"))
        for r in data.read("values.tsv", value="honesty")
    ][:12]
    model, tokenizer = ministeer.load("nano")
    assert len({len(tokenizer.encode(positive)) for positive, _ in pairs}) > 1  # of unequal lengths, so padded there
    aggregator = {"contrastive": theirs.mean_aggregator, "pca": theirs.pca_aggregator}[name]()
    wanted = theirs.train_steering_vector(
        hub_model, hub_tokenizer, pairs, aggregator=aggregator, batch_size=batch_size, read_token_index=-1
    )
    vector = METHODS[name][0](model, tokenizer, pairs)
    for layer, direction in wanted.layer_activations.items():
        assert relative(vector["pre", layer + 1], direction.detach()) < 1e-3, layer
        assert relative(vector["pre", layer], direction.detach()) > 0.05, layer  # and is not mistaken for its neighbour


# --- reading and finding are two steps ---

STEPS: dict[str, dict[str, Any]] = {
    "contrastive": {}, "mean_difference": {}, "pca": {}, "pca_centred": {}, "probe": {"l2": 0.5}, "private_mean": PRIVATE,
}  # fmt: skip


@pytest.mark.parametrize("token", ["answer", "last"])
@pytest.mark.parametrize("name", STEPS)
@pytest.mark.filterwarnings("ignore:centred PCA")
def test_read_then_found_is_the_short_form_to_the_bit(name: str, token: str) -> None:
    method, settings = getattr(extract, name), STEPS[name]
    sites = SITES[-1:] if name == "probe" else SITES  # whose fits take seconds
    short = method(MODEL, BYTES, PAIRS, sites, token=token, **settings)
    for found in (
        method(extract.read(MODEL, BYTES, PAIRS, sites, token=token), **settings),
        method(extract.read(MODEL, BYTES, PAIRS, [*SITES[::-1]], token=token).only(sites), **settings),
    ):
        assert found.sites == short.sites
        assert all(torch.equal(found[site], short[site]) for site in sites)
        assert (found.provenance, found.health) == (short.provenance, short.health)


@pytest.mark.filterwarnings("ignore:centred PCA")
def test_the_model_is_read_once_for_every_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    stream = type(MODEL).stream
    monkeypatch.setattr(type(MODEL), "stream", lambda *args, **kw: calls.append(1) or stream(*args, **kw))
    read = extract.read(MODEL, BYTES, PAIRS)
    once = len(calls)
    for name, settings in STEPS.items():
        getattr(extract, name)(read.only(SITES[-1]), **settings)
    assert len(calls) == once > 0
    extract.pca(MODEL, BYTES, PAIRS)
    assert len(calls) == 2 * once


def test_what_was_read_says_what_it_is_and_nothing_of_the_texts() -> None:
    read = extract.read(MODEL, BYTES, PAIRS, SITES[:2])
    assert repr(read) == f"Read(6 pairs at the answer token, sites {SITES[:2]})"
    assert read.streams[SITES[0]].shape == (6, 2, MODEL.config.width)
    private = extract.private_mean(read, **PRIVATE)
    assert (private.provenance.data, private.provenance.seed, private.health) == ("private", None, {})
    assert read.source.data not in repr(private.provenance)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda read: extract.pca(read, BYTES, PAIRS), "what was read, alone"),
        (lambda read: extract.probe(read, sites=SITES[:1]), r"take read.only\(sites\)"),
        (
            lambda read: extract.contrastive(read, token="last"),
            "what was read, alone, got .* another token than 'answer'",
        ),
        (
            lambda read: extract.pca(extract.read(MODEL, BYTES, PAIRS, token="last"), token="answer"),
            "token than 'last'",
        ),
        (lambda read: read.only(("pre", 3)), "one of the sites that were read"),
        (lambda read: extract.pca(MODEL), "a model, its tokenizer and pairs of texts, got .* alone"),
        (lambda read: extract.pca(MODEL, BYTES), "got no pairs"),
        (lambda read: extract.private_mean(MODEL, BYTES, PAIRS, **PRIVATE), "the sites of a private mean, got none"),
    ],
)
def test_a_reading_beside_texts_or_nothing_to_read_is_one_sentence(call: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        call(extract.read(MODEL, BYTES, PAIRS, SITES[:2]))
    assert "\n" not in str(error.value)


def test_a_private_mean_that_cannot_be_is_refused_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(MODEL), "stream", lambda *args, **kw: pytest.fail("read"))
    with pytest.raises(ValueError, match="epsilon and delta between 0 and 1"):
        extract.private_mean(MODEL, BYTES, PAIRS, SITES, **{**PRIVATE, "epsilon": 2.0})
