"""Named GPT-2 checkpoints: downloaded once from Hugging Face's hub, at a fixed revision, and hashed.

python -m ministeer.hub gpt2-xl        # what `make weights MODEL=gpt2-xl` runs
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import threading
from pathlib import Path

from ministeer.files import read_json, write_text

# repository and revision, so that everyone measures the same file; each hash is stated by several public projects
HUB = {
    "gpt2": ("openai-community/gpt2", "607a30d783dfa663caf39e06633721c8d4cfcd7e"),
    "gpt2-medium": ("openai-community/gpt2-medium", "6dcaa7a952f72f9298047fd5137cd6e4f05f41da"),
    "gpt2-large": ("openai-community/gpt2-large", "32b71b12589c2f8d625668d2335a01cac3249519"),
    "gpt2-xl": ("openai-community/gpt2-xl", "15ea56dee5df4983c59b2538573817e1667135e2"),
}
NO_NETWORK_SECONDS = 8.0
RECORD = "ministeer-sha256.json"


def fetch(name: str) -> Path:
    """The weights file of a named GPT-2 in Hugging Face's cache, downloaded if need be; its SHA-256 is checked.

    HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE and the proxy variables mean what they mean to huggingface_hub.
    """
    try:
        from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError as error:
        raise ImportError(f"downloading {name} needs huggingface_hub: pip install 'ministeer[hub]'") from error
    repository, revision = HUB[name]

    def get(cached: bool) -> Path:
        hf_hub_download(repository, "config.json", revision=revision, local_files_only=cached)
        return Path(hf_hub_download(repository, "model.safetensors", revision=revision, local_files_only=cached))

    try:
        path = get(cached=True)
    except LocalEntryNotFoundError:
        if constants.HF_HUB_OFFLINE:
            raise ConnectionError(
                f"{name} is not in the cache {constants.HF_HUB_CACHE} and HF_HUB_OFFLINE is set: unset it once to "
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
        try:
            refusal = answers[0] if answers else TimeoutError(f"no answer within {NO_NETWORK_SECONDS:.0f} seconds")
            if refusal is not None:
                raise refusal
            path = get(cached=False)
        except Exception as error:  # of several libraries, old and new
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ConnectionError(
                f"could not download {name} ({repository}) from {constants.ENDPOINT} ({reason}): check the network, set "
                f"HTTPS_PROXY to your proxy or HF_ENDPOINT to a mirror, then run `make weights MODEL={name}`; "
                'load("nano") needs no network'
            ) from error
    recorded_sha256(path)
    return path


def recorded_sha256(path: Path) -> str:
    """The SHA-256 of a file in Hugging Face's cache, equal to what the hub stated and to what was seen at first.

    It is computed when the file is new or its size or time has changed, and remembered beside the snapshots: 6 GB take
    several seconds to hash. A file that is not the one recorded is refused.
    """
    repository = path.parents[2]  # <cache>/models--openai-community--gpt2/snapshots/<revision>/model.safetensors
    record, key = repository / RECORD, f"{path.parent.name}/{path.name}"
    status = path.stat()
    seen = {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
    records = read_json(record) if record.is_file() else {}
    if key in records and {name: records[key].get(name) for name in seen} == seen:
        return str(records[key]["sha256"])
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    sha256 = digest.hexdigest()
    # the cache names a large file by the SHA-256 the hub stated; where links are not possible, that name is not kept
    stated = Path(os.readlink(path)).name if path.is_symlink() else ""
    expected = records[key]["sha256"] if key in records else stated if re.fullmatch("[0-9a-f]{64}", stated) else sha256
    if sha256 != expected:
        raise ValueError(
            f"{path}: expected SHA-256 {expected}, found {sha256}: the download is damaged or was changed; "
            f"delete the folder {repository} and load again"
        )
    if os.access(repository, os.W_OK):  # in a cache shared read-only, the file is hashed each time instead
        write_text(record, json.dumps(records | {key: {"sha256": sha256, **seen}}, indent=2) + "\n")
    return sha256


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in HUB:
        sys.exit(
            f"expected one of {', '.join(HUB)}, got {' '.join(sys.argv[1:]) or 'none'}; write `make weights MODEL=gpt2-xl`"
        )
    try:
        file = fetch(sys.argv[1])
    except (ValueError, OSError) as error:
        sys.exit(f"ministeer.hub: {error}")
    print(f"{file.parent}\nmodel.safetensors: {file.stat().st_size} bytes, SHA-256 {recorded_sha256(file)}")
