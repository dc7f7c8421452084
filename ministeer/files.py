"""Whole files: read as JSON with an error that says what to do, written completely or not at all."""

from __future__ import annotations

import json
import os
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
        raise ValueError(  # noqa: TRY004 - one kind of error for everything a file can get wrong
            f"{path}: expected a JSON object, found a {type(content).__name__}; make it or download it again"
        )
    return content


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name, then rename it: an interruption leaves the old one."""
    unfinished = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        unfinished.write_text(text, encoding="utf-8")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
