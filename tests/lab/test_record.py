"""What is kept of a run: its report as it is, and one table of all models; nothing of another's claims."""

import json
from pathlib import Path

import pytest

from ministeer.lab import claims, record, report


def run(folder: Path, effect: float, frozen: str | None = None) -> Path:
    folder.mkdir(parents=True)
    evidence = claims.evidence({0: [effect + i / 100 for i in range(-20, 21)]}, range(41))
    kept = {"this training": {"structure_other": evidence}, "claims": frozen or claims.frozen()}
    (folder / "evidence.json").write_text(json.dumps(kept))
    for name in record.KEPT:
        if name != "evidence.json":
            (folder / name).write_text(f"<!doctype html>{folder.name}: {name}")
    (folder / "04_figure.svg").write_text("<svg/>")
    (folder / "04_experiment.json").write_text("{}")
    (folder / "vectors").mkdir()
    return folder


def test_a_run_is_kept_beside_the_others(tmp_path: Path) -> None:
    kept = tmp_path / "docs"
    record.record(run(tmp_path / "runs" / "small", 0.0), kept)
    table = record.record(run(tmp_path / "runs" / "large", 0.9), kept)
    head, _, row = table.split("\n")
    assert head == "| claim | [large](large/summary.md) | [small](small/summary.md) |"
    assert row.startswith("| The effect falls with another") and "not supported" in row.split("|")[3]
    assert "+0.900 [" in row.split("|")[2] and row.count("|") == 4
    assert table in (kept / record.TABLE).read_text()
    assert sorted(path.name for path in (kept / "small").iterdir()) == sorted(
        [*record.KEPT, "04_figure.svg"]
    )  # no vectors, no cells
    assert (kept / "small" / "report.html").read_text() == "<!doctype html>small: report.html"


def test_of_public_behaviours_the_atlas_and_its_rows_are_kept_too(tmp_path: Path) -> None:
    folder = run(tmp_path / "runs" / "small", 0.0)
    for name in record.ALSO:
        (folder / name).write_text(name)
    record.record(folder, tmp_path / "docs")
    assert all((tmp_path / "docs" / "small" / name).read_text() == name for name in record.ALSO)


def test_another_s_claims_and_a_run_without_a_report_are_refused(tmp_path: Path) -> None:
    kept = tmp_path / "docs"
    with pytest.raises(ValueError, match="for the claims .*, got another's; make reproduce it again"):
        record.record(run(tmp_path / "old", 0.9, frozen="abc"), kept)
    unfinished = run(tmp_path / "unfinished", 0.9)
    (unfinished / "report.html").unlink()
    with pytest.raises(ValueError, match="got none of report.html; make reproduce it first"):
        record.record(unfinished, kept)
    assert not kept.exists()


def test_a_run_kept_for_older_claims_leaves_the_table(tmp_path: Path) -> None:
    kept = tmp_path / "docs"
    run(kept / "old", 0.9, frozen="abc")
    assert "old" not in record.record(run(tmp_path / "new", 0.9), kept)


def test_what_is_kept_in_the_repository_is_of_these_claims() -> None:
    folder = Path(__file__).parents[2] / record.FOLDER
    for path in (*folder.glob("*/evidence.json"), *folder.glob("atlas/*/evidence.json")):
        kept = json.loads(path.read_text())
        assert kept["claims"] == claims.frozen(), f"make reproduce and record {path.parent.name}"
        assert kept.get("beyond", claims.frozen(claims.BEYOND)) == claims.frozen(claims.BEYOND), (
            "make beyond, and record"
        )
        found = report.verdicts(kept["this training"])
        assert all(f"**{v.claim.sentence}**: {v.word}" in (path.parent / "summary.md").read_text() for v in found)
