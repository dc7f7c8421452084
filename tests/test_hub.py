"""Named checkpoints: the real download code of huggingface_hub, against a hub on loopback.

huggingface_hub reads its environment when it is imported, so each load runs in a process of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub_server import serve

from ministeer import checkpoint
from ministeer import hub as named
from ministeer.model import GPT2, GPT2Config

ROOT = Path(checkpoint.__file__).parents[1]
REVISION = named.HUB["gpt2"][1]
LOAD = """
from ministeer import checkpoint
model, tok = checkpoint.load("gpt2")
print(model.wte.weight.double().sum().item(), tok.n_vocab)
"""
TRY = """
import time, huggingface_hub.file_download
from ministeer import checkpoint
start = time.monotonic()
try:
    checkpoint.load("gpt2")
except ConnectionError as error:
    print(time.monotonic() - start, error)
"""


@pytest.fixture(scope="session")
def shelf(tmp_path_factory):
    """A folder with a thin model of GPT-2's vocabulary: over 10 MB, the piece in which huggingface_hub writes to disk."""
    folder = tmp_path_factory.mktemp("shelf")
    model = GPT2(GPT2Config(n_positions=64, n_embd=64, n_layer=1, n_head=2))
    model.initialize(torch.Generator().manual_seed(0))
    checkpoint.save_model(model, folder, dtype=torch.float32)
    return folder


def run(home: Path, endpoint: str, *command: str, **environment: str) -> tuple[int, str, str]:
    """A fresh Python with an empty Hugging Face home -> its exit status, output and errors."""
    env = {name: value for name, value in os.environ.items() if not name.upper().startswith(("HF_", "HUGGING"))}
    env |= {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}
    env |= {"PYTHONPATH": os.pathsep.join([str(ROOT), env.get("PYTHONPATH", "")]), **environment}
    done = subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, timeout=100, check=False)
    return done.returncode, done.stdout, done.stderr


def expected(shelf: Path) -> str:
    return f"{checkpoint.load_model(shelf).wte.weight.double().sum().item()} 50257"


def files(home: Path) -> list[str]:
    """Every file under the home, other than locks and the cache's own tag."""
    found = [path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()]
    return sorted(path for path in found if not path.endswith((".lock", "CACHEDIR.TAG")))


def test_a_named_model_is_downloaded_once_and_then_needs_no_network(shelf, tmp_path):
    with serve(shelf) as hub:
        status, out, err = run(tmp_path, hub.url, "-c", LOAD)
        assert (status, out.strip()) == (0, expected(shelf)), err
        assert {path for _, path, _ in hub.requests} == {
            f"/openai-community/gpt2/resolve/{REVISION}/{file}" for file in ("config.json", "model.safetensors")
        }
        record = json.loads(next(tmp_path.rglob(named.RECORD)).read_text())
        sha256 = hashlib.sha256((shelf / "model.safetensors").read_bytes()).hexdigest()
        assert record[f"{REVISION}/model.safetensors"]["sha256"] == sha256
        hub.requests.clear()
        status, out, err = run(tmp_path, hub.url, "-c", LOAD)
        assert (status, out.strip(), hub.requests) == (0, expected(shelf), []), err
        # the command prints where, how large and which
        status, out, err = run(tmp_path, hub.url, "-m", "ministeer.hub", "gpt2")
        assert status == 0, err
        assert re.search(rf"{REVISION}\n.*{(shelf / 'model.safetensors').stat().st_size} bytes.*{sha256}", out)
        assert hub.requests == []
    status, out, err = run(tmp_path, hub.url, "-c", LOAD, HF_HUB_OFFLINE="1")
    assert (status, out.strip()) == (0, expected(shelf)), err


def test_a_connection_cut_half_way_is_resumed(shelf, tmp_path):
    with serve(shelf) as hub:
        hub.cut = 11 << 20
        status, out, err = run(tmp_path, hub.url, "-c", LOAD)
    assert (status, out.strip()) == (0, expected(shelf)), err
    spans = [span for method, path, span in hub.requests if method == "GET" and path.endswith("model.safetensors")]
    assert len(spans) == 2
    assert spans[0] == ""
    assert int(spans[1].removeprefix("bytes=").removesuffix("-")) > 0
    blob = next(tmp_path.rglob("model.safetensors"))
    assert blob.read_bytes() == (shelf / "model.safetensors").read_bytes()


def test_a_wrong_body_is_refused_until_it_is_deleted(shelf, tmp_path):
    with serve(shelf) as hub:
        hub.wrong = True
        for _ in range(2):
            status, _, err = run(tmp_path, hub.url, "-c", LOAD)
            assert status != 0
            message = err.strip().splitlines()[-1]
            folder = re.fullmatch(
                "ValueError: .*model.safetensors: expected SHA-256 [0-9a-f]{64}, found [0-9a-f]{64}: .*"
                "delete the folder (.*) and load again",
                message,
            )
            assert folder, message
            hub.wrong = False  # what lies in the cache is refused all the same
        assert Path(folder[1]).is_relative_to(tmp_path)
        for path in sorted(Path(folder[1]).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        status, out, err = run(tmp_path, hub.url, "-c", LOAD)
        assert (status, out.strip()) == (0, expected(shelf)), err


def test_a_file_that_changed_after_its_first_download_is_refused(shelf, tmp_path):
    blob = tmp_path / "models--openai-community--gpt2" / "blobs" / "0"
    pointer = blob.parents[1] / "snapshots" / "r" / "model.safetensors"
    for folder in (blob.parent, pointer.parent):
        folder.mkdir(parents=True)
    blob.write_bytes(b"first")
    pointer.symlink_to(os.path.relpath(blob, pointer.parent))
    sha256 = hashlib.sha256(b"first").hexdigest()
    assert named.recorded_sha256(pointer) == sha256
    os.utime(blob, ns=(1, 1))  # a new time alone costs a new hash, no more
    assert named.recorded_sha256(pointer) == sha256
    blob.write_bytes(b"other")
    with pytest.raises(ValueError, match=f"expected SHA-256 {sha256}.*delete the folder"):
        named.recorded_sha256(pointer)


def test_an_unchanged_file_is_not_hashed_again(tmp_path, monkeypatch):
    pointer = tmp_path / "models--openai-community--gpt2" / "snapshots" / "r" / "model.safetensors"
    pointer.parent.mkdir(parents=True)
    pointer.write_bytes(b"weights")
    first = named.recorded_sha256(pointer)
    monkeypatch.setattr(named.hashlib, "sha256", lambda: pytest.fail("hashed again"))
    assert named.recorded_sha256(pointer) == first


@pytest.mark.parametrize("how", ["refused", "silent", "unknown name"])
def test_without_a_network_it_fails_soon_and_says_what_to_type(how, tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        if how == "silent":  # takes connections and never answers
            listener.listen(8)
        endpoint = "http://hub.invalid" if how == "unknown name" else f"http://127.0.0.1:{port}"
        status, out, err = run(tmp_path, endpoint, "-c", TRY)
    assert status == 0, err
    seconds, _, message = out.strip().partition(" ")
    assert float(seconds) < 10
    assert message.startswith("could not download gpt2")
    for needed in (endpoint, "HTTPS_PROXY", "HF_ENDPOINT", "make weights MODEL=gpt2", 'load("nano")'):
        assert needed in message
    assert files(tmp_path) == []


def test_a_download_that_ends_too_soon_leaves_no_half_file(shelf, tmp_path):
    with serve(shelf) as hub:
        hub.short = True
        status, _, err = run(tmp_path, hub.url, "-c", LOAD)
        assert status != 0
        assert err.strip().splitlines()[-1].startswith("ConnectionError: could not download gpt2")
        snapshot = f"hub/models--openai-community--gpt2/snapshots/{REVISION}"
        assert [path for path in files(tmp_path) if "blobs/" not in path] == [f"{snapshot}/config.json"]
        assert len([path for path in files(tmp_path) if "blobs/" in path]) == 1
        hub.short = False
        status, out, err = run(tmp_path, hub.url, "-c", LOAD)
        assert (status, out.strip()) == (0, expected(shelf)), err


def test_offline_without_a_cache_says_so(tmp_path):
    status, _, err = run(tmp_path, "http://hub.invalid", "-c", LOAD, HF_HUB_OFFLINE="1")
    assert status != 0
    message = err.strip().splitlines()[-1]
    assert message.startswith("ConnectionError: gpt2 is not in the cache")
    assert "HF_HUB_OFFLINE" in message
    assert files(tmp_path) == []


def test_without_huggingface_hub_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=re.escape("pip install 'ministeer[hub]'")):
        checkpoint.load_model("gpt2-xl")


def test_every_named_model_is_pinned():
    assert set(named.HUB) == {"gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"}
    for name, (repository, revision) in named.HUB.items():
        assert repository == f"openai-community/{name}"
        assert re.fullmatch("[0-9a-f]{40}", revision)
