"""What a page asks for: JSON -> checked values. A page may send anything; what does not fit is refused in one sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ministeer.model import expect, refusal
from ministeer.pairs import parsed
from ministeer.steer import WHERES

LONGEST = 200  # new tokens
MOST_PAIRS = 2000
MOST_VECTORS = 8
MOST_LETTERS = 100_000  # of one text: more than any context holds, and not too many to count at once
NAMES = {
    "plus": "a text to go towards",
    "minus": "a text to go away from",
    "file": "a file with a vector",
    "side": "a text",
}
STRENGTH = 4.0  # shares of the stream's norm; twice of what is noise already


@dataclass(frozen=True)
class Push:
    """One vector, by what it is made of (`recipe`), and how it is added."""

    recipe: Mapping[str, Any]
    layer: int
    strength: float  # share of the stream's norm
    where: Any


@dataclass(frozen=True)
class Asked:
    """A text to continue, how, and what is added."""

    prompt: str
    chat: bool
    tokens: int
    temperature: float
    seed: int
    pushes: Sequence[Push]
    written: Sequence[int]  # what there is of a steered text that was stopped; none to have it written


def asked(given: Any, layers: int) -> Asked:
    """What a page sent, for a model of so many layers."""
    given = entries(given, "a request")
    sent = given.get("vectors", [])
    fine = isinstance(sent, list) and len(sent) <= MOST_VECTORS
    expect(fine, f"at most {MOST_VECTORS} vectors", len(sent) if isinstance(sent, list) else "something else")
    return Asked(
        text(given, "prompt"),
        bool(given.get("chat", False)),
        int(number(given, "tokens", 1, LONGEST, 20, whole=True)),
        number(given, "temperature", 0, 10, 0),
        int(number(given, "seed", 0, 2**53, 0, whole=True)),
        [push(one, layers, i if len(sent) > 1 else None) for i, one in enumerate(sent, 1)],
        written(given),
    )


def written(given: Mapping[str, Any]) -> list[int]:
    """The ids of the steered text as far as it came, where a page asks what is known of them."""
    ids = given.get("written", [])
    fine = isinstance(ids, list) and len(ids) <= LONGEST and all(type(i) is int and i >= 0 for i in ids)
    expect(fine, f"written as a list of at most {LONGEST} ids of tokens", repr(ids)[:40])
    return ids  # type: ignore[no-any-return]


def push(given: Any, layers: int, which: int | None = None) -> Push:
    """One vector; with its number, where there are several, in what is said of it."""
    try:
        given = entries(given, "a vector")
        where = given.get("where", "all")
        expect(where in WHERES, f"where as one of {', '.join(WHERES)}", repr(where)[:60])
        layer = int(number(given, "layer", 0, layers, 0, whole=True))
        return Push(recipe(given), layer, number(given, "strength", -STRENGTH, STRENGTH, 0), where)
    except ValueError as error:
        raise (error if which is None else ValueError(f"vector {which}: {error}")) from None


def recipe(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a vector is made of: `plus` and `minus`; or `pairs`, a list of two texts each, with the `token` where they are read; or
    `file`, base64, with its `name`."""
    made = entries(given.get("made"), "what a vector is made of")
    kind = next((kind for kind in ("file", "pairs", "plus") if made.get(kind) is not None), None)
    if kind is None:
        raise refusal("two texts, pairs of texts, or a file", "none of them", "write a text with what you want and one without")  # fmt: skip
    if kind == "file":
        return {"file": text(made, "file"), "name": text(made, "name")}
    if kind == "plus":
        texts = {name: text(made, name) for name in ("plus", "minus")}
        expect(texts["plus"] != texts["minus"], "two texts that differ", "the same twice")
        return texts
    token = made.get("token", "last")
    expect(token in ("last", "answer"), "token as last or answer", repr(token)[:40])
    return {"pairs": pairs(made["pairs"]), "token": token}


def pairs(given: Any) -> list[list[str]]:
    """Pairs of texts: a list of them, lines of JSON as `ministeer.pairs.parsed` reads them, or lines of two texts with a bar or a tab between."""
    expect(isinstance(given, (list, str)), "pairs, as a list or lines of text", type(given).__name__)
    as_json = not isinstance(given, str) or given.lstrip()[:1] in ("[", "{", "")
    found = (
        parsed(given) if as_json else [_split(*line) for line in enumerate(given.splitlines(), 1) if line[1].strip()]
    )
    expect(len(found) <= MOST_PAIRS, f"at most {MOST_PAIRS} pairs", len(found))
    for i, (towards, away) in enumerate(found, 1):
        expect(towards != away, f"two texts that differ in pair {i}", "the same twice")
    return [[text({"side": side}, "side", f"in pair {i}") for side in row] for i, row in enumerate(found, 1)]


def _split(place: int, line: str) -> list[str]:
    sides = [side.strip() for side in re.split(r"[|\t]", line)]
    expect(len(sides) == 2, "two texts on each line, towards | away from", f"{line[:40]!r} on line {place}", "write one bar between them")  # fmt: skip
    return sides


def entries(given: Any, what: str) -> Mapping[str, Any]:
    expect(isinstance(given, dict), f"{what} as a JSON object", type(given).__name__)
    return given  # type: ignore[no-any-return]


def text(given: Mapping[str, Any], name: str, where: str = "") -> str:
    found, wanted = given.get(name), NAMES.get(name, f"a text as {name}") + (f" {where}" if where else "")
    if not isinstance(found, str) or not found:
        remedy = "choose a file" if name == "file" else "write one"
        raise refusal(wanted, "none" if not found else type(found).__name__, remedy)
    try:
        found.encode()
    except UnicodeError:
        raise refusal(f"{wanted}, in Unicode", "half a character") from None
    most = MOST_LETTERS if name != "file" else len(found)  # which the size of a request bounds
    expect(len(found) <= most, f"{wanted}, of at most {most:,} letters", f"{len(found):,}", "shorten it")
    return found


def number(given: Mapping[str, Any], name: str, low: float, high: float, usual: float, whole: bool = False) -> float:
    found = given.get(name, usual)
    fine = isinstance(found, (int, float)) and not isinstance(found, bool) and low <= found <= high  # NaN is not
    fine = fine and (not whole or found == int(found))
    expect(
        fine,
        f"{name} as a {'whole ' if whole else ''}number from {low:g} to {high:g}",
        "none" if found is None else repr(found)[:40],
    )
    return float(found)
