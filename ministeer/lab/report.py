"""Results -> tables, verdicts, and one self-contained HTML page.

    python -m ministeer.lab.report results/nano [evidence.json ...]

writes results/nano/report.html, summary.md (the verdicts, for a terminal) and evidence.json (what the verdicts rest on). Other
evidence.json files are of the same model trained from other seeds: a verdict that changes with the seed is inconclusive.
"""

from __future__ import annotations

import html
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ministeer.files import read_json, read_text, write_text
from ministeer.lab.claims import CLAIMS, Verdict, judge, word

PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title><style>
:root {{ color-scheme: light dark; --ink: #1b1b1b; --ground: #fff; --soft: #f3f3f1; --line: #d5d5d2; --link: #00629b; }}
@media (prefers-color-scheme: dark) {{
 :root {{ --ink: #e8e8e8; --ground: #16181c; --soft: #22252b; --line: #3b3f47; --link: #7cc4f4; }} }}
body {{ font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--ground);
 max-width: 52rem; margin: 0 auto; padding: 1rem; overflow-wrap: break-word; }}
h1, h2 {{ line-height: 1.2; }} h2 {{ margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 1.5rem; }}
a {{ color: var(--link); }} figure svg {{ width: 100%; max-width: 34rem; height: auto; }} figure {{ margin: 1.5rem 0; }}
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
    """The SVG itself, so that the page needs no other file; wider than a phone it scrolls rather than shrinks."""
    svg = read_text(folder / shown["file"])
    width = float(svg.partition('width="')[2].partition("pt")[0])
    label = html.escape(shown["alt"], quote=True)
    svg = svg.replace("<svg ", f"<svg role='img' aria-label='{label}' style='min-width:{min(width, 330):g}px' ", 1)
    return f"<figure><div class='scroll'>{svg}</div><figcaption>{html.escape(shown['caption'])}</figcaption></figure>"


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
