"""A small Hugging Face hub on loopback: what `hf_hub_download` asks of the real one, over files in a folder.

It answers HEAD and GET of `/<repository>/resolve/<revision>/<file>` with the headers the client goes by (ETag, size,
commit), ranges included, and writes down every request. No xet headers are sent, so the client uses plain HTTP.
"""

from __future__ import annotations

import hashlib
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Hub(ThreadingHTTPServer):
    """`cut`: break the connection once after so many bytes. `wrong`: send weights of the right length and wrong
    content. `short`: send half of the weights as if it were all. `commits`: what each branch stands at, one after the
    other, the last for good. `refusals`: by repository, the hub's code with which it is answered, such as
    "RepoNotFound"."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.requests: list[tuple[str, str, str]] = []  # method, path, Range
        self.cut: int | None = None
        self.wrong = False
        self.short = False
        self.commits = {"main": ["c0ffee" + "0" * 34]}
        self.refusals: dict[str, str] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        hub, span = self.server, self.headers.get("Range", "")
        hub.requests.append((self.command, self.path, span))
        match = re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([\w.%-]+)/([\w.-]+)", self.path)
        commit = match[2] if match else ""
        if commit in hub.commits:
            left = hub.commits[commit]
            commit = left.pop(0) if len(left) > 1 else left[0]
        own = hub.folder / match[1] if match else hub.folder
        file = (own if own.is_dir() else hub.folder) / match[3] if match else None
        refusal = hub.refusals.get(match[1]) if match else None
        if refusal is None and not re.fullmatch("[0-9a-f]{40}", commit):
            refusal = "RevisionNotFound"
        if refusal is None and (file is None or not file.is_file()):
            refusal = "EntryNotFound"
        if refusal is not None or file is None:
            self.send_response(403 if refusal == "GatedRepo" else 404)
            self.send_header("X-Error-Code", str(refusal))
            self.send_header("X-Repo-Commit", commit)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = file.read_bytes()
        etag, size = hashlib.sha256(data).hexdigest(), len(data)
        if hub.short and file.suffix == ".safetensors":
            data = data[: size // 2]
        start = int(span.removeprefix("bytes=").removesuffix("-")) if span else 0
        self.send_response(206 if span else 200)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Linked-Etag", f'"{etag}"')
        self.send_header("X-Linked-Size", str(size))
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data) - start))
        if span:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if not body:
            return
        if hub.wrong and file.suffix == ".safetensors":
            data = data[:-1] + bytes([data[-1] ^ 1])
        end = len(data)
        if hub.cut is not None and hub.cut < len(data):
            end, hub.cut = hub.cut, None
        self.wfile.write(data[start:end])
        if end < len(data):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_WR)
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on the terminal: `requests` holds what was asked."""


@contextmanager
def serve(folder: Path) -> Iterator[Hub]:
    """A hub over the files of a folder until the block ends, the same for each repository without a folder of its
    name in it."""
    hub = Hub(folder)
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
