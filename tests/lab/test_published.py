"""What is set beside published numbers is what a plain run gives."""

import pytest
import torch

from ministeer import Steer, extract, generate, metrics
from ministeer.checkpoint import load
from ministeer.lab import published, texts

MODEL, TOKENIZER = load("nano")
VECTOR = extract.activation_addition(MODEL, TOKENIZER, "Love", "Hate", [("pre", 1), ("pre", 3)])


def test_the_published_curves() -> None:
    for topic in published.TOPICS:
        by_layer = published.ratios(topic)
        assert [*by_layer] == [*range(48)] and all(0.5 < ratio < 5 for ratio in by_layer.values())
        by_coefficient = published.ratios(topic, 6)
        assert by_coefficient[1.0] == by_layer[6] and {-1.0, 2.0, 3.0, 4.0} <= by_coefficient.keys()
        assert published.ratios(topic, 5) == {1.0: by_layer[5]}
    assert published.ratios("weddings", 6)[2.0] == pytest.approx(0.892, abs=0.001)
    assert published.ratios("shipping", 16)[3.0] == pytest.approx(1.013, abs=0.001)


def test_perplexity_leaves_out_where_the_vector_lies() -> None:
    passages = ["The farmer has a cow and six sheep.", "A ship comes to the harbor."]
    given = {"vector": VECTOR, "layer": 3, "texts": passages, "coefficients": [0.0, 2.0]}
    for row, text in zip(published.perplexities(MODEL, TOKENIZER, **given), passages, strict=True):
        ids, v = torch.tensor([TOKENIZER.prompt(text)]), VECTOR["pre", 3]  # (P, D)
        counted = torch.arange(ids.shape[1])[None] >= len(v)
        for c, found in zip((0.0, 2.0), row["perplexity"], strict=True):
            whole = torch.zeros(1, ids.shape[1], v.shape[1])
            whole[0, : len(v)] = c * v
            with torch.no_grad():
                wanted = metrics.perplexity(MODEL(ids, adds={("pre", 3): whole}), ids, counted)
            assert found == pytest.approx(float(wanted), rel=1e-4)
        assert row["perplexity"][0] != row["perplexity"][1]


def test_completions_are_one_a_seed() -> None:
    given = {"vector": VECTOR, "layer": 1, "coefficient": 1.0, "asked": [["I feel", seed] for seed in range(60)]}
    said = [row["text"] for row in texts.completions(MODEL, TOKENIZER, **given)]
    ids = TOKENIZER.prompt("I feel")
    for seed in (3, 55):
        alone = generate(
            MODEL, ids, steer=Steer(VECTOR, ("pre", 1), 1.0, "front"), stop=TOKENIZER.stop,
            generator=torch.Generator().manual_seed(seed), **texts.SAMPLED,
        )  # fmt: skip
        assert said[seed] == TOKENIZER.decode(alone[len(ids) :])
    assert len(said) == 60 and len(set(said)) > 1


@pytest.mark.parametrize(
    ("text", "about"), [("Her Wedding day", True), ("He wed her.", True), ("It rained on Wednesday", False)]
)
def test_what_is_about_weddings(text: str, about: bool) -> None:
    assert published.about_weddings(text) is about
