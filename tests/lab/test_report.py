"""The report: one file that needs no other, with everything the experiments found and nothing they did not."""

import json
import re
from pathlib import Path

import pytest

from ministeer.lab import figures, report

pytest.importorskip("matplotlib")


def results(folder: Path, name: str = "01_test", **page: object) -> Path:
    folder.mkdir(exist_ok=True)
    shown = figures.lines(
        folder / name, figures.tidy([[0, 1, 2], [0, 0, 0]], "effect", vector=["honesty", "random 0"], layer=[0, 1, 2]),
        x="layer", y="effect", by="vector", xlabel="layer", ylabel="nats", caption="A <caption>.",
    )  # fmt: skip
    everything = {
        "name": name, "model": "nano", "weights": "abc", "dtype": "float32", "device": "cpu", "took": 1.26,
        "quick": False, "peak": 0.57,
        "page": {
            "title": "A title", "question": "What?", "protocol": "So.", "finding": "Up by 2 < 3.", "command": "python x.py",
            "receipt": "pre 1: 3 of 4 positions",
            "figures": [shown], "tables": [{"caption": "T", "columns": ["a"], "rows": [["<script>"], [3]]}],
        } | page,
    }  # fmt: skip
    (folder / f"{name}.json").write_text(json.dumps(everything))
    return folder


def page(folder: Path) -> str:
    return report.report(report.load_results(folder), folder, [])


def test_it_is_one_file_that_loads_nothing(tmp_path):
    shown = page(results(tmp_path / "nano"))
    assert "<svg role='img' aria-label='nats against layer: honesty, random 0.'" in shown and ">layer</text>" in shown
    assert not re.findall(r"""(?:src|srcset|href)=['"][^'"#]""", shown)
    assert "@import" not in shown and "url(" not in shown.replace("url(#", "")


def test_it_shows_what_was_found_and_escapes_it(tmp_path):
    shown = page(results(tmp_path / "nano"))
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
        "0.57",
    ):
        assert text in shown
    assert "<script" not in shown
    assert "no evidence about language models" in shown  # nano is a model organism


def test_experiments_are_in_order_and_unfinished_ones_are_left_out(tmp_path):
    folder = results(results(tmp_path / "nano", "02_b", title="Second"), "01_a", title="First")
    (folder / "03_c.json").write_text(json.dumps({"name": "03_c", "page": {}}))
    shown = page(folder)
    assert shown.index("First") < shown.index("Second")
    assert "03_c" not in shown


def test_after_the_first_screen_everything_folds(tmp_path):
    shown = page(results(results(tmp_path / "nano", "02_b"), "01_a"))
    first, *rest = re.split(r"<details>", shown)
    assert "What?" not in first and first.count("Not measured yet") == 1
    assert [name for name in ("01_a", "02_b") if f"id='{name}'" in shown] == ["01_a", "02_b"]
    outside = re.sub(r"<details>(?:(?!</?details).)*</details>", "", shown, flags=re.DOTALL)  # the inner ones
    outside = re.sub(r"<details>(?:(?!</?details).)*</details>", "", outside, flags=re.DOTALL)
    assert "<svg" not in outside and "So." not in outside and "<script" not in outside and len(rest) > 4


def test_steered_texts_are_on_the_first_screen_before_the_table(tmp_path):
    samples = {"caption": "C.", "columns": ["prompt", "-1: 12 %"], "rows": [["I feel", "sad"]]}
    folder = results(results(tmp_path / "nano"), "02_b", samples=samples)
    shown = report.report(report.load_results(folder), folder, report.verdicts(EVIDENCE))
    assert (
        shown.index("class='forest'") < shown.index("-1: 12 %") < shown.index("<h2>Verdicts") < shown.index("<details>")
    )


def test_a_page_of_what_is_there_says_what_is_still_to_come(tmp_path):
    folder = results(tmp_path / "nano")
    shown = report.report(report.load_results(folder), folder, report.verdicts(EVIDENCE))
    missing = re.search("Not measured yet: (.*?)</p>", shown)[1].split("; ")
    assert len(missing) == len(report.CLAIMS) - 2 and "Value steering works on plain prompts" not in missing


def test_a_quick_run_says_so(tmp_path):
    folder = results(tmp_path / "nano-quick")
    assert "one item in four" not in page(folder)
    whole = (folder / "01_test.json").read_text()
    (folder / "01_test.json").write_text(json.dumps(json.loads(whole) | {"quick": True}))
    assert "one item in four" in page(folder) and "one item in four" in report.summary("nano", [], quick=True)


@pytest.mark.parametrize("key", ["weights", "dtype", "quick"])
def test_experiments_on_different_models_make_no_page(tmp_path, key):
    folder = results(results(tmp_path / "nano", "01_a"), "02_b")
    other = json.loads((folder / "02_b.json").read_text()) | {key: "other"}
    (folder / "02_b.json").write_text(json.dumps(other))
    with pytest.raises(ValueError, match=f"expected experiments of one {key}, got .*other.*make reproduce"):
        report.load_results(folder)


def test_no_results_is_an_error_that_says_what_to_run(tmp_path):
    with pytest.raises(ValueError, match="got none; run `make reproduce` first"):
        report.load_results(tmp_path)


EVIDENCE = {
    "values": {
        "extraction 0": {"values": [1.0, 1.1, 0.9, 1.2] * 9, "controls": [0.0] * 199},
        "extraction 1": {"values": [1.0, 1.3, 0.9, 1.2] * 9, "controls": [0.0] * 199},
    },
    "bias_erased": {"extraction 0": {"values": [0.0, 0.01] * 9}},
}
OTHER = {"values": {"extraction 0": {"values": [-0.5, -0.2, -0.1] * 9}}}


def test_verdicts_come_first_with_effect_and_interval(tmp_path):
    folder = results(tmp_path / "nano")
    found = report.verdicts(EVIDENCE)
    assert [(v.claim.key, v.word) for v in found] == [("values", "supported"), ("bias_erased", "not supported")]
    shown = report.report(report.load_results(folder), folder, found)
    assert shown.index("Value steering works on plain prompts") < shown.index("A title")
    assert shown.index("Value steering works on plain prompts") < shown.index("<details")
    assert re.search(r"<td>supported</td><td>\+1\.075 \[\+[\d.]+, \+[\d.]+\] nats", shown)
    assert "+1.050 to +1.100, 2 seeds" in shown


def test_seeds_of_training_are_shown_beside_it_each_alone(tmp_path):
    folder = results(tmp_path / "nano")
    found, others = report.verdicts(EVIDENCE), {"seed 1": report.verdicts(OTHER)}
    columns, rows = report.by_training({"this training": found, **others})
    assert columns[1:] == ["this training", "seed 1"]
    assert rows[0][1:] == ["supported (+1.075)", "not supported (-0.267)"] and rows[1][2] == ""
    for shown in (
        report.report(report.load_results(folder), folder, found, others),
        report.summary("nano", found, others=others),
    ):
        assert "Each seed of training alone" in shown and "not supported (-0.267)" in shown and "2 seeds" in shown
    assert "Each seed of training" not in report.summary("nano", found)


@pytest.mark.parametrize("of", ["these claims", "others"])
def test_evidence_for_other_claims_is_left_out_and_said_to_be(tmp_path, monkeypatch, capsys, of):
    folder = results(tmp_path / "nano")
    whole = json.loads((folder / "01_test.json").read_text()) | {"evidence": EVIDENCE}
    (folder / "01_test.json").write_text(json.dumps(whole))
    claims = {"claims": report.frozen()} if of == "these claims" else {}
    (tmp_path / "seed-1.json").write_text(json.dumps({"this training": OTHER, **claims}))
    monkeypatch.setattr("sys.argv", ["report", str(folder), str(tmp_path / "seed-1.json")])
    report.main()
    summary, said = (folder / "summary.md").read_text(), capsys.readouterr().out
    assert ("seed-1" in summary) == bool(claims) != ("seed-1 is left out" in said)


def test_the_summary_says_the_same_as_the_page():
    found = report.verdicts(EVIDENCE)
    text = report.summary("nano", found)
    assert text.index("no evidence about language models") < text.index("Value steering works")
    for row in report.verdict_rows(found):
        assert all(cell in text for cell in row)


def test_the_command_writes_the_page_the_plot_the_summary_and_the_evidence(tmp_path, monkeypatch, capsys):
    folder = results(tmp_path / "nano")
    whole = json.loads((folder / "01_test.json").read_text()) | {"evidence": EVIDENCE}
    (folder / "01_test.json").write_text(json.dumps(whole))
    monkeypatch.setattr("sys.argv", ["report", str(folder)])
    report.main()
    assert {"report.html", "forest.svg", "summary.md", "evidence.json"} <= {path.name for path in folder.iterdir()}
    assert json.loads((folder / "evidence.json").read_text())["this training"] == EVIDENCE
    assert "supported  Value steering works" in capsys.readouterr().out
