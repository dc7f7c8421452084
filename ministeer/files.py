"""Whole files: read with an error that says what to do, written completely or not at all."""

from __future__ import annotations

import glob
import json
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

STALE_SECONDS = 86400.0  # no write takes a day: a temporary file that is older was left by a process that was killed


@contextmanager
def reading(remedy: str = "name another place") -> Iterator[None]:
    """What may not be read is a `PermissionError` in one sentence. It has no number, by which one that is said already is known."""
    try:
        yield
    except PermissionError as error:
        if error.errno is None:
            raise
        raise PermissionError(
            f"{error.filename}: expected what can be read, got {error.strerror!r}; get the right to read it, or {remedy}"
        ) from error


def stand_in(path: Path) -> tuple[str, str] | None:
    """What lies there in place of the file that was meant, and what to do; None if it is neither of the two usual things."""
    with reading(), path.open("rb") as file:
        begin = file.read(200).removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if begin.startswith(b"version https://git-lfs.github.com/spec/"):
        return "a Git LFS pointer, which only names it", "run `git lfs pull` in its folder, or download the file itself"
    if re.match(rb"<(!doctype html|html|head)\b", begin):
        return "a web page", "download the file itself: on the hub its address has /resolve/ where the page has /blob/"
    return None


def read_text(path: Path, what: str = "text in UTF-8") -> str:
    """The text of a file, `what` it is in messages. Raises `ValueError` for bytes that are not UTF-8, and for what stands in for a file."""
    if found := stand_in(path):
        raise ValueError(f"{path}: expected {path.name} itself, found {found[0]}; {found[1]}")
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: expected {what}, found something else ({error}); make it or download it again"
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises `ValueError` if it holds anything else."""
    text = read_text(path, "JSON")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: expected JSON, found something else ({error}); make it or download it again"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path}: expected a JSON object, found a {type(content).__name__}; make it or download it again"
        )
    return content


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of one JSON object a line, none if there is no file. A last line that was cut off is not read."""
    if not path.exists():
        return []
    text = path.read_text("utf-8", errors="replace")
    try:
        # by "\n" alone: JSON may hold other ends of lines, such as U+2028, as they are
        found = [json.loads(line) for line in text.split("\n")[:-1]]
        if others := [row for row in found if not isinstance(row, dict)]:
            raise ValueError(f"a {type(others[0]).__name__}")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected a JSON object a line, got {error}; remove it to measure again") from error
    return found


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Add lines to a file that `read_lines` reads, in place of a last one that was cut off; the folders are made if need be."""
    new = "".join(line + "\n" for line in lines).encode()
    make_folder(path.parent)
    with _in_one_sentence(path), open(path, "a+b") as file:
        if size := file.tell():
            file.seek(size - 1)
            if file.read() != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        file.write(new)


def make_folder(path: Path) -> None:
    """A folder and those above it, where they are not there yet. Raises `OSError` in one sentence."""
    with _in_one_sentence(path):
        path.mkdir(parents=True, exist_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; it becomes `path` when the block ends well, and is gone when it does not.

    The name is this call's alone: of several that write to one path at a time, the last to end stays, whole. A link is
    followed, not replaced. Raises `ValueError` where there is no such folder, `OSError` in one sentence where it cannot
    be written.
    """
    with _in_one_sentence(path):
        path = Path(os.path.realpath(path)) if path.is_symlink() else path
        if not path.parent.is_dir():
            raise ValueError(f"{path}: expected a folder that exists to write into, got {path.parent}; make it first")
        for left in path.parent.glob(f".ministeer-*-{glob.escape(path.name)}"):
            with suppress(OSError):  # another process may be quicker
                if time.time() - left.stat().st_mtime > STALE_SECONDS:
                    left.unlink()
        unfinished = path.with_name(f".ministeer-{secrets.token_hex(8)}-{path.name}")
        try:
            unfinished.open("xb").close()
            usual = unfinished.stat().st_mode
            yield unfinished
            unfinished.chmod(usual)  # safetensors would keep it to its owner
            os.replace(unfinished, path)
        finally:
            with suppress(OSError):
                unfinished.unlink()


def unwritten(path: Path, error: Exception) -> OSError | None:
    """What to say for an error of the system, or of safetensors, while `path` was written; None for another error.

    It is of the system's kind (`PermissionError`, ...) without its number, by which one that is said already is known.
    """
    number = getattr(error, "errno", None)
    if type(error).__name__ == "SafetensorError" and (code := re.search(r"os error (\d+)", str(error))):
        number = int(code[1])
    if not isinstance(number, int):
        return None
    return type(OSError(number, ""))(
        f"{path}: expected a place that can be written, got {os.strerror(number)!r}; free some space or get the right to write "
        "there, or give another path"
    )


@contextmanager
def _in_one_sentence(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if said := unwritten(path, error):
            raise said from error
        raise


def write_text(path: Path, text: str) -> None:
    """Write a whole file, or leave the old one."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
