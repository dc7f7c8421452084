"""Whole files: read as JSON with an error that says what to do, written completely or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises `ValueError` if it holds anything else."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path}: expected JSON, found something else ({error}); make it or download it again"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path}: expected a JSON object, found a {type(content).__name__}; make it or download it again"
        )
    return content


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of one JSON object a line, none if there is no file.

    A last line that was cut off is taken away from the file, so that the next one to be appended is whole.
    """
    if not path.exists():
        return []
    text = path.read_text("utf-8", errors="replace")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        write_text(path, whole)
    try:
        return [json.loads(line) for line in whole.splitlines()]
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: expected a JSON object a line, got {error}; remove it to measure again") from error


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Add lines to a file that `read_lines` reads; the folders are made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; it becomes `path` when the block ends well, and is gone when it does not."""
    if not path.parent.is_dir():
        raise ValueError(f"{path}: expected a folder that exists to write into, got {path.parent}; make it first")
    unfinished = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a whole file, or leave the old one."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
