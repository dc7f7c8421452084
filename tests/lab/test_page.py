"""The page's pieces: where a claim stands on its row, what each verdict looks like, and that nothing is lost or let in."""

import dataclasses
import re
from xml.etree import ElementTree

import pytest

from ministeer.lab import page
from ministeer.lab.claims import CANNOT, INCONCLUSIVE, NOT_SUPPORTED, SUPPORTED, Claim, Verdict

EFFECTS = {SUPPORTED: (0.7, 0.5, 0.9), NOT_SUPPORTED: (-0.1, -0.2, 0.05), INCONCLUSIVE: (0.15, 0.0, 0.3)}


def verdict(word: str, above: float = 0.1, **more: tuple[float, float, float]) -> Verdict:
    claim = Claim(word, "01_test", f"It is {word} & so", "what is averaged", "nats", above)
    effects = {"all seeds": EFFECTS[word]} | more if word in EFFECTS else {}
    return Verdict(claim, word, effects, "nothing to steer" if word == CANNOT else "its interval says so")


@pytest.mark.parametrize("above", [0.1, 0.0, 0.35, -1.0])
@pytest.mark.parametrize("word", list(EFFECTS))
def test_a_row_has_the_number_to_exceed_at_one_place_and_all_else_in_its_track(word, above):
    v = verdict(word, above, other=(1.2, 1.1, 1.3))
    where = page.places(v)
    everything = [where["mean"], where["low"], where["high"], where["zero"], *where["seeds"]]
    assert all(2.9 <= at <= 97.1 for at in everything)
    mean, low, high = EFFECTS[word]
    for value, at in ((mean, where["mean"]), (low, where["low"]), (high, where["high"]), (0, where["zero"])):
        assert (at > page.LINE) == (value > above) and (at == page.LINE) == (value == above)
    assert where["low"] <= where["mean"] <= where["high"]


def test_nothing_measured_to_be_nothing_has_a_place():
    v = Verdict(verdict(SUPPORTED, 0.0).claim, NOT_SUPPORTED, {"0": (0.0, 0.0, 0.0)})
    assert page.places(v) == {"mean": page.LINE, "low": page.LINE, "high": page.LINE, "zero": page.LINE, "seeds": []}


def test_a_verdict_has_its_word_its_class_and_its_numbers_in_text():
    words = [*EFFECTS, CANNOT]
    shown = page.forest([verdict(word) for word in words])
    rows = shown.split("<li class=")[1:]
    for row, word, sign in zip(rows, words, ["yes", "no", "open", "void"], strict=True):
        assert row.startswith(f"'{sign}'") and f">{word}</b>" in row and f"It is {word} &amp; so" in row
    assert "aria-label='+0.700 [+0.500, +0.900] nats, must exceed 0.1'" in rows[0]
    assert "nothing to steer" in rows[3] and "class='track'" not in rows[3]


def test_a_bar_on_the_right_that_does_not_support_says_why():
    beaten = Verdict(
        verdict(SUPPORTED).claim, INCONCLUSIVE, {"all seeds": (0.7, 0.5, 0.9)}, "of 199 random vectors 4 do as much"
    )
    many = Verdict(beaten.claim, NOT_SUPPORTED, {"all seeds": (0.15, 0.0, 0.3)}, "of 199 random vectors 40 do as much")
    assert "4 do as much" in page.forest([beaten]) and "40 do as much" in page.forest([many])
    assert "says so" not in page.forest([verdict(NOT_SUPPORTED)])
    assert "4 do as much" in page.forest([beaten]) and "says so" not in page.forest(
        [verdict(SUPPORTED), verdict(INCONCLUSIVE)]
    )


def test_what_is_not_measured_yet_is_said_so():
    claims = [verdict(word).claim for word in (NOT_SUPPORTED, CANNOT)]
    shown = page.forest([verdict(SUPPORTED)], claims)
    assert shown.count("<li") == 1 and "Not measured yet: It is not supported &amp; so; It is cannot" in shown
    assert "<li" not in page.forest([], claims) and "Not measured" not in page.forest([verdict(SUPPORTED)])


def test_the_plot_as_a_file_says_the_same():
    text = page.forest_svg([verdict(word) for word in (*EFFECTS, CANNOT)])
    root = ElementTree.fromstring(text)
    assert root.attrib["viewBox"].split()[2] == "960" and "prefers-color-scheme:dark" in text
    said = [node.text for node in root.iter() if node.tag.endswith("text")]
    assert [word for word in said if word in (*EFFECTS, CANNOT)] == [*EFFECTS, CANNOT]
    assert text.count("<circle") == 3
    bars = [tuple(map(float, bar)) for bar in re.findall(r"M([\d.]+) \d+H([\d.]+)", text)]
    line = float(re.search(r"M([\d.]+) \d+v20", text)[1])
    assert bars[0][0] > line and bars[1][1] < line and bars[2][0] < line < bars[2][1]


def test_no_sentence_of_the_plot_reaches_its_bars():
    """Letters of this size are seven wide, and the bars begin at 545."""
    long = dataclasses.replace(verdict(SUPPORTED).claim, sentence=10 * "a sentence of words ")
    root = ElementTree.fromstring(page.forest_svg([dataclasses.replace(verdict(SUPPORTED), claim=long)]))
    lines = [node.text for node in root.iter() if node.tag.endswith("text") and node.attrib["x"] == "0"]
    assert " ".join(lines) == long.sentence.strip() and max(map(len, lines)) * 7 < 545


def test_samples_name_the_strength_beside_each_text_for_a_phone():
    shown = page.samples(
        {"caption": "C <1>.", "columns": ["prompt", "-1: 12 %", "+1: 83 %"], "rows": [["I feel", "sad", "<b>glad"]]}
    )
    assert (
        "<td data-at='-1: 12 %'>sad</td><td data-at='+1: 83 %'>&lt;b&gt;glad</td>" in shown and "C &lt;1&gt;." in shown
    )
