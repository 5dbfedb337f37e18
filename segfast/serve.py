"""Serve a model over HTTP, on this machine, with a page to try it.

    python -m segfast.serve seg-b-mask-16-512-fp16.onnx
    curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' http://127.0.0.1:8000/segment
    curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' -H 'Accept: image/png' -o labels.png http://127.0.0.1:8000/segment

POST /segment takes one picture and gives JSON, labels (image/png) or an overlay (image/jpeg), by `Accept`. / is a
page, /health, /ready and /metrics are for what watches the service. Ctrl-C or SIGTERM answers what has come, and ends.
"""

from __future__ import annotations

import argparse
import socket
from contextlib import suppress
from pathlib import Path

from segfast import cli
from segfast.dependencies.imports import need
from segfast.errors import BadOption

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def main() -> int:
    """Serve until a signal comes; 0 when all that had come was answered."""
    options = _parse()
    token = _token(options.token_file)
    need("serve", "starlette", "uvicorn", "prometheus_client", "h11")
    listener = _bind(options.host, options.port)

    import uvicorn

    from segfast.engine import Engine
    from segfast.serving.app import Service
    from segfast.serving.protocol import Patient
    from segfast.serving.uploads import Limits

    limits = Limits(options.max_bytes, options.max_pixels, options.seconds, options.queue)
    engine = Engine(options.engine, **{name: getattr(options, name) for name in ("runtime", "device", "threads")})
    print(engine)
    engine.warm_up()
    if options.host not in LOOPBACK and token is None:
        print(f"anyone who reaches {options.host} may use this: --token-file keeps others out")
    config = uvicorn.Config(
        Service(engine, limits, token).app(),
        http=Patient,
        ws="none",
        log_level="error",
        access_log=False,
        server_header=False,
        limit_concurrency=options.connections,
        timeout_graceful_shutdown=int(limits.seconds) + 1,
    )
    server = uvicorn.Server(config)
    print(f"http://{f'[{options.host}]' if ':' in options.host else options.host}:{options.port}", flush=True)
    with suppress(KeyboardInterrupt):  # the signal that ended it, which uvicorn raises again
        server.run([listener])
    return 0 if server.started else 1


def _bind(host: str, port: int) -> socket.socket:
    """The socket of an address, before a model is read for it; it listens once the service starts."""
    listener = None
    try:
        if port > 65535:  # getaddrinfo takes it modulo 2^16
            raise OverflowError("ports end at 65535")
        family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        return listener
    except (OSError, OverflowError) as error:
        if listener is not None:
            listener.close()
        raise BadOption(f"cannot listen on {host}, port {port} ({error}); choose others: --host, --port") from None


def _token(path: str | None) -> str | None:
    """What the file of a token holds, without the white space around it."""
    if path is None:
        return None
    try:
        token = Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadOption(f"--token-file takes a file that holds the token, in ASCII; {path}: {error}") from None
    if not token:
        raise BadOption(f"{path} is empty; put a token into it: openssl rand -hex 32 > {path}")
    return token


def _parse() -> argparse.Namespace:
    parser = cli.parser("segfast.serve", __doc__)
    parser.add_argument("engine", metavar="MODEL", help=".onnx or .engine file, checkpoint, or published name")
    parser.add_argument("--host", default="127.0.0.1", help="to listen on (default: this machine alone, 127.0.0.1)")
    parser.add_argument("--port", type=cli.positive, default=8000, help="(default: 8000)")
    parser.add_argument("--token-file", metavar="FILE", help="a file with the token that clients must send")
    parser.add_argument("--max-bytes", type=cli.positive, default=16 << 20, help="of a picture (default: 16 MiB)")
    parser.add_argument("--max-pixels", type=cli.positive, default=1 << 24, help="of a picture (default: 2^24)")
    parser.add_argument(
        "--seconds", type=cli.positive, default=30, help="for a picture to arrive, and for its answer (default: 30)"
    )
    parser.add_argument("--queue", type=cli.positive, default=32, help="pictures that wait at most (default: 32)")
    parser.add_argument("--connections", type=cli.positive, default=256, help="open at most (default: 256)")
    cli.add_runtime(parser)
    return parser.parse_args()


if __name__ == "__main__":
    cli.run(main)
