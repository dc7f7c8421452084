"""Whole files or none, whoever writes at the same time and whatever the disk says; and what lies there in place of a file."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from disk import full, read_only
from reference import both

from ministeer import checkpoint, files, formats
from ministeer.lab.experiment import Experiment
from ministeer.model_files import find
from ministeer.provenance import Provenance
from ministeer.sweep import sweep
from ministeer.tokenizer import BESIDE, Tokenizer
from ministeer.vectors import SteeringVector

MODEL = both(seed=1)["gpt2"].ours
ROOT = Path(__file__).parents[1]
TOKENIZER = Tokenizer.from_file(ROOT / "weights" / "nano" / "vocab.tiktoken")
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 548105171\n"
PAGE = b"\n<!DOCTYPE html>\n<html><head><title>Entry not found</title></head></html>\n"


def vector(value: float = 1.0) -> SteeringVector:
    width = MODEL.config.width
    return SteeringVector({("pre", 2): torch.full((width,), value)}, Provenance("m", "a", "d", "t", "float32"))


def scores(path: Path) -> None:
    sweep(MODEL, [[1, 2]], vectors={"v": vector()}, layers=[2], coeffs=[1.0], score=[[[1], [2]]], path=path)


WRITERS: dict[str, Callable[[Path], Any]] = {
    "a vector": lambda folder: vector().save(folder / "v.safetensors"),
    "a control vector": lambda folder: formats.save_gguf(vector(), folder / "v.gguf"),
    "a steer file": lambda folder: formats.save_lm_eval(vector(), ("pre", 2), folder / "v.pt"),
    "a model": lambda folder: checkpoint.save_model(MODEL, folder),
    "a model in a new folder": lambda folder: checkpoint.save_model(MODEL, folder / "new" / "one"),
    "a tokenizer": lambda folder: TOKENIZER.save(folder),
    "a sweep": lambda folder: scores(folder / "sweep.jsonl"),
}


@pytest.mark.parametrize("what", WRITERS)
def test_a_place_that_cannot_be_written_is_one_kind_of_error_in_one_sentence(what: str, tmp_path: Path) -> None:
    if what == "a control vector":
        pytest.importorskip("gguf", reason="the package gguf is not installed")
    folder = tmp_path / "folder"
    folder.mkdir()
    WRITERS[what](folder)  # imports what it needs while it may read everything
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    said = "expected a place that can be written, got '{}'; free some space or get the right to write there, or give another path"
    with (
        read_only(folder),
        pytest.raises(PermissionError, match=re.escape(said.format("Permission denied"))) as refused,
    ):
        WRITERS[what](folder)
    assert list(folder.iterdir()) == []
    with full(), pytest.raises(OSError, match=re.escape(said.format("File too large"))) as cut:
        WRITERS[what](folder)
    left = [path for path in folder.rglob("*") if path.is_file()]
    assert all(str(error.value).startswith(str(folder)) for error in (refused, cut))
    assert all(error.value.errno is None and "\n" not in str(error.value) for error in (refused, cut))
    assert left == [] or (what == "a sweep" and files.read_lines(left[0]) == [])
    WRITERS[what](folder)
    (
        folder / "usual"
    ).touch()  # whoever may read other files may read these, whatever the package that writes them thinks
    assert {path.stat().st_mode for path in folder.rglob("*") if path.is_file()} == {(folder / "usual").stat().st_mode}


def test_several_that_write_to_one_path_leave_one_of_them_whole(tmp_path: Path) -> None:
    path, failed = tmp_path / "v.safetensors", []

    def save(value: float) -> None:
        try:
            for _ in range(20):
                vector(value).save(path)
                assert len({*SteeringVector.load(path)["pre", 2].tolist()}) == 1
        except BaseException as error:  # noqa: BLE001 - of a thread, which would not tell
            failed.append(error)

    threads = [threading.Thread(target=save, args=(float(n),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert os.listdir(tmp_path) == ["v.safetensors"]


def test_what_a_killed_process_left_goes_with_the_next_write_and_nothing_else_does(tmp_path: Path) -> None:
    old, new, other, own = (
        tmp_path / name for name in (".ministeer-1-a[1]", ".ministeer-2-a[1]", ".ministeer-1-b", ".a[1]")
    )
    for file in (old, new, other, own):
        file.write_text("half")
    for file in (old, other, own):
        os.utime(file, (time.time() - 90000,) * 2)
    files.write_text(tmp_path / "a[1]", "whole")
    assert {file.name for file in tmp_path.iterdir()} == {"a[1]", new.name, other.name, own.name}


def test_a_line_that_was_cut_off_is_not_read_and_gives_way_to_the_next(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "rows.jsonl"
    files.append_lines(path, ['{"a": 1}', '{"a": 2}'])
    with full(40), pytest.raises(OSError, match="File too large"):
        files.append_lines(path, ['{"a": "' + "x" * 99 + '"}'])
    assert path.stat().st_size == 40
    with read_only(path.parent):
        assert files.read_lines(path) == [{"a": 1}, {"a": 2}]
    files.append_lines(path, ['{"a": 3}'])
    assert files.read_lines(path) == [{"a": 1}, {"a": 2}, {"a": 3}]
    path.write_text('{"a": "one\u2028still one\x85"}\n', "utf-8")
    assert files.read_lines(path) == [{"a": "one\u2028still one\x85"}]
    path.write_text('{"a"')
    files.append_lines(path, ['{"a": 4}'])
    assert path.read_text() == '{"a": 4}\n'


def test_a_line_ends_at_a_newline_and_nowhere_else(tmp_path: Path) -> None:
    rows = [{"text": f"one{mark}two"} for mark in ("\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\r", "\n")]
    files.append_lines(tmp_path / "rows.jsonl", [json.dumps(row, ensure_ascii=False) for row in rows])
    assert files.read_lines(tmp_path / "rows.jsonl") == rows


@pytest.mark.parametrize("text", ["[1]\n", "null\n", "7\n", "{}\n{\n", "[" * 100000 + "\n"])
def test_lines_that_are_no_objects_are_refused_in_a_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(text)
    with pytest.raises(
        ValueError, match=r"^\S*/rows.jsonl: expected a JSON object a line, got .*; remove it to measure again$"
    ):
        files.read_lines(tmp_path / "rows.jsonl")


@pytest.mark.parametrize("cell", ["{}", '{"key": "a"}', '{"key": [], "rows": []}', '{"key": "a", "rows": 1}'])
def test_cells_of_another_shape_are_refused_in_a_sentence(cell: str, tmp_path: Path) -> None:
    (tmp_path / "nano" / "cells").mkdir(parents=True)
    (tmp_path / "nano" / "cells" / "00_x.jsonl").write_text(f"{cell}\n")
    with pytest.raises(
        ValueError, match=r"00_x.jsonl: expected cells with a key and rows, got others .*; remove it to measure again$"
    ):
        Experiment("00_x", "nano", results=tmp_path)


MEASURED: list[int] = []  # a measure finds it by a text, as what it names is in its key


def test_an_experiment_on_a_full_disk_ends_in_a_sentence_and_goes_on_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    line = ["00_full.py", "--model", str(ROOT / "weights" / "nano"), "--results", str(tmp_path / "results")]
    monkeypatch.setattr(sys, "argv", line)
    MEASURED.clear()

    def count(model: Any, tokenizer: Any, *, n: int) -> list[dict[str, Any]]:
        globals()["MEASURED"].append(n)
        return [{"n": n, "text": "x" * 500}]

    lab = Experiment.from_command_line("00_full")
    lab.cell(count, n=1)
    with full(lab.journal.stat().st_size + 64), pytest.raises(OSError, match="cannot|can be written") as caught:
        lab.cell(count, n=2)
    sys.excepthook(caught.type, caught.value, caught.tb)
    assert re.fullmatch(
        r"00_full: .*: expected a place that can be written, got 'File too large'; .*; run it again to go on where it was\n",
        capsys.readouterr().err,
    )
    again = Experiment.from_command_line("00_full")
    for n in (1, 2, 3):
        again.cell(count, n=n)
    assert MEASURED == [1, 2, 2, 3]
    with full(), pytest.raises(OSError, match="can be written"):
        again.save(title="", question="", protocol="", finding="done", receipt="")
    assert len(files.read_lines(again.journal)) == 3
    again.save(title="", question="", protocol="", finding="done", receipt="")
    assert sorted(path.name for path in again.folder.rglob("*.*")) == ["00_full.json", "00_full.jsonl"]


@pytest.mark.parametrize(("content", "words"), [(POINTER, "a Git LFS pointer, which only names it; run `git lfs pull`"), (PAGE, "a web page; download the file itself")])  # fmt: skip
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model.safetensors.index.json", "model.gguf", "pytorch_model.bin", "vocab.tiktoken", "tokenizer.json", "tokenizer_config.json", "merges.txt", "chat_template.jinja"])  # fmt: skip
def test_what_stands_in_for_a_file_is_called_by_its_name(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    kept = [] if name.endswith((".index.json", ".gguf", ".bin")) else ["model.safetensors"]
    kept += ["vocab.tiktoken"] if name.startswith(("model.", "chat")) else []
    if name == "merges.txt":
        (tmp_path / "vocab.json").write_text('{"a": 0}')
    for file in ("config.json", *kept):
        (tmp_path / file).write_bytes((ROOT / "weights" / "nano" / file).read_bytes())
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"^{re.escape(str(tmp_path / name))}: expected .*, found {words}.*$"):
        checkpoint.load(tmp_path)


def test_a_real_file_is_taken_for_none_of_them() -> None:
    folder = find("nano").weights.parent
    assert [files.stand_in(path) for path in folder.iterdir() if path.is_file()].count(None) == sum(
        p.is_file() for p in folder.iterdir()
    )


@pytest.mark.parametrize("name", BESIDE)
def test_a_save_beside_the_files_of_another_tokenizer_is_refused_and_leaves_all_as_it_was(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text("{}")
    nano = checkpoint.load_model("nano")
    words = (
        f"^{re.escape(str(tmp_path))}: expected no files of another tokenizer .*, found {name}, .*; delete them or save"
    )
    for save in (lambda: TOKENIZER.save(tmp_path), lambda: checkpoint.save_model(nano, tmp_path, tokenizer=TOKENIZER)):
        with pytest.raises(ValueError, match=words):
            save()
        assert [path.name for path in tmp_path.iterdir()] == [name]
    checkpoint.save_model(nano, tmp_path)  # without a tokenizer they belong to the one that is there
    (tmp_path / name).unlink()
    checkpoint.save_model(nano, tmp_path, tokenizer=TOKENIZER)
    checkpoint.save_model(nano, tmp_path, tokenizer=TOKENIZER)


def test_a_sweep_that_cannot_write_says_so_before_it_runs_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[sweep.__module__], "_runs", lambda *_: pytest.fail("it ran"))
    with read_only(tmp_path), pytest.raises(PermissionError, match="expected a place that can be written"):
        scores(tmp_path / "sweep.jsonl")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocab.tiktoken", "."])
def test_a_model_that_may_not_be_read_is_said(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(ROOT / "weights" / "nano", folder, ignore=shutil.ignore_patterns("*.py", "seed*", "nano*"))
    checkpoint.load(folder)
    said = rf"^{re.escape(str(folder))}[/\w.]*: expected what can be read, got 'Permission denied'; get the right"
    with read_only(folder / name, 0), pytest.raises(PermissionError, match=said):
        checkpoint.load(folder)


@pytest.mark.parametrize("ending", ["safetensors", "gguf"])
def test_a_vector_that_may_not_be_read_is_said(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"vector.{ending}"
    path.write_bytes(b"x")
    with (
        read_only(path, 0),
        pytest.raises(PermissionError, match=f"^{re.escape(str(path))}: expected what can be read"),
    ):
        SteeringVector.load(path) if ending == "safetensors" else formats.load_gguf(path)


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_one_and_its_file_is_written(there: bool, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    file, link = tmp_path / "store" / "v.txt", tmp_path / "v.txt"
    if there:
        file.write_text("old")
    link.symlink_to(Path("store") / "v.txt")
    files.write_text(link, "new")
    assert link.is_symlink() and file.read_text() == "new" and not file.is_symlink()
    assert [*tmp_path.iterdir()] and sorted(p.name for p in tmp_path.rglob("*")) == ["store", "v.txt", "v.txt"]
