"""Figures: each drawn twice, and described for whom cannot see it."""

import pytest

from ministeer.lab import figures

pytest.importorskip("matplotlib")


@pytest.mark.parametrize("signed", [False, True])
def test_other_figures_are_drawn(tmp_path, signed):
    least = -0.4 if signed else 0.0
    shown = [
        figures.matrix(
            tmp_path / "m",
            [[least, 1.0], [0.5, 0.2]],
            ["a", "b"],
            ["c", "d"],
            xlabel="x",
            ylabel="y",
            unit="u",
            caption="c",
        ),
        figures.strips(tmp_path / "s", {"a": [least, 1.0], "b": [0.3]}, xlabel="x", caption="c"),
        figures.dots(
            tmp_path / "d",
            {"a": ([0, 1], [least, 1])},
            xlabel="x",
            ylabel="y",
            caption="c",
            diagonal=True,
            joined=signed,
        ),
    ]
    for figure in shown:
        assert all(
            (tmp_path / name).stat().st_size > 2000
            for name in (figure["file"], figure["file"].replace(".png", ".dark.png"))
        )
        assert all(name in figure["alt"] for name in ("x", "a"))


def test_a_figure_is_drawn_for_light_and_for_dark_pages(tmp_path):
    shown = figures.lines(tmp_path / "f", [0, 1], {"a": [(0, 0, 0), (1, 1, 1)]}, xlabel="x", ylabel="y", caption="c")
    assert shown["file"] == "f.png"
    assert "y against x" in shown["alt"]
    light, dark = ((tmp_path / name).read_bytes() for name in ("f.png", "f.dark.png"))
    assert light != dark
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.dark.png", "f.png"]
