"""The web edge of the playground: one page, and what it asks for as server-sent events. On this machine only.

A run works in a thread of its own, and tells what it finds event by event; with each event it passes the model on to who has waited longest,
and ends if its page has gone.
"""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import contextlib
import json
import re
import socket
import sys
import traceback
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ministeer.model import expect
from ministeer.play.session import Event, Session, Tell

LARGEST = (
    16 * 2**20
)  # bytes of a request: a vector of every layer of a model of 70 billion parameters, in base64, is 4 MB
HERE = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d+)?", re.IGNORECASE)
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


def application(session: Session) -> ASGIApp:
    """The page and its four questions, for a session."""
    here = Path(__file__).parent
    page = (here / "page.html").read_text(encoding="utf-8")
    drawing = base64.b64encode((here / "stream.svg").read_bytes()).decode()
    about = json.dumps(session.about).replace("<", "\\u003c")  # so that no name in it ends the script
    turns = Turns()

    async def show(_: Request) -> Response:
        return HTMLResponse(page.replace("{STREAM}", drawing).replace("{ABOUT}", about))

    def answers(work: Callable[[Any, Tell], Event]) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            try:
                given = await body(request)
            except ValueError as error:
                return refused(str(error))
            return Events(turns, lambda tell: work(given, tell))

        return answer

    questions = {"run": session.run, "vector": session.vector, "save": session.saved, "grid": session.grid}
    routes = [Route(f"/{name}", answers(work), methods=["POST"]) for name, work in questions.items()]
    return guarded(Starlette(routes=[Route("/", show), *routes]))


def guarded(app: ASGIApp) -> ASGIApp:
    """Nothing for a page of another site: neither under a name that it made point here, nor sent across from it."""

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await app(scope, receive, send)
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get("host", ""), headers.get("origin")
        if not HERE.fullmatch(host) or origin not in (None, f"http://{host}"):
            got = host if not HERE.fullmatch(host) else f"a request from {origin}"
            return await refused(f"expected localhost or 127.0.0.1 as the host, got {got[:80]}")(scope, receive, send)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                more = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *more]}
            await send(message)

        await app(scope, receive, with_headers)

    return guard


def refused(message: str) -> Response:
    return JSONResponse({"type": "error", "message": message}, status_code=400)


async def body(request: Request) -> Any:
    """The JSON that was sent; refused before more than `LARGEST` bytes of it are kept."""
    kind = request.headers.get("content-type", "").partition(";")[0]
    expect(kind == "application/json", "a request in application/json", kind[:40] or "another kind")
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        expect(
            size <= LARGEST,
            f"a request of at most {LARGEST // 2**20} MB",
            "a larger one",
            "send fewer or shorter texts",
        )
        parts.append(part)
    try:
        return json.loads(b"".join(parts))
    except (ValueError, RecursionError):
        raise ValueError("expected a request in JSON, got other text") from None


class Turns:
    """The model, which one run has at a time, in the order in which they came."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()  # first come, first served
        self.runs = 0


class Events(Response):
    """What a piece of work tells, and at last returns, as server-sent events; it ends when nobody listens any more."""

    def __init__(self, turns: Turns, work: Callable[[Tell], Event]) -> None:
        super().__init__(media_type="text/event-stream")
        self.turns, self.work, self.holds = turns, work, False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = [(name, value) for name, value in self.raw_headers if name != b"content-length"]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        self.turns.runs += 1
        try:
            async with anyio.create_task_group() as group:

                async def leave_with_the_page() -> None:
                    while (await receive())["type"] != "http.disconnect":
                        pass
                    group.cancel_scope.cancel()

                group.start_soon(leave_with_the_page)
                await self._work(send)
                group.cancel_scope.cancel()
        finally:
            self._pass_on()
            self.turns.runs -= 1

    async def _work(self, send: Send) -> None:
        async def said(event: Event) -> None:
            text = f"data: {json.dumps(event)}\n\n"
            await send({"type": "http.response.body", "body": text.encode(), "more_body": True})

        async def next_turn(event: Event) -> None:
            await said(event | ({"others": self.turns.runs - 1} if self.turns.runs > 1 else {}))
            self._pass_on()
            await self._take()

        def tell(event: Event) -> None:
            anyio.from_thread.check_cancelled()  # the page has gone
            anyio.from_thread.run(next_turn, event)

        if self.turns.runs > 1:
            await said({"type": "waits", "others": self.turns.runs - 1})
        await self._take()
        try:
            event = await anyio.to_thread.run_sync(self.work, tell)
        except concurrent.futures.CancelledError:  # the page went while the work waited for its turn
            return
        except (ValueError, OSError, ImportError) as error:
            event = {"type": "error", "message": " ".join(str(error).split())}
        except Exception as error:  # noqa: BLE001 - a mistake of ours: the page says it, the terminal where
            traceback.print_exc()
            event = {
                "type": "error",
                "message": f"something broke here ({type(error).__name__}); the terminal says more",
            }
        self._pass_on()
        await said(event)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _take(self) -> None:
        await self.turns.lock.acquire()
        self.holds = True

    def _pass_on(self) -> None:
        if self.holds:
            self.holds = False
            self.turns.lock.release()


def listening(port: int) -> socket.socket:
    """A socket of this machine alone, at a port, or with 0 at a free one."""
    expect(0 <= port < 2**16, "a port from 0 to 65535", port)
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind(("127.0.0.1", port))
    except OSError:
        found.close()
        raise ValueError(
            f"expected a free --port, got {port}, which is taken; end what runs there, or take another, or 0 for any (with make: PORT=0)"
        ) from None
    found.listen()
    return found


def settings(session: Session) -> uvicorn.Config:
    """Of a server that says nothing itself."""
    return uvicorn.Config(application(session), log_config=None, log_level="critical", access_log=False, lifespan="off", ws="none", timeout_graceful_shutdown=1)  # fmt: skip


def serve(session: Session, at: socket.socket, browser: bool = True) -> None:
    """Serve until Ctrl-C; print the address, and open it in a browser."""
    address = f"http://127.0.0.1:{at.getsockname()[1]}"
    print(f"{session.name} plays at {address} (Ctrl-C ends it)", flush=True)
    if browser:
        webbrowser.open(address)
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(settings(session)).run(sockets=[at])
    print("\nministeer: ended", file=sys.stderr)
