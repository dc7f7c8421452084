"""The benchmark's own parts: both sides compute the same, a side that cannot is a cell of the table, a missed target is a word."""

import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import bench
import jobs
import sides
import table

from ministeer.llama import LlamaConfig
from ministeer.model import GPT2Config

CONFIGS = {
    "gpt2": GPT2Config(n_embd=64, n_layer=3, n_head=4),
    "llama": LlamaConfig(width=64, inner=96, n_layer=3, n_head=4, n_kv_head=2, head_size=16),
}


@pytest.fixture(scope="module", params=CONFIGS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.no_grad():
        return jobs.checkpoint(CONFIGS[request.param], tmp_path_factory.mktemp("bench") / request.param)


def test_both_sides_compute_the_same(folder: Path) -> None:
    ours, theirs = sides.Ministeer(str(folder), "float32"), sides.Transformers(str(folder), "float32")
    work = jobs.Bench(CONFIGS[folder.name], "float32", {})
    steered = {"layer": 1, "coeff": 30.0, "v": work.v}
    for rows in (1, 3):
        ids = work.ids(rows, 8)
        assert ours.decode(ids, 4, **steered) == theirs.decode(ids, 4, **steered)
        assert ours.decode(ids, 4, **steered) != ours.decode(ids, 4, **(steered | {"coeff": 0.0}))
    ids, cells = work.ids(2, 8), [(1, -3.0), (1, 5.0), (2, -3.0), (2, 5.0)]
    grid = torch.tensor(ours.grid(ids, [1, 2], [-3.0, 5.0], work.v))
    torch.testing.assert_close(grid, torch.tensor(theirs.cells(ids, cells, work.v)), rtol=1e-3, atol=1e-5)
    heads = [(0, 1), (2, 3)]
    effects = torch.tensor(ours.ablate(ids, [5, 6], heads))
    assert bool(effects.any())
    torch.testing.assert_close(effects, torch.tensor(theirs.ablate(ids, [5, 6], heads)), rtol=0.01, atol=1e-9)
    pairs = [[row, [*row[:-1], 7]] for row in work.ids(5, 6)]
    found = [torch.tensor(side.extract(pairs, 4)) for side in (ours, theirs)]
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-6)


def test_each_side_lives_in_a_process_and_one_that_cannot_says_why(folder: Path) -> None:
    with jobs.working(folder, "float32", 1, [table.OURS, "a library that nobody has"]) as workers:
        ours = workers[table.OURS].ask("decode", ids=[[1, 2]], new=1, layer=1, coeff=1.0, v=[0.0] * 64)
        assert ours["seconds"] > 0
        assert ours["value"][0][:2] == [1, 2]
        assert workers[table.OURS].ask("cells")["error"] == "not offered"
        assert "make bench-peers" in workers["a library that nobody has"].ask("decode")["error"]
    assert workers[table.OURS].process.returncode is not None, "it ends with the block"


def test_the_jobs_of_a_gpu_are_rows_with_limits(tmp_path: Path) -> None:
    """On a CPU here: what differs on a GPU is where the tensors lie."""
    config = GPT2Config(n_embd=64, n_layer=8, n_head=4)
    rows: list[table.Row] = []
    with torch.no_grad():
        bench.on_a_gpu(config, jobs.checkpoint(config, tmp_path / "tiny"), 1, "cpu", rows.append)
    assert [row.job.partition(",")[0] for row in rows] == [
        "steered decoding", "steered decoding", "contrastive extraction", "sweep", "head mediation",
    ]  # fmt: skip
    assert not any(side.why for row in rows for side in row.sides.values())
    assert all(row.limit for row in rows[:4])
    assert rows[3].at_most == 1.0


def test_a_side_that_computes_something_else_stops_the_run() -> None:
    same, other = table.Side([1.0], value=[[1.0, 2.0]]), table.Side([1.0], value=[[1.0, 2.1]])
    jobs.agree({table.OURS: same, table.THEIRS: same}, 1e-3)
    with pytest.raises(RuntimeError, match="do not compute the same"):
        jobs.agree({table.OURS: same, table.THEIRS: other}, 1e-3)
    jobs.agree({table.OURS: same, table.THEIRS: table.Side(why="not offered")}, 1e-3)


def test_a_row_names_what_was_missed_and_what_was_not_run() -> None:
    made = {
        table.OURS: table.Side([2.0, 1.0, 3.0]),
        table.THEIRS: table.Side([4.0]),
        "else": table.Side(why="not offered"),
    }
    row = table.Row("job", "float32", made, "", target=2.0, limit=1.0)
    first, second = row.against()
    assert "2 times: met" in first
    assert "50%" in first
    assert "not run: not offered" in second
    assert row.beside([*made, "unknown"]) == ["job", "2.00 s", "4.00 s, 2.0 times", "not offered", "not offered"]
    assert "2.5 times: **missed**" in table.Row("job", "float32", made, "", target=2.5).against()[0]
    faster = table.Row("job", "float32", made, "", work=10.0, unit="tokens/s", limit=10.0).against()[0]
    assert "5.00 (3.33 to 10.0)" in faster
    assert "50%" in faster
