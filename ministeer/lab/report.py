"""Results -> tables, verdicts, and one self-contained HTML page.

    python -m ministeer.lab.report results/nano [evidence.json ...]

writes results/nano/report.html, summary.md (the verdicts, for a terminal) and evidence.json (what the verdicts rest on). Other
evidence.json files are of the same model trained from other seeds: what they say of the same claims is shown beside it.
"""

from __future__ import annotations

import html
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ministeer.files import read_json, write_text
from ministeer.lab import page
from ministeer.lab.claims import BEYOND, CLAIMS, Verdict, frozen, judge

KNOWN = (*CLAIMS, *BEYOND)
INTRODUCTION = {
    "nano": (
        "nano is a model organism: a small GPT-2 trained on text that a program wrote, so that everything it can do is "
        "known. Its results show the mechanism and test the code. They are no evidence about language models: that "
        "comes from the same commands with a real model."
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


def verdicts(evidence: dict[str, Any]) -> list[Verdict]:
    """What the evidence of one training, `{claim: {seed of extraction: ...}}`, says of each claim that it is about."""
    return [judge(claim, evidence[claim.key]) for claim in KNOWN if evidence.get(claim.key)]


def with_mean(verdict: Verdict) -> str:
    return verdict.word + (f" ({verdict.effect[0]:+.3f})" if verdict.effects else "")


def by_training(
    found: Mapping[str, Sequence[Verdict]], said: Callable[[Verdict], str] = with_mean
) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of a table: of each claim what is said of its verdict in each seed of training, or model, alone."""
    words = {training: {v.claim: said(v) for v in of} for training, of in found.items()}
    rows = [[claim.sentence, *(of.get(claim, "") for of in words.values())] for claim in KNOWN]
    return [COLUMNS[0], *found], [row for row in rows if any(row[1:])]


COLUMNS = [
    "claim",
    "verdict",
    "effect",
    "must exceed",
    "why",
    "what is averaged",
    "range over seeds",
    "experiment",
]


def verdict_rows(found: Sequence[Verdict]) -> list[list[str]]:
    """The verdict table, a row a claim, as `COLUMNS` says; intervals hold for all claims together."""
    return [
        [
            v.claim.sentence, v.word, f"{page.number(v)} {v.claim.unit}" if page.number(v) else "", f"{v.claim.above:g}",
            v.reason, v.claim.effect, _seeds(v), v.claim.experiment,
        ] for v in found
    ]  # fmt: skip


def _seeds(verdict: Verdict) -> str:
    means = [mean for mean, _, _ in verdict.seeds.values()]
    count = f"{len(means)} seed{'s' if len(means) > 1 else ''}"
    return f"{min(means):+.3f} to {max(means):+.3f}, {count}" if page.number(verdict) else ""


EXPLAINED = (
    "Each claim is tested by an effect and a number it must exceed. Supported: the whole interval, over items and seeds of extraction together, lies above the number, and of the random "
    "vectors, where a claim has them, at most a hundredth does as much. Not supported: none of the interval does, or more than a twentieth of the random vectors do as much. Cannot be "
    "told here: nothing to steer, too few items, or only one outcome possible. Inconclusive: all else. "
    f"Intervals are at 1 - 0.05 / {len(CLAIMS)}, so that they hold for all claims of the paper together. Claims and rules were fixed before the run: {frozen()}, and of those beyond the paper {frozen(BEYOND)}."
)


Trainings = Mapping[str, Sequence[Verdict]]  # the verdicts of the same model trained from other seeds


def summary(model: str, found: Sequence[Verdict], quick: bool = False, others: Trainings = MappingProxyType({})) -> str:
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
    for claim, verdict, effect, above, why, averaged, seeds, experiment in verdict_rows(found):
        lines += [
            f"- **{claim}**: {verdict}, as {why}",
            f"  {'; '.join(part for part in (effect, f'must exceed {above}', seeds) if part)}",
            f"  ({averaged}; {experiment})",
        ]
    columns, rows = by_training({"this training": found, **others})
    if len(columns) > 2:
        lines += ["", f"Each seed of training alone: {', '.join(columns[1:])}.", ""]
        lines += [f"- {claim}: {'; '.join(words)}" for claim, *words in rows]
    return "\n".join(lines) + "\n"


def report(
    done: Sequence[dict[str, Any]], folder: Path, found: Sequence[Verdict], others: Trainings = MappingProxyType({})
) -> str:
    """The HTML page of finished experiments: verdicts and steered texts first, then a fold for each experiment, figures inside."""
    first = done[0]
    of = BEYOND if found and not any(v.claim in CLAIMS for v in found) else CLAIMS
    missing = [claim for claim in of if claim.key not in {v.claim.key for v in found}]
    body = [f"<p>{html.escape(INTRODUCTION.get(first['model'], OTHERWISE.format(model=first['model'])))}</p>"]
    if first["quick"]:
        body.append(f"<p>{html.escape(QUICKLY)}</p>")
    body += ["<h2>The claims</h2>", page.forest(found, missing)]
    samples = [e["page"]["samples"] for e in done if e["page"].get("samples")]
    for shown in samples[-1:]:  # measured ones, once they are there, and not those of the first look, which are picked
        body += ["<h2>Steered text</h2>", page.samples(shown)]
    if found:
        rows = verdict_rows(found)
        columns, words = by_training({"this training": found, **others})
        body += ["<h2>Verdicts</h2>", page.table(COLUMNS[:5], [row[:5] for row in rows])]
        body.append(page.fold("What the words mean", f"<p>{html.escape(EXPLAINED)}</p>"))
        body.append(
            page.fold(
                "What each verdict rests on", page.table([COLUMNS[0], *COLUMNS[5:]], [[r[0], *r[5:]] for r in rows])
            )
        )
        if len(columns) > 2:
            body.append(page.fold("Each seed of training alone", page.table(columns, words)))
    body.append("<h2>The experiments</h2>")
    body += [page.section(folder, experiment) for experiment in done]
    names = ["experiment", "model", "weights", "dtype", "device", "seconds", "peak memory (GiB)"]
    settings = [
        [*(e[name] for name in names[:5]), f"{e['took']:.1f}", e["peak"]]
        for e in ({**e, "experiment": e["name"]} for e in done)
    ]
    told = (
        "What each experiment was measured on; every cell's settings and rows are in cells/, in the file of its name."
    )
    body.append(page.fold("Settings, times and memory", page.table(names, settings, told)))
    return page.document(f"Steering {first['model']}", body)


def main() -> None:
    usage = (
        "ministeer report results/<model> [evidence.json of other training seeds ...]: write the page of a run again"
    )
    if sys.argv[1:] in (["-h"], ["--help"]):
        print(usage)
        return
    if len(sys.argv) < 2:
        sys.exit(f"ministeer: expected the folder of a run, got none; write {usage}")
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
        found = verdicts(evidence["this training"])
        same = {
            name: verdicts(other["this training"]) for name, other in others.items() if other.get("claims") == frozen()
        }
    except (ValueError, OSError, KeyError) as error:
        sys.exit(f"ministeer: {error}")
    rules = {"claims": frozen(), "beyond": frozen(BEYOND)}
    write_text(folder / "evidence.json", json.dumps(evidence | rules | {"architecture": architecture}) + "\n")
    write_text(folder / "summary.md", summary(done[0]["model"], found, done[0]["quick"], same))
    write_text(folder / "forest.svg", page.forest_svg(found))
    write_text(folder / "report.html", report(done, folder, found, same))
    for name in others.keys() - same.keys():
        print(f"report: {name} is left out, which was measured for other claims than {frozen()[:8]}")
    for verdict in found:
        print(f"{verdict.word:>19}  {verdict.claim.sentence}")
    print(f"report: {folder / 'report.html'}, {folder / 'summary.md'}")


if __name__ == "__main__":
    main()
