"""The routes of the service."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from queue import Full
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from segfast.engine import Engine
from segfast.errors import BadImage, NotSupported
from segfast.serving import answers
from segfast.serving.stream import Stream
from segfast.serving.uploads import HELD, Limits, Refused

PAGE = Path(__file__).with_name("page.html")
# The page loads nothing, and nothing may be loaded into it.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Service:
    """An Engine's routes, limits and counts.

    Args:
        token: that clients must send (`Authorization: Bearer TOKEN`), if any.
    """

    def __init__(self, engine: Engine, limits: Limits, token: str | None = None):
        self.limits, self._engine = limits, engine
        self._wanted = None if token is None else f"Bearer {token}".encode()
        self._held = 0
        self._stream: Stream | None = None
        self._registry = CollectorRegistry()
        self._requests = Counter("segfast_requests", "answers by status", ["status"], registry=self._registry)
        self._seconds = Histogram("segfast_seconds", "of answers", buckets=SECONDS, registry=self._registry)
        waiting = Gauge("segfast_waiting", "pictures that wait", registry=self._registry)
        waiting.set_function(lambda: self._stream.waiting if self._stream else 0)

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/", self._page),
            Route("/segment", self._segment, methods=["POST"]),
            Route("/health", self._health),
            Route("/ready", self._ready),
            Route("/metrics", self._metrics),
        ]
        return Starlette(routes=routes, lifespan=self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self._stream = Stream(self._engine, self.limits.queue)
        yield
        stream, self._stream = self._stream, None
        await run_in_threadpool(stream.close)

    async def _segment(self, request: Request) -> Response:
        """POST /segment: one picture → its labels; whatever is wrong with it has a status and a reason."""
        start = perf_counter()
        try:
            response = await self._answer(request)
            self._seconds.observe(perf_counter() - start)
        except Refused as refused:
            response = _refusal(refused.status, refused.reason)
        except (BadImage, NotSupported) as error:
            response = _refusal(422, str(error))
        except ClientDisconnect:
            response = _refusal(400, "the connection ended before the picture")
        except Exception:
            self._requests.labels("500").inc()
            raise
        self._requests.labels(str(response.status_code)).inc()
        return response

    async def _answer(self, request: Request) -> Response:
        self._check_token(request)
        kind = answers.choose(request.headers.get("accept", "*/*"))
        if kind is None:
            raise Refused(406, f"Accept must allow one of {', '.join(answers.KINDS)}")
        self.limits.check_type(request.headers.get("content-type", ""))
        stream = self._stream
        if stream is None or stream.full:
            raise _full()
        async with self._in_time(408, "the picture did not arrive"):
            body = await self._read(request)
        try:
            async with self._in_time(503, "there was no answer"):
                picture = await run_in_threadpool(self.limits.open, body)
                answer = await asyncio.wrap_future(stream.submit(picture))
                return Response(await run_in_threadpool(answers.KINDS[kind], answer), media_type=kind)
        except Full:
            raise _full() from None
        finally:
            self._held -= len(body)

    @asynccontextmanager
    async def _in_time(self, status: int, late: str) -> AsyncIterator[None]:
        """A block that has so many seconds."""
        try:
            async with asyncio.timeout(self.limits.seconds):
                yield
        except TimeoutError:
            raise Refused(status, f"{late} within {self.limits.seconds:g} seconds; try again later") from None

    async def _read(self, request: Request) -> bytes:
        """The body, counted as held from its first byte on; if this fails, no longer."""
        declared = request.headers.get("content-length", "0")
        self.limits.check_length(int(declared) if declared.isdecimal() else 0)
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                self._held += len(chunk)
                self.limits.check_length(len(body))
                if self._held > HELD * self.limits.max_bytes:
                    raise _full()
        except BaseException:
            self._held -= len(body)
            raise
        return bytes(body)

    def _check_token(self, request: Request) -> None:
        given = request.headers.get("authorization", "").encode("latin-1", "replace")
        if self._wanted is not None and not hmac.compare_digest(given, self._wanted):
            raise Refused(401, "send the token: Authorization: Bearer TOKEN")

    async def _page(self, request: Request) -> Response:
        headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"}
        return HTMLResponse(PAGE.read_text(encoding="utf-8"), headers=headers)

    async def _health(self, request: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def _ready(self, request: Request) -> Response:
        """Whether the next picture would be taken."""
        ready = self._stream is not None and not self._stream.full
        return PlainTextResponse("ready\n" if ready else "busy\n", 200 if ready else 503)

    async def _metrics(self, request: Request) -> Response:
        try:
            self._check_token(request)
        except Refused as refused:
            return _refusal(refused.status, refused.reason)
        return PlainTextResponse(generate_latest(self._registry), media_type="text/plain; version=0.0.4")


def _full() -> Refused:
    return Refused(429, "too many pictures wait; try again in a second")


def _refusal(status: int, reason: str) -> Response:
    """An answer with the reason; its connection ends, as the rest of a body may still be on its way."""
    more = {429: {"Retry-After": "1"}, 503: {"Retry-After": "5"}, 401: {"WWW-Authenticate": "Bearer"}}
    return JSONResponse({"error": reason}, status, {"Connection": "close", **more.get(status, {})})
