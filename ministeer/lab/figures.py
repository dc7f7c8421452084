"""Figures of the experiments, from tidy rows: a dict for each measurement. Each is an SVG file that suits light and dark pages.

A figure is `{"file", "alt", "caption"}`, as `Experiment.save` takes it: the file's name, in the folder of its path; what stands for it where it
cannot be seen; what to see in it, and how it is read.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ministeer.files import write_text
from ministeer.metrics import bootstrap, group_means
from ministeer.model import expect

Row = Mapping[str, Any]
Point = tuple[float, float, float]  # mean, low, high
WIDTH, FONT = 5.0, 12  # inches and points: on a phone 360 pixels wide, the text is 11 pixels high

# Okabe and Ito's palette, told apart under the common colour-vision deficiencies; each with its colour on a dark page
COLOURS = {
    "#0072b2": "#56b4e9", "#d55e00": "#ff9248", "#009e73": "#33c79b", "#a9518a": "#e39cc4", "#8a6d00": "#f0e442", "#5b5b5b": "#b0b0b0",
}  # fmt: skip
INK, FAINT = "#1b1b1b", "#d0d0d0"
DARK = COLOURS | {INK: "#e8e8e8", FAINT: "#44474d"}
STYLE = "".join(
    f'svg [style*="{what}: {light}"]{{{what}:{dark}!important}}' for light, dark in DARK.items() for what in ("fill", "stroke")
)  # fmt: skip


def figure(path: Path, draw: Callable[[Any], None], *, width: float = WIDTH, height: float = 3.2) -> str:
    """Draw into `path`.svg and return its name. The same figure is the same bytes.

    draw: called with matplotlib axes; in a dark page the colours of `DARK` take the places of theirs. Sizes are in inches.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": FAINT, "xtick.color": INK, "ytick.color": INK,
        "xtick.labelcolor": INK, "ytick.labelcolor": INK, "grid.color": FAINT, "grid.linewidth": 0.5,
        "axes.grid": True, "axes.axisbelow": True, "axes.spines.top": False, "axes.spines.right": False,
        "font.size": FONT, "axes.titlesize": FONT, "axes.titlelocation": "left", "legend.fontsize": FONT,
        "legend.frameon": False, "lines.linewidth": 2, "svg.fonttype": "none", "svg.hashsalt": "ministeer",
    }  # fmt: skip
    drawn = StringIO()
    with rc_context(style):
        paper = Figure(figsize=(width, height), layout="constrained")
        draw(paper.subplots())
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        paper.savefig(drawn, format="svg", transparent=True, metadata=nothing)
    svg = re.sub(
        r"<\?xml.*?>\s*|<!DOCTYPE.*?>\s*|<!--.*?-->\s*|<metadata>.*?</metadata>\s*",
        "",
        drawn.getvalue(),
        flags=re.DOTALL,
    )
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, 'DejaVu Sans', sans-serif", svg)
    svg = re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", svg)  # hundredths of a pixel
    svg = re.sub(r'(?<=<g) id="[^"]*"|\s*(?=<)|\s+$', "", svg)
    svg = svg.replace("<defs>", f"<style>@media(prefers-color-scheme:dark){{{STYLE}}}</style><defs>", 1)
    write_text(path.with_name(path.name + ".svg"), svg + "\n")
    return path.name + ".svg"


def tidy(values: npt.ArrayLike, name: str, **axes: Iterable[Any]) -> list[dict[str, Any]]:
    """Rows of an array: for each of its numbers a dict with it, under `name`, and with what it is of on each axis, under the axis's name;
    where that is a dict itself, as an item of a table, with all that this holds.

        tidy([[0.1, 0.2]], "effect", item=[{"scenario": 3}], layer=[0, 1])
        # [{"scenario": 3, "layer": 0, "effect": 0.1}, {"scenario": 3, "layer": 1, "effect": 0.2}]
    """
    array, labels = np.asarray(values), {axis: list(of) for axis, of in axes.items()}
    sizes = tuple(map(len, labels.values()))
    expect(array.shape == sizes, f"values of the shape of {', '.join(axes)}, {sizes}", array.shape)
    rows = []
    for index, value in np.ndenumerate(array):
        row: dict[str, Any] = {}
        for (axis, of), k in zip(labels.items(), index, strict=True):
            row |= of[k] if isinstance(of[k], Mapping) else {axis: of[k]}
        rows.append(row | {name: float(value)})
    return rows


def curves(rows: Iterable[Row], *, x: str, y: str, by: str, over: str | None = None) -> dict[str, dict[Any, Point]]:
    """Of each value of `by`, at each x, the mean of y and its interval: `{line: {x: (mean, low, high)}}`.

    The interval is the bootstrap's, at 95 %, over the groups of `over`, or over the rows; of one alone it has no width. Values of `by` that
    begin with "random" are controls: several make one line, "random, all of N", with their lowest and highest mean.
    """
    rows = _checked(rows, x, y, by, *([over] if over else []))
    cells: dict[tuple[str, Any], list[Row]] = {}
    for row in rows:
        cells.setdefault((str(row[by]), row[x]), []).append(row)
    random = {name for name, _ in cells if name.startswith("random")}
    together = f"random, all of {len(random)}" if len(random) > 1 else ""
    found: dict[str, dict[Any, Point]] = {}
    controls: dict[Any, list[float]] = {}
    for (name, at), some in cells.items():
        values, groups = [row[y] for row in some], [row[over] for row in some] if over else None
        means = [float(v) for v in (values if groups is None else group_means(values, groups))]
        mean = sum(means) / len(means)
        if together and name in random:
            controls.setdefault(at, []).append(mean)
            of = controls[at]
            found.setdefault(together, {})[at] = sum(of) / len(of), min(of), max(of)
        else:
            found.setdefault(name, {})[at] = bootstrap(means, seed=0) if len(means) > 1 else (mean, mean, mean)
    return found


def lines(
    path: Path,
    rows: Sequence[Row],
    *,
    x: str,
    y: str,
    by: str,
    over: str | None = None,
    xlabel: str,
    ylabel: str,
    caption: str,
    log: bool = False,
) -> dict[str, str]:
    """A line for each value of `by`, through the means of y at each x, with the intervals of `curves` as bands.

    Controls, whose names begin with "random" or "unsteered", are dashed and grey. The caption is told how the bands are made.
    log: x on a logarithmic scale, with a mark at each.
    """
    found = curves(rows, x=x, y=y, by=by, over=over)
    caption = f"{caption} {_bands(rows, found, by, over)}"

    def draw(axes: Any) -> None:
        axes.axhline(0, color=INK, linewidth=0.8)
        for name, (colour, mark) in _looks(found).items():
            at = sorted(found[name])
            mean, low, high = zip(*(found[name][i] for i in at), strict=True)
            style = "--" if name.startswith(("random", "unsteered")) else "-"
            axes.plot(at, mean, color=colour, label=name, linestyle=style, marker=mark, markersize=4.5)
            axes.fill_between(at, low, high, color=colour, alpha=0.2, linewidth=0)
        if log:
            marks = sorted({i for points in found.values() for i in points})
            axes.set_xscale("symlog", linthresh=min(i for i in marks if i > 0), linscale=0.4)
            axes.set_xticks(marks, [f"{i:,}" for i in marks], minor=False)
            axes.minorticks_off()
        elif all(isinstance(i, int) for points in found.values() for i in points):
            axes.xaxis.get_major_locator().set_params(integer=True)  # no half layer
        _name(axes, xlabel, ylabel, len(found))

    size = 3.2 + _legend_rows(found) * 0.24
    return {"file": figure(path, draw, height=size), "alt": _alt(xlabel, ylabel, found), "caption": caption}


def dots(
    path: Path,
    rows: Sequence[Row],
    *,
    x: str,
    y: str,
    by: str,
    xlabel: str,
    ylabel: str,
    caption: str,
    diagonal: bool = False,
    joined: bool = False,
) -> dict[str, str]:
    """A dot (x, y) for each row, a colour and a mark for each value of `by`; those that begin with "random" are grey.

    diagonal: draws y = x. joined: a line through each one's dots, in their order.
    """
    found: dict[str, tuple[list[float], list[float]]] = {}
    for row in _checked(rows, x, y, by):
        of = found.setdefault(str(row[by]), ([], []))
        of[0].append(row[x])
        of[1].append(row[y])

    def draw(axes: Any) -> None:
        if diagonal:
            axes.axline((0, 0), slope=1, color=INK, linewidth=0.8)
        for name, (colour, mark) in _looks(found).items():
            style = "" if not joined else "--" if "random" in name else "-"
            axes.plot(*found[name], color=colour, label=name, marker=mark, markersize=5, linestyle=style, alpha=0.85)
        _name(axes, xlabel, ylabel, len(found))

    size = 3.2 + _legend_rows(found) * 0.24
    return {"file": figure(path, draw, height=size), "alt": _alt(xlabel, ylabel, found), "caption": caption}


def matrix(
    path: Path,
    rows: Sequence[Row],
    *,
    x: str,
    y: str,
    value: str,
    xlabel: str,
    ylabel: str,
    unit: str,
    caption: str,
) -> dict[str, str]:
    """The mean of `value` at each x (columns) and y (rows), written into its square; in the order in which they come in the rows."""
    cells: dict[tuple[str, str], list[float]] = {}
    for row in _checked(rows, x, y, value):
        cells.setdefault((str(row[y]), str(row[x])), []).append(float(row[value]))
    names, columns = (list(dict.fromkeys(key[k] for key in cells)) for k in (0, 1))
    values = [[_mean(cells.get((name, column), [float("nan")])) for column in columns] for name in names]
    there = [v for line in values for v in line if not math.isnan(v)]
    top, signed = max(map(abs, there)) or 1.0, min(there) < 0

    def draw(axes: Any) -> None:
        shown = axes.pcolormesh(
            values, cmap="PuOr" if signed else "cividis", vmin=-top if signed else 0, vmax=top, edgecolors="none"
        )
        plain = [[str(name).replace("_", " ") for name in some] for some in (columns, names)]
        turn = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if max(map(len, plain[0])) > 4 else {}
        axes.set_xticks([j + 0.5 for j in range(len(columns))], plain[0], **turn)
        axes.set_yticks([i + 0.5 for i in range(len(names))], plain[1])
        axes.tick_params(length=0)
        axes.invert_yaxis()
        axes.grid(False)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.set_title(_wrapped(unit, 44))
        for i, line in enumerate(values):
            for j, v in enumerate(line):
                if not math.isnan(v):
                    red, green, blue, _ = shown.cmap(shown.norm(v))
                    ink = "#000000" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "#ffffff"
                    said = re.sub(r"^(-?)0\.", r"\1.", f"{v:.2f}")
                    axes.text(j + 0.5, i + 0.5, said, ha="center", va="center", color=ink)

    size = {
        "width": max(WIDTH, 0.7 + 0.085 * max(map(len, map(str, names))) + 0.42 * len(columns)),
        "height": 1.1 + 0.07 * max(map(len, map(str, columns))) + 0.27 * len(names),
    }
    alt = f"{unit}, by {ylabel} ({', '.join(map(str, names))}) and {xlabel} ({', '.join(map(str, columns))})."
    return {"file": figure(path, draw, **size), "alt": alt, "caption": caption}


def strips(path: Path, rows: Sequence[Row], *, x: str, by: str, xlabel: str, caption: str) -> dict[str, str]:
    """A dot at x for each row, a strip for each value of `by` with its mean as a bar."""
    groups: dict[str, list[float]] = {}
    for row in _checked(rows, x, by):
        groups.setdefault(str(row[by]), []).append(row[x])

    def draw(axes: Any) -> None:
        dot, bar = [*COLOURS][:2]
        axes.axvline(0, color=INK, linewidth=0.8)
        for i, values in enumerate(groups.values()):
            heights = [i + 0.5 * ((j * 0.618) % 1 - 0.5) for j in range(len(values))]  # apart, the same way each time
            axes.plot(values, heights, ".", color=dot, alpha=0.6, markersize=5, markeredgewidth=0)
            axes.plot([_mean(values)] * 2, [i - 0.38, i + 0.38], color=bar, linewidth=2.5)
        axes.set_yticks(range(len(groups)), [name.replace("_", " ") for name in groups])
        axes.set(xlabel=_wrapped(xlabel, 30), ylim=(len(groups) - 0.4, -0.6))

    alt = f"{xlabel}, single items and means, by {', '.join(groups)}."
    return {"file": figure(path, draw, height=0.9 + 0.27 * len(groups)), "alt": alt, "caption": caption}


def table(rows: Sequence[Row], *, caption: str, digits: int = 2) -> dict[str, Any]:
    """A table for `Experiment.save`: a column for each key, in the order of the first row; what a row lacks is left empty."""
    columns = list(rows[0])

    def said(value: Any) -> str:
        return f"{value:.{digits}f}" if isinstance(value, float) else str(value)

    return {"caption": caption, "columns": columns, "rows": [[said(row.get(k, "")) for k in columns] for row in rows]}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _checked(rows: Iterable[Row], *needed: str) -> list[Row]:
    """The rows, each with what is asked for."""
    found = list(rows)
    expect(bool(found), "at least one row to draw", "none")
    for row in found:
        missing = [name for name in needed if name not in row]
        expect(not missing, f"rows with {', '.join(map(repr, needed))}", f"one without {', '.join(map(repr, missing))}")
    return found


def _bands(rows: Iterable[Row], found: Iterable[str], by: str, over: str | None) -> str:
    """How the bands of `lines` are made, in a sentence."""
    some = [row for row in rows if not str(row[by]).startswith("random")]
    count = len({row[over] for row in some}) if over else 0
    said = f"95 % bootstrap over {count} {over}s" if over else "95 % bootstrap over items"
    return f"Bands: {said}{'; the range of the random vectors' if any(n.startswith('random, all of') for n in found) else ''}."


def _looks(found: Iterable[str]) -> dict[str, tuple[str, str]]:
    """A colour and a mark for each line; grey is of controls."""
    *colours, grey = COLOURS
    names = list(found)
    controls = [name for name in names if name.startswith(("random", "unsteered"))]
    others = [name for name in names if name not in controls]
    looks = {name: (colours[i % len(colours)], "osD^vP"[i % 6]) for i, name in enumerate(others)}
    looks |= {name: (grey, "sD^vPo"[i % 6]) for i, name in enumerate(controls)}
    return {name: looks[name] for name in names}


def _legend_rows(found: Iterable[str]) -> int:
    names = list(found)
    return 0 if len(names) < 2 else len(names) if max(map(len, names)) > 17 else (len(names) + 1) // 2


def _name(axes: Any, xlabel: str, ylabel: str, count: int) -> None:
    """The axes' names, y's above them where it can be read, and the legend above all, where no line can run through it."""
    axes.set(xlabel=_wrapped(xlabel, 44))
    axes.set_title(_wrapped(ylabel, 44))
    if count > 1:
        _, names = axes.get_legend_handles_labels()
        columns = 1 if _legend_rows(names) == len(names) else 2
        axes.figure.legend(loc="outside upper left", ncols=columns, borderaxespad=0, labelspacing=0.3)


def _wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width))


def _alt(xlabel: str, ylabel: str, found: Iterable[str]) -> str:
    return f"{ylabel} against {xlabel}: {', '.join(found)}."
