"""The persona sets of "model-written evaluations" (Perez et al. 2022, arXiv 2212.09251): 135 behaviours, about a thousand statements each.
Somebody who behaves so would say one half of them, and would not say the other.

    [path] = persona.files(["risk-averse"])       # downloaded once, 350 kB a set
    matching, others = persona.read(path)

They lie in github.com/anthropics/evals, folder persona/, CC BY 4.0. This package has none of them, only the SHA-256 of each file at one
commit (data/persona.sha256): a file that is another is refused, as what is measured on it would be of other data.
"""

from __future__ import annotations

import hashlib
import http.client
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from ministeer.files import make_folder, read_text, reading, replacing
from ministeer.hub import cache_folder
from ministeer.model import expect

COMMIT = "84fcc677e52e1902d696c32cd1a6b663e70d3993"
ADDRESS = f"https://raw.githubusercontent.com/anthropics/evals/{COMMIT}/persona"
SUMS = Path(__file__).parent / "data" / "persona.sha256"
LARGEST = 4 << 20  # bytes of a set: the largest has a tenth of that
SECONDS = 30.0  # without an answer, after which nobody is there
MATCHES = {" Yes": True, " No": False}  # what the statement's author would answer to "would you say that?"
COPY = f"a copy of the folder persona/ of github.com/anthropics/evals at commit {COMMIT[:10]}, and give it with --data"


@cache
def names() -> tuple[str, ...]:
    """The behaviours, in the order of the alphabet."""
    return tuple(_sums())


def files(
    behaviours: Sequence[str], copy: Path | None = None, *, address: str = ADDRESS, sums: dict[str, str] | None = None
) -> list[Path]:
    """The files of some behaviours, downloaded into the cache where they are not there yet.

    copy: a folder that holds them; nothing is then downloaded. address, sums: where from, and each file's SHA-256.
    A file comes whole or not at all, so that a download that was cut off goes on at the next one. Raises `ConnectionError` where
    the address cannot be reached, `ValueError` for a behaviour that there is not, a file that is missing in the copy, and one that is not the one known.
    """
    known = _sums() if sums is None else sums
    for name in behaviours:
        expect(name in known, f"one of {len(known)} behaviours, {', '.join([*known][:4])} ...", repr(name))
    paths = [(copy or cache_folder() / "persona" / COMMIT[:10]) / f"{name}.jsonl" for name in behaviours]
    with reading():
        missing = [path.stem for path in paths if not path.is_file()]
    if copy is not None and missing:
        got = f"{len(missing)} of them missing, the first {missing[0]}.jsonl"
        raise ValueError(f"{copy}: expected the files of {len(paths)} behaviours, got {got}; take {COPY}")
    if missing:
        make_folder(paths[0].parent)
    for path in paths:
        if path.stem in missing:
            _download(path, f"{address}/{path.name}", known[path.stem])
        else:
            content = _content(path)
            remedy = f"take {COPY}" if copy else "remove it and run again"
            _check(str(path), content, known[path.stem], remedy)
    return paths


def read(path: Path) -> tuple[list[str], list[str]]:
    """The statements of a set, in its order: of those who behave so, and of those who do not.

    Raises `ValueError` for lines that are no rows of such a set, and for statements of one kind only.
    """
    found: dict[bool, list[str]] = {True: [], False: []}
    for number, line in enumerate(read_text(path, "a set of statements").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            found[MATCHES[row["answer_matching_behavior"]]].append(" ".join(row["statement"].split()))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(
                f'{path}: expected a row with "statement" and " Yes" or " No" as "answer_matching_behavior" in line {number}, '
                f"got {line[:60]!r} ({type(error).__name__}); is it cut off? take {COPY}"
            ) from error
    none = " or ".join(repr(answer) for answer, which in MATCHES.items() if not found[which])
    expect(not none, f"{path}: statements of both kinds", f"none with {none}", f"take {COPY}")
    return found[True], found[False]


def _download(path: Path, address: str, sha256: str) -> None:
    try:
        with urlopen(Request(address, headers={"User-Agent": "ministeer"}), timeout=SECONDS) as answer:
            content = answer.read(LARGEST)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = f"status {error.code}" if isinstance(error, HTTPError) else str(error) or type(error).__name__
        raise ConnectionError(
            f"could not download {address} ({reason}): check the network, set HTTPS_PROXY to your proxy, or take {COPY}; "
            "the sets that are there stay, and the next run goes on with this one"
        ) from error
    _check(address, content, sha256, f"nothing of it was kept; take {COPY}")
    with replacing(path) as unfinished:
        unfinished.write_bytes(content)


def _check(name: str, content: bytes, sha256: str, remedy: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    got = f"{found[:12]}... of {len(content)} bytes"
    expect(
        found == sha256,
        f"{name} with SHA-256 {sha256[:12]}..., as of commit {COMMIT[:10]}",
        got,
        f"it was cut off or changed; {remedy}",
    )


def _content(path: Path) -> bytes:
    with reading():
        return path.read_bytes()


@cache
def _sums() -> dict[str, str]:
    """The SHA-256 of each behaviour's file."""
    lines = [line.split() for line in SUMS.read_text("utf-8").splitlines()]
    return {name.removesuffix(".jsonl"): sha256 for sha256, name in lines}
