"""Keep a run: its page, verdicts, evidence and figures in docs/results/<model>, and of all runs kept there one table, the models side by side.

    python -m ministeer.lab.record results/smollm2-135m-instruct     (`make record MODEL=...`, after `make reproduce` of it)

What is measured of public behaviours, in results/atlas/<model>, is kept in docs/results/atlas/<model> the same way.

Vectors and cells stay in results/: they are large, and a run makes them again.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ministeer.files import make_folder, read_json, write_text
from ministeer.lab import page
from ministeer.lab.claims import Verdict, frozen
from ministeer.lab.experiment import Experiment
from ministeer.lab.report import by_training, verdicts

KEPT = ("report.html", "summary.md", "evidence.json", "forest.svg")
ALSO = ("atlas.html", "rows.json")  # of a run of public behaviours
FIGURES = "[0-9][0-9]_*.svg"
FOLDER = Path("docs/results")
WEIGHTS = Path(__file__).parents[2] / "weights"
TABLE = "models.md"
TOLD = """# Models side by side

Each claim's verdict and effect, with an interval that holds for all claims together; the unit and the number to exceed stand in each model's
summary. A result for a model is a result for that model: nano is a model organism, SmolLM2-135M-Instruct is small and rounded to 4 bits.
GPT-2, from gpt2 to gpt2-xl: not run here, the weights were not at hand.
"""


def side_by_side(found: Mapping[str, Sequence[Verdict]]) -> str:
    """The verdicts of several models as a Markdown table, a row a claim and a column a model."""
    _, rows = by_training(found, lambda v: f"{v.word} {page.number(v)}".strip())
    head = ["claim", *(f"[{model}]({model}/summary.md)" for model in found)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows])


def record(run: Path, folder: Path) -> str:
    """Copy what is kept of a run into the folder, and write the table of all that lie there; returns it.

    Raises `ValueError` for a run that has no report, and for one of other claims than these.
    """
    missing = [name for name in KEPT if not (run / name).is_file()]
    if missing:
        raise ValueError(
            f"expected a run with its report in {run}, got none of {', '.join(missing)}; make reproduce it first"
        )
    if read_json(run / "evidence.json").get("claims") != frozen():
        raise ValueError(f"{run}: expected a run for the claims {frozen()[:8]}, got another's; make reproduce it again")
    make_folder(folder / run.name)
    also = [name for name in ALSO if (run / name).is_file()]
    for name in (*KEPT, *also, *(figure.name for figure in run.glob(FIGURES))):
        write_text(folder / run.name / name, (run / name).read_text(encoding="utf-8"))
    kept = {path.parent.name: read_json(path) for path in sorted(folder.glob("*/evidence.json"))}
    table = side_by_side({model: verdicts(e["this training"]) for model, e in kept.items() if e["claims"] == frozen()})
    write_text(folder / TABLE, f"{TOLD}\n{table}\n")
    return table


def models_beside(lab: Experiment, mine: list[Any], columns: Sequence[str]) -> list[list[Any]]:
    """A row of an experiment's first table for this model, then one for each other model whose results lie in the same folder, and one for
    each other seed and size of training whose evidence lies beside the weights. Those with other columns or claims are left out."""
    rows = [mine]
    for path in sorted(lab.folder.parent.glob(f"*/{lab.path.name}")):
        page = read_json(path)["page"] if path != lab.path else None
        rows += [page["tables"][0]["rows"][0]] if page and page["tables"][0]["columns"] == list(columns) else []
    beside = WEIGHTS / lab.model_name
    for path in [*sorted(beside.glob("seed-*.json")), *sorted(beside.glob("size-*.json"))]:
        kept = read_json(path)
        rows += kept["architecture"] if kept.get("claims") == frozen() else []
    return list({row[0]: row for row in rows}.values())  # one that was trained here may also be kept


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python -m ministeer.lab.record results/<model>")
    try:
        run = Path(sys.argv[1])
        print(record(run, FOLDER / "atlas" if run.parent.name == "atlas" else FOLDER))
    except (ValueError, OSError, KeyError) as error:
        sys.exit(f"record: {error}")


if __name__ == "__main__":
    main()
