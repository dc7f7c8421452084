"""The playground's web edge: on this machine only, event by event, in turns, and no longer than somebody listens; and its command."""

import base64
import contextlib
import http.client
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from reference import pair, sizes

from ministeer import cli
from ministeer.play.session import Session
from ministeer.tokenizer import Tokenizer

pytest.importorskip("starlette")
uvicorn = pytest.importorskip("uvicorn")
from ministeer.play import server

MODEL = pair(sizes("gpt2", 257, 256, 48, 3, 4), seed=1)[0]
BYTES = Tokenizer({bytes([byte]): byte for byte in range(256)}, eot=256)
VECTOR = {"made": {"plus": "joy", "minus": "woe"}, "layer": 1, "strength": 1.0, "where": "all"}
RUN = {"prompt": "I feel", "tokens": 6, "vectors": [VECTOR]}
PAGE = (Path(server.__file__).parent / "page.html").read_text(encoding="utf-8")


@contextlib.contextmanager
def served(session: Session) -> Iterator[int]:
    """The port at which it is served meanwhile."""
    at = server.listening(0)
    running = uvicorn.Server(server.settings(session))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [at]})
    thread.start()
    try:
        yield at.getsockname()[1]
    finally:
        running.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture
def session() -> Session:
    return Session(MODEL, BYTES, "small </script>")


@pytest.fixture
def port(session: Session) -> Iterator[int]:
    with served(session) as at:
        yield at


def asked(port: int, path: str, given: Any = None, **headers: str) -> http.client.HTTPResponse:
    """The answer to a question, or to none; its body is still to be read."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    body = given if isinstance(given, bytes) else json.dumps(given).encode()
    headers = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("GET" if given is None else "POST", path, None if given is None else body, headers)
    return connection.getresponse()


def events(answer: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    while line := answer.readline():
        if line.strip():
            assert line.startswith(b"data: ")
            yield json.loads(line[6:])


def shown(found: list[dict[str, Any]]) -> list[str]:
    return ["".join(token["text"] for token in column) for column in found[-1]["columns"]]


def test_the_page_needs_no_other_file_and_may_ask_for_none(port: int) -> None:
    answer = asked(port, "/")
    page = answer.read().decode()
    assert answer.status == 200 and answer.getheader("content-type") == "text/html; charset=utf-8"
    rules = answer.getheader("content-security-policy") or ""
    assert "default-src 'none'" in rules and "connect-src 'self'" in rules and "http" not in rules
    assert not re.search(r"https?://|src=(?!\"data:)|url\(|@import|<link(?! rel=\"icon\" href=\"data:,\")", PAGE)
    drawing = base64.b64decode(re.search(r"data:image/svg\+xml;base64,(\w[\w+/=]*)", page)[1]).decode()
    assert drawing.startswith("<svg ") and not re.search(r"href|src=|url\(|@import|<script", drawing)
    about = re.search('<script type="application/json" id="about">(.*)</script>', page)
    assert about and json.loads(about[1])["model"] == "small </script>" and "</script" not in about[1]
    assert len(PAGE.splitlines()) < 400


def test_what_it_streams_is_what_the_session_gives(port: int) -> None:
    told: list[dict[str, Any]] = []
    done = Session(MODEL, BYTES, "another").run(RUN, told.append)
    done["python"] = done["python"].replace('"another"', '"small </script>"')
    answer = asked(port, "/run", RUN)
    assert answer.getheader("content-type", "").startswith("text/event-stream")
    assert list(events(answer)) == json.loads(json.dumps([*told, done]))


def test_what_is_told_comes_before_the_last_token_is_made(
    port: int, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on, work = threading.Event(), session.run

    def waits(given: Any, tell: Any) -> Any:
        def slowly(event: Any) -> None:
            tell(event)
            assert goes_on.wait(30)

        return work(given, slowly)

    with served_with(session, waits) as at:
        answer = asked(at, "/run", RUN)
        assert next(events(answer))["type"] == "progress"
        goes_on.set()
        assert list(events(answer))[-1]["type"] == "done"


@contextlib.contextmanager
def served_with(session: Session, run: Any) -> Iterator[int]:
    """A session whose runs are these."""
    session.run = run  # type: ignore[method-assign]
    with served(session) as at:
        yield at


def test_two_tabs_take_turns_token_by_token_and_do_not_mix(session: Session) -> None:
    """Who began first does not have to end first, and each gets its own text."""
    order: list[str] = []
    both, work = threading.Barrier(2), session.run

    def run(given: Any, tell: Any) -> Any:
        def counted(event: Any) -> None:
            order.append(given["prompt"])
            tell(event)
            if order.count(given["prompt"]) == 1 and given["prompt"] == "first":
                time.sleep(0.5)  # until the other has come

        return work(given, counted)

    given = [RUN | {"prompt": "first", "tokens": 40}, RUN | {"prompt": "second", "tokens": 40}]
    alone = [shown([session.run(one, lambda event: None)]) for one in given]
    found: dict[int, list[dict[str, Any]]] = {}
    with served_with(session, run) as at:

        def tab(number: int) -> None:
            both.wait(30)
            if number:
                time.sleep(0.2)
            found[number] = list(events(asked(at, "/run", given[number])))

        tabs = [threading.Thread(target=tab, args=(number,)) for number in (0, 1)]
        for one in tabs:
            one.start()
        for one in tabs:
            one.join(60)
    assert [shown(found[number]) for number in (0, 1)] == alone and alone[0] != alone[1]
    changes = sum(a != b for a, b in itertools.pairwise(order))
    assert changes > 60, order
    assert found[1][0] == {"type": "waits", "others": 1}
    assert any(event.get("others") == 1 for event in found[0])


def test_a_closed_tab_frees_the_model(session: Session) -> None:
    told, ended, work = [], threading.Event(), session.run

    def run(given: Any, tell: Any) -> Any:
        def counted(event: Any) -> None:
            told.append(event)
            time.sleep(0.02)
            tell(event)

        try:
            return work(given, counted)
        finally:
            ended.set()

    with served_with(session, run) as at:
        connection = http.client.HTTPConnection("127.0.0.1", at, timeout=60)
        connection.request("POST", "/run", json.dumps(RUN | {"tokens": 200}), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert next(events(answer))["type"] == "progress"
        answer.close()
        connection.close()
        assert ended.wait(20) and len(told) < 200
        assert list(events(asked(at, "/run", RUN)))[-1]["type"] == "done"


def test_a_tab_that_is_closed_while_it_waits_frees_the_model(session: Session) -> None:
    begun, goes_on, work = threading.Event(), threading.Event(), session.run

    def run(given: Any, tell: Any) -> Any:
        begun.set()
        assert goes_on.wait(30)
        return work(given, tell)

    with served_with(session, run) as at:
        first = asked(at, "/run", RUN)
        assert begun.wait(30)
        connection = http.client.HTTPConnection("127.0.0.1", at, timeout=60)
        connection.request("POST", "/run", json.dumps(RUN), {"Content-Type": "application/json"})
        waiting = connection.getresponse()
        assert next(events(waiting)) == {"type": "waits", "others": 1}
        waiting.close()
        connection.close()
        time.sleep(0.3)
        goes_on.set()
        assert list(events(first))[-1]["type"] == "done"
        assert list(events(asked(at, "/run", RUN)))[-1]["type"] == "done"


# --- what is refused


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:80", "LOCALHOST"])
def test_this_machine_is_known_by_its_names(port: int, host: str) -> None:
    assert asked(port, "/", Host=host).status == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "evil@localhost", "0.0.0.0", "", "localhost:80:80"])  # fmt: skip
def test_another_host_is_refused(port: int, host: str) -> None:
    answer = asked(port, "/run", RUN, Host=host)
    assert answer.status == 400 and json.loads(answer.read())["message"] == f"expected localhost or 127.0.0.1 as the host, got {host}"  # fmt: skip


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1", "https://127.0.0.1"])
def test_a_page_of_another_site_is_refused(port: int, origin: str) -> None:
    assert asked(port, "/run", RUN, Origin=origin).status == 400
    assert asked(port, "/run", RUN, Origin=f"http://127.0.0.1:{port}").status == 200
    answer = asked(port, "/run", RUN, Content_Type="text/plain")  # which a form can send
    assert "expected a request in application/json, got text/plain" in json.loads(answer.read())["message"]


@pytest.mark.parametrize("path", ["/page.html", "/server.py", "/../server.py", "/%2e%2e/server.py", "//etc/passwd", "/run/../../x", "/static/x"])  # fmt: skip
def test_no_file_is_served_by_its_name(port: int, path: str) -> None:
    answer = asked(port, path)
    assert answer.status in (404, 405) and b"import" not in answer.read()


def test_too_large_a_request_is_refused_before_it_is_kept(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LARGEST", 2**20)
    answer = asked(port, "/run", RUN | {"prompt": "x" * 2**20})
    assert answer.status == 400
    assert json.loads(answer.read())["message"].startswith("expected a request of at most 1 MB, got a larger one")
    assert list(events(asked(port, "/run", RUN)))[-1]["type"] == "done"


@pytest.mark.parametrize("sent", [b"", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_refused(port: int, sent: bytes) -> None:
    answer = asked(port, "/run", sent)
    assert answer.status == 400
    assert json.loads(answer.read())["message"] == "expected a request in JSON, got other text"


def test_what_does_not_fit_is_said_in_the_stream(port: int) -> None:
    found = list(events(asked(port, "/run", RUN | {"tokens": 0})))
    assert found == [{"type": "error", "message": "expected tokens as a whole number from 1 to 200, got 0"}]
    assert list(events(asked(port, "/grid", RUN)))[-1]["message"].startswith("expected a text as word")


def test_a_mistake_of_ours_is_said_and_ends_nothing_else(
    session: Session, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(given: Any, tell: Any) -> Any:
        raise KeyError("a secret")

    with served_with(session, broken) as at:
        assert list(events(asked(at, "/run", RUN))) == [
            {"type": "error", "message": "something broke here (KeyError); the terminal says more"}
        ]
        assert list(events(asked(at, "/vector", VECTOR)))[-1]["type"] == "done"
    assert "KeyError: 'a secret'" in capfd.readouterr().err


# --- the command


def refused(*words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main(["play", *words])
    return str(ended.value.code)


def test_a_port_that_is_taken_is_said_in_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        said = refused("--port", str(number), "--no-browser")
    assert (
        said
        == f"ministeer: expected a free --port, got {number}, which is taken; end what runs there, or take another, or 0 for any (with make: PORT=0)"
    )


def test_without_its_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("ministeer.play")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    said = refused("--no-browser")
    assert (
        said
        == "ministeer: expected starlette and uvicorn, which serve the page, got no uvicorn; pip install 'ministeer[play]'"
    )


def test_it_prints_its_address_and_ctrl_c_ends_it_in_one_line() -> None:
    """Also while a text is written."""
    root = Path(__file__).parents[1]
    command = [sys.executable, "-m", "ministeer", "play", "--port", "0", "--no-browser"]
    settings = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=settings, cwd=root)
    try:
        assert run.stdout is not None
        said = run.stdout.readline()
        at = re.fullmatch(r"nano plays at http://127\.0\.0\.1:(\d+) \(Ctrl-C ends it\)\n", said)
        assert at, said
        assert b"plays with" in asked(int(at[1]), "/").read()
        answer = asked(int(at[1]), "/run", RUN | {"tokens": 200})
        assert next(events(answer))["type"] == "progress"
        run.send_signal(signal.SIGINT)
        out, err = run.communicate(timeout=60)
    finally:
        run.kill()
    assert (out, err.strip(), run.returncode) == ("", "ministeer: ended", 0)
