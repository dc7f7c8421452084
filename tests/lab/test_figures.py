"""Figures: what is drawn of tidy rows, that it can be read on a phone and in the dark, and is described for whom cannot see it."""

import re
from xml.etree import ElementTree

import pytest

from ministeer.lab import figures
from ministeer.metrics import bootstrap

pytest.importorskip("matplotlib")
VECTORS = ("honesty", "random 0", "random 1")
NAMED = {"xlabel": "layer", "ylabel": "effect (nats)", "caption": "See how it grows."}


def effect(vector: str, layer: int, scenario: int, wording: int) -> float:
    return {"honesty": layer + scenario / 10 + wording, "random 0": -1.0, "random 1": 0.5}[vector]


ROWS = [
    {"vector": v, "layer": i, "scenario": s, "effect": effect(v, i, s, w)}
    for v in VECTORS for i in (2, 0, 1) for s in range(6) for w in range(3 if s == 5 else 1)
]  # fmt: skip
GIVEN = {"x": "layer", "y": "effect", "by": "vector", "over": "scenario"}


def drawn(path, **more):
    return [
        figures.lines(path / "lines", ROWS, **GIVEN, **NAMED, **more),
        figures.dots(path / "dots", ROWS, x="scenario", y="effect", by="vector", diagonal=True, joined=True, **NAMED),
        figures.matrix(path / "matrix", ROWS, x="layer", y="vector", value="effect", unit="nats", **NAMED),
        figures.strips(path / "strips", ROWS, x="effect", by="vector", xlabel="effect (nats)", caption="See."),
    ]


def test_an_array_becomes_rows_that_say_what_each_number_is_of():
    rows = figures.tidy(
        [[0.1, 0.2], [0.3, 0.4]], "effect", item=[{"scenario": 3, "level": "plain"}, {"scenario": 4, "level": "short"}], layer=(0, 5)
    )  # fmt: skip
    assert len(rows) == 4 and rows[1] == {"scenario": 3, "level": "plain", "layer": 5, "effect": 0.2}
    assert rows[2] == {"scenario": 4, "level": "short", "layer": 0, "effect": 0.3}
    with pytest.raises(ValueError, match=r"expected values of the shape of item, layer, \(1, 2\), got \(2, 1\)"):
        figures.tidy([[1], [2]], "effect", item=[{}], layer=[0, 1])


def test_a_line_is_the_mean_over_groups_with_their_interval():
    found = figures.curves(ROWS, **GIVEN)
    mine = [row for row in ROWS if row["vector"] == "honesty" and row["layer"] == 1]
    values, groups = [row["effect"] for row in mine], [row["scenario"] for row in mine]
    assert found["honesty"][1] == bootstrap(values, seed=0, groups=groups)
    assert found["honesty"][1] != bootstrap(values, seed=0), "the three wordings of the last scenario count once"
    alone = figures.curves(ROWS, x="layer", y="effect", by="vector")
    assert alone["honesty"][1] == bootstrap(values, seed=0)


def test_several_random_vectors_are_one_line_with_the_range_of_their_means():
    found = figures.curves(ROWS, **GIVEN)
    assert list(found) == ["honesty", "random, all of 2"]
    assert found["random, all of 2"] == {i: (-0.25, -1.0, 0.5) for i in (0, 1, 2)}
    one = figures.curves([row for row in ROWS if row["vector"] != "random 1"], **GIVEN)
    assert list(one) == ["honesty", "random 0"]


def test_a_single_item_has_no_interval():
    assert figures.curves([{"x": 1, "y": 2.0, "by": "a"}], x="x", y="y", by="by") == {"a": {1: (2.0, 2.0, 2.0)}}


def test_rows_that_lack_what_is_asked_for_are_refused(tmp_path):
    with pytest.raises(ValueError, match="expected rows with 'layer', 'effect', 'vector', .*got one without 'effect'"):
        figures.lines(tmp_path / "f", [*ROWS, {"layer": 0, "vector": "a", "scenario": 1}], **GIVEN, **NAMED)
    with pytest.raises(ValueError, match="expected at least one row to draw, got none"):
        figures.strips(tmp_path / "f", [], x="effect", by="vector", xlabel="", caption="")
    assert not list(tmp_path.iterdir())


def test_the_caption_says_what_to_see_and_how_the_bands_are_made(tmp_path):
    lines, dots, *_ = drawn(tmp_path)
    assert lines["caption"] == (
        "See how it grows. Bands: 95 % bootstrap over 6 scenarios; the range of the random vectors."
    )
    assert dots["caption"] == "See how it grows."


def test_each_is_described_and_is_the_same_bytes_again(tmp_path):
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
    for figure, again in zip(drawn(tmp_path / "a"), drawn(tmp_path / "b"), strict=True):
        assert figure == again and "nats" in figure["alt"] and "honesty" in figure["alt"]
        one, other = ((tmp_path / name / figure["file"]).read_bytes() for name in "ab")
        assert one == other and len(one) < 40_000
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        f"{name}.svg" for name in ("dots", "lines", "matrix", "strips")
    ]


def test_each_can_be_read_on_a_phone_in_the_dark_and_offline(tmp_path):
    for figure in drawn(tmp_path):
        text = (tmp_path / figure["file"]).read_text()
        root = ElementTree.fromstring(text)
        _, _, width, _ = map(float, root.attrib["viewBox"].split())
        sizes = [float(size) for size in re.findall(r"font(?:-size)?: (?:\w+ )?([\d.]+)px", text)]
        assert min(sizes) * (360 - 24) / width >= 11, "of 360 pixels the page's margins take 24"
        for light, dark in figures.DARK.items():
            assert f'svg [style*="stroke: {light}"]{{stroke:{dark}!important}}' in text
        used = set(re.findall(r"(?:fill|stroke): (#\w{6})", text.partition("</style>")[2]))
        own = "fill: #ffffff" in text  # numbers in the squares of a matrix, whose ground is the same in the dark
        assert used & set(figures.DARK) and (own or used <= set(figures.DARK))
        assert not re.findall(r"(?:href|src)=\"(?!#)", text) and "@import" not in text and "<image" not in text


def test_whole_numbers_have_no_halves_between_them(tmp_path):
    figures.lines(tmp_path / "f", [row for row in ROWS if row["layer"] < 2], **GIVEN, **NAMED)
    ticks = re.findall(r"text-anchor: middle[^>]*>([^<]+)</text>", (tmp_path / "f.svg").read_text())
    assert [tick for tick in ticks if tick[0].isdigit()] == ["0", "1"]


def test_a_matrix_takes_the_mean_of_each_square_and_leaves_out_what_was_not_measured(tmp_path):
    rows = [{"a": "p", "b": "q", "v": 0.2}, {"a": "p", "b": "q", "v": 0.4}, {"a": "r", "b": "s", "v": -1.0}]
    shown = figures.matrix(tmp_path / "m", rows, x="a", y="b", value="v", xlabel="x", ylabel="y", unit="u", caption="")
    said = re.findall(r"<text[^>]*>([^<]*)</text>", (tmp_path / shown["file"]).read_text())
    assert [text for text in said if re.fullmatch(r"-?\d?\.\d\d", text)] == [".30", "-1.00"]
