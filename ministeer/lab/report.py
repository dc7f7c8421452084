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

from ministeer.files import read_json, write_text
from ministeer.lab import page
from ministeer.lab.claims import CLAIMS, Verdict, judge, word

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
    return [
        [
            v.claim.sentence, v.word, f"{page.number(v)} {v.claim.unit}" if page.number(v) else page.reason(v), f"{v.claim.above:g}",
            v.claim.effect, _seeds(v), v.claim.experiment,
        ] for v in found
    ]  # fmt: skip


def _seeds(verdict: Verdict) -> str:
    means = [mean for mean, _, _ in verdict.effects.values()]
    training = {name.rpartition(", ")[0] for name in verdict.effects}
    count = f"{len(means)} seeds" + (f", of {len(training)} trainings" if len(training) > 1 else "")
    return f"{min(means):+.3f} to {max(means):+.3f}, {count}" if page.number(verdict) else count


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
    """The HTML page of finished experiments: verdicts and steered texts first, then a fold for each experiment, figures inside."""
    first = done[0]
    missing = [claim for claim in CLAIMS if claim.key not in {v.claim.key for v in found}]
    body = [f"<p>{html.escape(INTRODUCTION.get(first['model'], OTHERWISE.format(model=first['model'])))}</p>"]
    if first["quick"]:
        body.append(f"<p>{html.escape(QUICKLY)}</p>")
    body += ["<h2>The claims</h2>", page.forest(found, missing)]
    for shown in [e["page"]["samples"] for e in done if e["page"].get("samples")][:1]:
        body += ["<h2>Steered text</h2>", page.samples(shown)]
    if found:
        rows = verdict_rows(found)
        columns, words = by_training(found)
        body += ["<h2>Verdicts</h2>", page.table(COLUMNS[:4], [row[:4] for row in rows])]
        body.append(page.fold("What the words mean", f"<p>{html.escape(EXPLAINED)}</p>"))
        body.append(
            page.fold(
                "What each verdict rests on", page.table([COLUMNS[0], *COLUMNS[4:]], [[r[0], *r[4:]] for r in rows])
            )
        )
        if len(columns) > 2:
            body.append(page.fold("Each seed of training alone", page.table(columns, words)))
    body.append("<h2>The experiments</h2>")
    body += [page.section(folder, experiment) for experiment in done]
    names = ["experiment", "model", "weights", "dtype", "device", "seconds", "peak memory (GiB)"]
    settings = [
        [*(e[name] for name in names[:1] + names[1:5]), f"{sum(c['seconds'] for c in e['cells']):.1f}", e["peak"]]
        for e in ({**e, "experiment": e["name"]} for e in done)
    ]
    told = "What each experiment was measured on; every cell's settings and rows are in the JSON file of its name."
    body.append(page.fold("Settings, times and memory", page.table(names, settings, told)))
    return page.document(f"Steering {first['model']}", body)


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
    write_text(folder / "forest.svg", page.forest_svg(found))
    write_text(folder / "report.html", report(done, folder, found))
    for verdict in found:
        print(f"{verdict.word:>14}  {verdict.claim.sentence}")
    print(f"report: {folder / 'report.html'}, {folder / 'summary.md'}")


if __name__ == "__main__":
    main()
