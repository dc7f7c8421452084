"""The words of the command line: numbers within bounds, lists, texts in UTF-8; what does not fit is refused in one sentence."""

from __future__ import annotations

import argparse
import json
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from ministeer.hub import NAMES
from ministeer.model import expect

FLAGS = ("--chat", "--help", "--version", "--json", "--hook")  # options without a value


class Parser(argparse.ArgumentParser):
    """One that answers wrong words in one sentence."""

    def error(self, message: str) -> NoReturn:
        if found := re.match(r"unrecognized arguments: ([^-]\S*)", message):
            known = found[1] in ("nano", *NAMES)
            message += f"; write --model {found[1]}" if known else "; put a text of several words between quotes"
        if found := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message):
            near = get_close_matches(found[1], re.findall(r"[\w-]+", found[2]), 1)
            message += f", did you mean {near[0]!r}" if near else ""
        self.exit(2, f"ministeer: {message}; see {self.prog} --help\n")


def add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", type=some, default="nano", help=f"nano (by default), {', '.join(NAMES)}, owner/name on the hub, or a path")  # fmt: skip


def number(kind: type, low: float = -sys.float_info.max, high: float = sys.float_info.max) -> Callable[[str], Any]:
    """What reads a number of the command line, finite and within bounds."""
    wanted = "a whole number" if kind is int else "a number"
    if low >= 0:
        wanted += f" from {low:g}" + (f" to {high}" if isinstance(high, int) else " up")

    def read(given: str) -> Any:
        try:
            value = kind(given)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"expected {wanted}, got {given!r}")
        return value

    return read


def text(given: str) -> str:
    try:
        return given.encode("utf-8", "surrogateescape").decode()  # UTF-8 also where the locale is another
    except UnicodeError:
        raise argparse.ArgumentTypeError(f"expected text in UTF-8, got {given!r}") from None


def some(given: str) -> str:
    if not given:
        raise argparse.ArgumentTypeError("expected one that is not empty, got ''")
    return text(given)


def joined(words: Sequence[str]) -> list[str]:
    """`--coeff -1e1` as `--coeff=-1e1`, and `--plus -sad` too: alone, what begins with a dash can look like an option, and to argparse
    before Python 3.14 a number with an exponent does."""
    found: list[str] = []
    for word in words:
        before = found[-1] if found else ""
        takes_one = re.fullmatch("--[a-z]+", before) and before not in FLAGS
        if takes_one and re.match("-[^-]", word) and word != "-h":
            found[-1] += f"={word}"
        else:
            found.append(word)
    return found


def several(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """What reads one or more between commas: "-1,0,1"."""

    def read(given: str) -> list[Any]:
        return [kind(part) for part in given.split(",")]

    return read


def contents(path: str) -> str:
    """The text of a file, or of standard input for "-"."""
    file = Path(path)
    expect(path == "-" or not file.is_dir(), "a file", f"the folder {path}", "name a file in it")
    expect(path == "-" or file.exists(), "a file, or - for standard input", f"{path}, which is not there")
    try:  # of both the bytes, whatever the terminal's encoding; some programs begin a file with a mark
        found = (sys.stdin.buffer.read() if path == "-" else file.read_bytes()).decode("utf-8-sig")
        return found.replace("\r\n", "\n")  # as text is read elsewhere
    except UnicodeDecodeError:
        raise ValueError(f"expected text in UTF-8 in {path}, got other bytes; is it a text file?") from None


def lines(path: str) -> list[str]:
    """The prompts in a file: its lines that are not empty. One in JSON's quotes may hold lines of its own. A line ends where a
    program ends one, not at a letter such as U+2028."""
    table = Path(path).suffix.lower() in (".csv", ".tsv")
    expect(
        not table, "a prompt on each line", f"{path}, a table", "write one column into a .txt file, without its name"
    )
    found = [line for line in contents(path).split("\n") if line.strip()]
    expect(bool(found), f"a prompt on each line of {path}", "none")
    quoted = [line for line in found if re.fullmatch(r"""\s*["'].*["'],\s*""", line)]
    as_json = (
        2 * len(quoted) > len(found)
        or all(line.startswith("{") and line.rstrip().endswith("}") for line in found)
        or _listed("".join(found))
    )
    expect(
        not as_json,
        f"a prompt on each line of {path}, as it is read",
        f"{found[0][:40]!r}",
        "write the texts alone, without JSON",
    )
    prompts = [_quoted(line) for line in found]
    warn_of_backslashes(*prompts)
    return prompts


def warn_of_backslashes(*prompts: str) -> None:
    """Say so where a prompt holds a backslash and an n, which a shell does not turn into the end of a line."""
    if some := [prompt for prompt in prompts if "\\n" in prompt and "\n" not in prompt]:
        warnings.warn(
            f"{some[0][:40]!r} holds a backslash and an n, which the model reads so; for an end of the line write $'first\\nsecond' in a shell, "
            'or "first\\nsecond" on a line of a file',
            stacklevel=2,
        )


def _quoted(line: str) -> str:
    """A text in JSON's quotes; any other line as it is."""
    try:
        found = json.loads(line) if line.startswith('"') else line
    except ValueError:
        return line
    return found if isinstance(found, str) else line


def _listed(text: str) -> bool:
    """Whether a text is a list of JSON."""
    try:
        return isinstance(json.loads(text), list)
    except (ValueError, RecursionError):
        return False
