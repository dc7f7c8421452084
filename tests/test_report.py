"""The report: one file that needs no other, with everything the experiments found and nothing they did not."""

import json
import re
from pathlib import Path

import pytest

from ministeer import report

pytest.importorskip("matplotlib")


def results(folder: Path, name: str = "01_test", **page: object) -> Path:
    folder.mkdir(exist_ok=True)
    shown = report.lines(
        folder / name, [0, 1, 2], {"honesty": [(0, -1, 1), (1, 0, 2), (2, 1, 3)], "random 0": [(0, -1, 1)] * 3},
        xlabel="layer", ylabel="nats", caption="A <caption>.",
    )  # fmt: skip
    everything = {
        "name": name, "model": "nano", "weights": "abc", "dtype": "float32", "device": "cpu", "cells": [{"seconds": 1.26}],
        "page": {
            "title": "A title", "question": "What?", "protocol": "So.", "finding": "Up by 2 < 3.", "command": "python x.py",
            "receipt": "pre 1: 3 of 4 positions",
            "figures": [shown], "tables": [{"caption": "T", "columns": ["a"], "rows": [["<script>"], [3]]}],
        } | page,
    }  # fmt: skip
    (folder / f"{name}.json").write_text(json.dumps(everything))
    return folder


def test_it_is_one_file_that_loads_nothing(tmp_path):
    page = report.report(results(tmp_path / "nano"))
    sources = re.findall(r"""(?:src|srcset|href)=['"]([^'"]*)""", page)
    assert len(sources) == 2  # a light and a dark picture
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "@import" not in page and "url(" not in page


def test_it_shows_what_was_found_and_escapes_it(tmp_path):
    page = report.report(results(tmp_path / "nano"))
    for text in (
        "A title",
        "What?",
        "So.",
        "Up by 2 &lt; 3.",
        "&lt;script&gt;",
        "A &lt;caption&gt;.",
        "python x.py",
        "What was done: pre 1: 3 of 4 positions",
        "abc",
        "1.3",
    ):
        assert text in page
    assert "<script" not in page
    assert "no evidence about language models" in page  # nano is a model organism


def test_experiments_are_in_order_and_unfinished_ones_are_left_out(tmp_path):
    folder = results(results(tmp_path / "nano", "02_b", title="Second"), "01_a", title="First")
    (folder / "03_c.json").write_text(json.dumps({"name": "03_c", "page": {}, "cells": []}))
    page = report.report(folder)
    assert page.index("First") < page.index("Second")
    assert "03_c" not in page


@pytest.mark.parametrize("key", ["weights", "dtype"])
def test_experiments_on_different_models_make_no_page(tmp_path, key):
    folder = results(results(tmp_path / "nano", "01_a"), "02_b")
    other = json.loads((folder / "02_b.json").read_text()) | {key: "other"}
    (folder / "02_b.json").write_text(json.dumps(other))
    with pytest.raises(ValueError, match=f"expected experiments of one {key}, got .*other.*make reproduce"):
        report.report(folder)


def test_no_results_is_an_error_that_says_what_to_run(tmp_path):
    with pytest.raises(ValueError, match="got none; run `make reproduce` first"):
        report.report(tmp_path)


def test_a_figure_is_drawn_for_light_and_for_dark_pages(tmp_path):
    shown = report.lines(tmp_path / "f", [0, 1], {"a": [(0, 0, 0), (1, 1, 1)]}, xlabel="x", ylabel="y", caption="c")
    assert shown["file"] == "f.png"
    assert "y against x" in shown["alt"]
    light, dark = ((tmp_path / name).read_bytes() for name in ("f.png", "f.dark.png"))
    assert light != dark
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.dark.png", "f.png"]
