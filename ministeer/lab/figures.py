"""Figures of the experiments, each drawn for light and for dark pages, as `Experiment.save` takes them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ministeer.files import replacing

# Okabe and Ito's palette, told apart under the common colour-vision deficiencies
BLUE, ORANGE, GREEN, PURPLE, SKY, RED = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"


@dataclass(frozen=True)
class Look:
    """Colours of one rendering of a figure: of its lines in order, its text and its ground."""

    lines: tuple[str, ...]
    ink: str
    faint: str
    ground: str


LIGHT = Look((BLUE, RED, GREEN, PURPLE, ORANGE, SKY), "#1b1b1b", "#c9c9c9", "#ffffff")
DARK = Look((SKY, ORANGE, "#33c79b", "#e39cc4", "#f0e442", BLUE), "#e8e8e8", "#4a4a4a", "#16181c")


def figure(path: Path, draw: Callable[[Any, Look], None], *, width: float = 6.4, height: float = 3.6) -> str:
    """Draw a figure twice, for light and dark pages: `path`.png and `path`.dark.png; returns the first one's name.

    draw: called with matplotlib axes and the colours to use.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    for suffix, look in ((".png", LIGHT), (".dark.png", DARK)):
        style: dict[Any, Any] = {
            "figure.facecolor": look.ground, "axes.facecolor": look.ground, "savefig.facecolor": look.ground,
            "text.color": look.ink, "axes.labelcolor": look.ink, "axes.edgecolor": look.faint,
            "xtick.color": look.ink, "ytick.color": look.ink, "grid.color": look.faint, "grid.linewidth": 0.5,
            "axes.grid": True, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 11,
            "font.size": 10, "legend.frameon": False, "lines.linewidth": 2,
        }  # fmt: skip
        with plt.rc_context(style):
            drawn, axes = plt.subplots(figsize=(width, height), layout="constrained")
            draw(axes, look)
            with replacing(path.with_name(path.name + suffix)) as unfinished:
                drawn.savefig(unfinished, dpi=160, format="png")
            plt.close(drawn)
    return path.name + ".png"


def lines(
    path: Path,
    x: Sequence[float],
    series: dict[str, Sequence[tuple[float, float, float]]],
    *,
    xlabel: str,
    ylabel: str,
    caption: str,
) -> dict[str, str]:
    """A figure of lines through (mean, low, high) points, with the intervals as bands, as `Experiment.save` takes it.

    Controls, the series whose names begin with "random" or "unsteered", are dashed.
    """

    def draw(axes: Any, look: Look) -> None:
        axes.axhline(0, color=look.ink, linewidth=0.8)
        for (name, points), colour in zip(series.items(), look.lines[: len(series)], strict=True):
            mean, low, high = zip(*points, strict=True)
            style = "--" if name.startswith(("random", "unsteered")) else "-"
            axes.plot(x, mean, color=colour, label=name, linestyle=style, marker="o", markersize=4)
            axes.fill_between(x, low, high, color=colour, alpha=0.22, linewidth=0)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)  # above, where no line can run through it

    alt = f"{ylabel} against {xlabel}: {', '.join(series)}."
    return {"file": figure(path, draw), "alt": alt, "caption": caption}


def matrix(
    path: Path,
    values: Sequence[Sequence[float]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    xlabel: str,
    ylabel: str,
    unit: str,
    caption: str,
) -> dict[str, str]:
    """A figure of a matrix of numbers, each written into its square, as `Experiment.save` takes it."""
    top = max(max(abs(value) for value in row) for row in values) or 1.0
    signed = min(min(row) for row in values) < 0

    def draw(axes: Any, look: Look) -> None:
        image = axes.imshow(
            values, cmap="PuOr" if signed else "cividis", vmin=-top if signed else 0, vmax=top, aspect="auto"
        )
        axes.set_xticks(range(len(columns)), [name.replace("_", " ") for name in columns], rotation=45, ha="right")
        axes.set_yticks(range(len(rows)), [name.replace("_", " ") for name in rows])
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.grid(False)
        for i, row in enumerate(values):
            for j, value in enumerate(row):
                red, green, blue, _ = image.cmap(image.norm(value))
                ink = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"
                axes.text(
                    j, i, re.sub(r"^(-?)0\.", r"\1.", f"{value:.2f}"), ha="center", va="center", color=ink, fontsize=7
                )
        axes.figure.colorbar(image, label=unit)

    size = {"width": 3.2 + 0.42 * len(columns), "height": 1.8 + 0.32 * len(rows)}
    alt = f"{unit}, by {ylabel} ({', '.join(rows)}) and {xlabel} ({', '.join(columns)})."
    return {"file": figure(path, draw, **size), "alt": alt, "caption": caption}


def strips(path: Path, groups: dict[str, Sequence[float]], *, xlabel: str, caption: str) -> dict[str, str]:
    """A figure of single items as dots, a row for each group with its mean as a bar, as `Experiment.save` takes it."""

    def draw(axes: Any, look: Look) -> None:
        axes.axvline(0, color=look.ink, linewidth=0.8)
        for i, values in enumerate(groups.values()):
            heights = [i + 0.5 * ((j * 0.618) % 1 - 0.5) for j in range(len(values))]  # apart, the same way each time
            axes.scatter(values, heights, s=9, color=look.lines[0], alpha=0.6, linewidths=0)
            axes.plot([sum(values) / len(values)] * 2, [i - 0.38, i + 0.38], color=look.lines[1], linewidth=2.5)
        axes.set_yticks(range(len(groups)), list(groups))
        axes.set(xlabel=xlabel, ylim=(len(groups) - 0.4, -0.6))

    alt = f"{xlabel}, single items and means, by {', '.join(groups)}."
    return {"file": figure(path, draw, height=0.9 + 0.24 * len(groups)), "alt": alt, "caption": caption}


def dots(
    path: Path,
    series: dict[str, tuple[Sequence[float], Sequence[float]]],
    *,
    xlabel: str,
    ylabel: str,
    caption: str,
    diagonal: bool = False,
    joined: bool = False,
) -> dict[str, str]:
    """A figure of points (x, y), a colour and a mark for each series, as `Experiment.save` takes it.

    diagonal: draws y = x. joined: a line through each series' points, in their order.
    """

    def draw(axes: Any, look: Look) -> None:
        if diagonal:
            axes.axline((0, 0), slope=1, color=look.ink, linewidth=0.8)
        for (name, (x, y)), colour, mark in zip(series.items(), look.lines, "osD^vP"):
            style = "" if not joined else "--" if "random" in name else "-"
            axes.plot(x, y, color=colour, label=name, marker=mark, markersize=5, linestyle=style, alpha=0.85)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)

    alt = f"{ylabel} against {xlabel}: {', '.join(series)}."
    return {"file": figure(path, draw), "alt": alt, "caption": caption}


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, lowest, highest), the point of a line whose band is the range of several controls."""
    return sum(values) / len(values), min(values), max(values)
