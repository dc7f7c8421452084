"""Results -> figures, tables, verdicts, and one self-contained HTML page.

    python -m ministeer.lab.report results/nano [evidence.json ...]

writes results/nano/report.html, summary.md (the verdicts, for a terminal) and evidence.json (what the verdicts rest on). Other
evidence.json files are of the same model trained from other seeds: a verdict that changes with the seed is inconclusive.
"""

from __future__ import annotations

import base64
import html
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ministeer.files import read_json, replacing, write_text
from ministeer.lab.claims import CLAIMS, Verdict, judge, word

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


PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title><style>
:root {{ color-scheme: light dark; --ink: #1b1b1b; --ground: #fff; --soft: #f3f3f1; --line: #d5d5d2; --link: #00629b; }}
@media (prefers-color-scheme: dark) {{
 :root {{ --ink: #e8e8e8; --ground: #16181c; --soft: #22252b; --line: #3b3f47; --link: #7cc4f4; }} }}
body {{ font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--ground);
 max-width: 52rem; margin: 0 auto; padding: 1rem; overflow-wrap: break-word; }}
h1, h2 {{ line-height: 1.2; }} h2 {{ margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 1.5rem; }}
a {{ color: var(--link); }} img {{ max-width: 100%; height: auto; }} figure {{ margin: 1.5rem 0; }}
figcaption, .small {{ font-size: .875rem; }} .scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .9rem; min-width: 50%; }}
caption {{ text-align: left; padding: .3rem 0; font-size: .875rem; }}
th, td {{ text-align: left; min-width: 6rem; padding: .3rem .7rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }}
.finding {{ background: var(--soft); padding: .8rem 1rem; border-left: 4px solid var(--link); }}
code {{ font-size: .9em; background: var(--soft); padding: .1em .3em; }}
</style></head><body><h1>{title}</h1>{body}</body></html>
"""

INTRODUCTION = {
    "nano": (
        "nano is a model organism: a small GPT-2 trained on text that a program wrote, so that everything it can do is "
        "known. Its results show the mechanism and test the code. They are no evidence about language models: that "
        "comes from the same commands with a GPT-2 checkpoint."
    )
}
QUICKLY = "A quick run: one item in four and one draw of each vector. Its intervals are wide; leave SUBSET out for all."
OTHERWISE = "Measured on {model}; a result for this model is a result for this model."


def load_results(folder: Path) -> list[dict[str, Any]]:
    """The finished experiments of a results folder. Raises `ValueError` if there are none, or if they are of several models."""
    everything = [read_json(path) for path in sorted(folder.glob("[0-9][0-9]_*.json"))]
    done = [experiment for experiment in everything if experiment["page"]]
    if not done:
        raise ValueError(f"{folder}: expected results of at least one experiment, got none; run `make reproduce` first")
    for key in ("model", "weights", "dtype", "device", "quick"):
        if len(found := sorted({str(experiment[key]) for experiment in done})) > 1:
            raise ValueError(
                f"{folder}: expected experiments of one {key}, got {', '.join(found)}; run `make reproduce` again"
            )
    return done


def verdicts(evidence: dict[str, dict[str, Any]]) -> list[Verdict]:
    """What the evidence, `{seed of training: {claim: {seed of extraction: ...}}}`, says of each claim that it is about."""
    found = []
    for claim in CLAIMS:
        by_seed = {
            f"{training}, {extraction}": values
            for training, claims in evidence.items()
            for extraction, values in claims.get(claim.key, {}).items()
        }
        if by_seed:
            found.append(judge(claim, by_seed))
    return found


def by_training(found: Sequence[Verdict]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of a table: of each claim the verdict in each seed of training alone, and the effect of its first extraction."""
    trainings = list(dict.fromkeys(name.rpartition(", ")[0] for v in found for name in v.effects))
    rows = []
    for v in found:
        row = [v.claim.sentence]
        for training in trainings:
            effects = [effect for name, effect in v.effects.items() if name.rpartition(", ")[0] == training]
            row.append(f"{word(v.claim, effects)} ({effects[0][0]:+.3f})" if effects else "")
        rows.append(row)
    return [COLUMNS[0], *trainings], rows


COLUMNS = [
    "claim of the paper",
    "verdict",
    "effect",
    "must exceed",
    "what is averaged",
    "range over seeds",
    "experiment",
]


def verdict_rows(found: Sequence[Verdict]) -> list[list[str]]:
    """The verdict table, a row a claim, as `COLUMNS` says; intervals hold for all claims together."""
    rows = []
    for v in found:
        mean, low, high = v.effect
        means = [m for m, _, _ in v.effects.values()]
        rows.append([
            v.claim.sentence, v.word, f"{mean:+.3f} [{low:+.3f}, {high:+.3f}] {v.claim.unit}", f"{v.claim.above:g}",
            v.claim.effect, f"{min(means):+.3f} to {max(means):+.3f}, {_seeds(v)}", v.claim.experiment,
        ])  # fmt: skip
    return rows


def _seeds(verdict: Verdict) -> str:
    training = {name.rpartition(", ")[0] for name in verdict.effects}
    return f"{len(verdict.effects)} seeds" + (f", of {len(training)} trainings" if len(training) > 1 else "")


EXPLAINED = (
    "Each claim is tested by an effect and a number it must exceed, both in claims.py, which says what was changed after a run was seen. Supported: the whole interval lies "
    "above the number. Not supported: none of it does. Inconclusive: the interval holds the number, or seeds of extraction or of training disagree. "
    f"Intervals are at 1 - 0.05 / {len(CLAIMS)}, so that they hold for all claims together."
)


def summary(model: str, found: Sequence[Verdict], quick: bool = False) -> str:
    """The verdicts, and those of each seed of training where there are several, as Markdown that reads in a terminal."""
    lines = [
        f"# Steering {model}: verdicts",
        "",
        INTRODUCTION.get(model, OTHERWISE.format(model=model)),
        *([QUICKLY] if quick else []),
        "",
        EXPLAINED,
        "",
    ]
    for claim, verdict, effect, above, averaged, seeds, experiment in verdict_rows(found):
        lines += [
            f"- **{claim}**: {verdict}",
            f"  {effect}; must exceed {above}; {seeds}",
            f"  ({averaged}; {experiment})",
        ]
    columns, rows = by_training(found)
    if len(columns) > 2:
        lines += ["", f"Each seed of training alone: {', '.join(columns[1:])}.", ""]
        lines += [f"- {claim}: {'; '.join(words)}" for claim, *words in rows]
    return "\n".join(lines) + "\n"


def report(done: Sequence[dict[str, Any]], folder: Path, found: Sequence[Verdict]) -> str:
    """The HTML page of finished experiments, verdicts first, figures inside."""
    first = done[0]
    introduction = INTRODUCTION.get(first["model"], OTHERWISE.format(model=first["model"]))
    body = [f"<p>{html.escape(introduction)}</p>"]
    if first["quick"]:
        body.append(f"<p>{html.escape(QUICKLY)}</p>")
    if found:
        rows = verdict_rows(found)
        body.append(f"<h2 id='verdicts'>Verdicts</h2><p>{html.escape(EXPLAINED)}</p>")
        body.append(_table("What the measurements say.", COLUMNS[:4], [row[:4] for row in rows]))
        columns, words = by_training(found)
        if len(columns) > 2:
            body.append(_table("Each seed of training alone: its verdict, and the effect.", columns, words))
        details = [[row[0], *row[4:]] for row in rows]
        body.append(_table("What each verdict rests on.", [COLUMNS[0], *COLUMNS[4:]], details))
    body.append(
        "<p>" + " · ".join(f"<a href='#{e['name']}'>{html.escape(e['page']['title'])}</a>" for e in done) + "</p>"
    )
    body += [_section(folder, experiment) for experiment in done]
    settings = [
        [
            e["name"],
            e["model"],
            e["weights"],
            e["dtype"],
            e["device"],
            f"{sum(c['seconds'] for c in e['cells']):.1f}",
            e["peak"],
        ]
        for e in done
    ]
    body.append(
        "<h2>Settings</h2>"
        + _table(
            "What each experiment was measured on; every cell's settings and rows are in the JSON file of its name.",
            ["experiment", "model", "weights", "dtype", "device", "seconds", "peak memory (GiB)"],
            settings,
        )
    )
    return PAGE.format(title=f"Steering {html.escape(first['model'])}", body="\n".join(body))


def _section(folder: Path, experiment: dict[str, Any]) -> str:
    page = experiment["page"]
    parts = [f"<h2 id='{experiment['name']}'>{html.escape(page['title'])}</h2>"]
    parts.append(f"<p><b>Question.</b> {html.escape(page['question'])}</p>")
    parts.append(f"<p><b>Protocol.</b> {html.escape(page['protocol'])}</p>")
    parts += [_figure(folder, shown) for shown in page.get("figures", [])]
    parts.append(f"<p class='finding'>{html.escape(page['finding'])}</p>")
    parts += [_table(t["caption"], t["columns"], t["rows"]) for t in page.get("tables", [])]
    parts.append(f"<p class='small'>What was done: {html.escape(page['receipt'])}</p>")
    parts.append(f"<p class='small'>Command: <code>{html.escape(page['command'])}</code></p>")
    return "\n".join(parts)


def _figure(folder: Path, shown: dict[str, str]) -> str:
    def data(name: str) -> str:
        return "data:image/png;base64," + base64.b64encode((folder / name).read_bytes()).decode()

    light, dark = data(shown["file"]), data(shown["file"].removesuffix(".png") + ".dark.png")
    return (
        f"<figure><picture><source srcset='{dark}' media='(prefers-color-scheme: dark)'>"
        f"<img src='{light}' alt='{html.escape(shown['alt'], quote=True)}'></picture>"
        f"<figcaption>{html.escape(shown['caption'])}</figcaption></figure>"
    )


def _table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    head = "".join(f"<th scope='col'>{html.escape(c)}</th>" for c in columns)
    lines = "".join("<tr>" + "".join(f"<td>{html.escape(str(v))}</td>" for v in row) + "</tr>" for row in rows)
    return (
        f"<div class='scroll'><table><caption>{html.escape(caption)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit("usage: python -m ministeer.lab.report results/<model> [evidence.json of other training seeds ...]")
    folder = Path(sys.argv[1])
    try:
        done = load_results(folder)
        evidence = {
            "this training": {claim: e for experiment in done for claim, e in experiment.get("evidence", {}).items()}
        }
        architecture = [e["page"]["tables"][0]["rows"][0] for e in done if e["name"] == "10_architecture"]
        others = {Path(name).stem: read_json(Path(name)) for name in sys.argv[2:]}
        if wrong := [name for name, other in others.items() if "this training" not in other]:
            raise ValueError(f"expected files that this command wrote as evidence.json, got {', '.join(wrong)}")
        found = verdicts(evidence | {name: other["this training"] for name, other in others.items()})
    except (ValueError, OSError, KeyError) as error:
        sys.exit(f"report: {error}")
    write_text(folder / "evidence.json", json.dumps(evidence | {"architecture": architecture}) + "\n")
    write_text(folder / "summary.md", summary(done[0]["model"], found, done[0]["quick"]))
    write_text(folder / "report.html", report(done, folder, found))
    for verdict in found:
        print(f"{verdict.word:>14}  {verdict.claim.sentence}")
    print(f"report: {folder / 'report.html'}, {folder / 'summary.md'}")


if __name__ == "__main__":
    main()
