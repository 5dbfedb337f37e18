"""The routes of the service."""

from __future__ import annotations

import asyncio
import hmac
import io
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from segfast.encodings import KINDS
from segfast.engine import Engine
from segfast.errors import BadImage, NotSupported
from segfast.serving.accept import choose
from segfast.serving.limits import Limits
from segfast.stream import Stream

T = TypeVar("T")

PAGE = Path(__file__).with_name("page.html")
# The page loads nothing, and nothing may be loaded into it.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
# Full-size bodies that are held at once, those still arriving among them.
HELD = 16
HEADERS = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "1"}, 503: {"Retry-After": "5"}}


class upload(io.BytesIO):
    """A picture's bytes as an open file, which messages name by its class."""


class Service:
    """An Engine's routes, limits and counts.

    Args:
        token: that clients must send (`Authorization: Bearer TOKEN`), if any.
    """

    def __init__(self, engine: Engine, limits: Limits, token: str | None = None):
        self._limits, self._stream = limits, Stream(engine, limits.queue)
        self._wanted = None if token is None else f"Bearer {token}".encode()
        self._held = 0
        self._registry = CollectorRegistry()
        self._requests = Counter("segfast_requests", "answers by status", ["status"], registry=self._registry)
        self._seconds = Histogram("segfast_seconds", "of answers", buckets=SECONDS, registry=self._registry)
        waiting = Gauge("segfast_waiting", "pictures that wait", registry=self._registry)
        waiting.set_function(lambda: self._stream.waiting)

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/", self._page),
            Route("/segment", self._segment, methods=["POST"]),
            Route("/health", self._health),
            Route("/ready", self._ready),
            Route("/metrics", self._metrics),
        ]
        return Starlette(routes=routes, lifespan=self._lifespan, exception_handlers={HTTPException: _refuse})

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(self._stream.close)

    async def _segment(self, request: Request) -> Response:
        """POST /segment: one picture → its labels; whatever is wrong with it has a status and a reason."""
        start = perf_counter()
        try:
            response = await self._answer(request)
        except Exception as error:
            self._requests.labels(str(getattr(error, "status_code", 500))).inc()
            raise
        self._seconds.observe(perf_counter() - start)
        self._requests.labels("200").inc()
        return response

    async def _answer(self, request: Request) -> Response:
        kind = self._check(request)
        body = upload()
        try:
            await self._in_time(self._read(request, body), 408, "the picture did not arrive")
            return await self._in_time(self._found(body, kind), 503, "there was no answer")
        except (BadImage, NotSupported) as error:
            raise HTTPException(422, str(error)) from None
        except ClientDisconnect:
            raise HTTPException(400, "the connection ended before the picture") from None
        finally:
            self._held -= body.getbuffer().nbytes

    def _check(self, request: Request) -> str:
        """What the head of a request says; the kind of answer that it asks for."""
        self._check_token(request)
        kind = choose(request.headers.get("accept", "*/*"), KINDS)
        if kind is None:
            raise HTTPException(406, f"Accept must allow one of {', '.join(KINDS)}")
        # Other pages that a browser shows cannot send these types unasked.
        if not request.headers.get("content-type", "").lower().startswith(("image/", "application/octet-stream")):
            raise HTTPException(
                415, "send the picture's bytes as they are, with Content-Type: image/jpeg (or image/png, …)"
            )
        self._check_length(int(request.headers.get("content-length", 0)))  # digits, as h11 has seen
        self._check_room()
        return kind

    async def _read(self, request: Request, body: upload) -> None:
        """Fill the body, which counts as held from its first byte on."""
        async for chunk in request.stream():
            self._held += body.write(chunk)
            self._check_length(body.tell())
            self._check_room()

    async def _found(self, body: upload, kind: str) -> Response:
        """The answer for a body."""
        if await run_in_threadpool(self._limits.too_large, body):
            raise HTTPException(413, f"the picture has over {self._limits.max_pixels:,} pixels; send a smaller one")
        self._check_room()
        answer = await asyncio.wrap_future(self._stream.submit(body))
        return Response(await run_in_threadpool(KINDS[kind], answer), media_type=kind)

    async def _in_time(self, work: Awaitable[T], status: int, late: str) -> T:
        """What comes of work that has so many seconds."""
        try:
            async with asyncio.timeout(self._limits.seconds):
                return await work
        except TimeoutError:
            raise HTTPException(status, f"{late} within {self._limits.seconds} seconds; try again later") from None

    def _check_token(self, request: Request) -> None:
        given = request.headers.get("authorization", "").encode("latin-1", "replace")
        if self._wanted is not None and not hmac.compare_digest(given, self._wanted):
            raise HTTPException(401, "send the token: Authorization: Bearer TOKEN")

    def _check_length(self, length: int) -> None:
        if length > self._limits.max_bytes:
            raise HTTPException(413, f"the picture has over {self._limits.max_bytes:,} bytes; send a smaller one")

    def _check_room(self) -> None:
        if self._stream.full or self._held > HELD * self._limits.max_bytes:
            raise HTTPException(429, "too many pictures wait; try again in a second")

    async def _page(self, request: Request) -> Response:
        headers = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"}
        return HTMLResponse(PAGE.read_text(encoding="utf-8"), headers=headers)

    async def _health(self, request: Request) -> Response:
        return PlainTextResponse("alive\n")

    async def _ready(self, request: Request) -> Response:
        """Whether the next picture would be taken."""
        return PlainTextResponse("busy\n", 503) if self._stream.full else PlainTextResponse("ready\n")

    async def _metrics(self, request: Request) -> Response:
        self._check_token(request)
        return PlainTextResponse(generate_latest(self._registry), media_type="text/plain; version=0.0.4")


async def _refuse(request: Request, error: Exception) -> Response:
    """An answer with the reason; its connection ends, as the rest of a body may still be on its way."""
    assert isinstance(error, HTTPException)
    headers = {"Connection": "close", **HEADERS.get(error.status_code, {}), **(error.headers or {})}
    return JSONResponse({"error": error.detail}, error.status_code, headers)
