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
from dataclasses import fields
from pathlib import Path

from segfast import cli
from segfast.dependencies.imports import need
from segfast.errors import BadOption
from segfast.serving.limits import Limits

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

    limits = Limits(**{limit.name: getattr(options, limit.name) for limit in fields(Limits)})
    engine = Engine(options.engine, runtime=options.runtime, device=options.device, threads=options.threads)
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
        limit_concurrency=limits.connections,
        timeout_graceful_shutdown=limits.seconds + 1,
    )
    server = uvicorn.Server(config)
    listener.listen()  # whoever reads the address may connect
    host, port = listener.getsockname()[:2]
    print(f"http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
    with suppress(KeyboardInterrupt):  # the signal that ended it, which uvicorn raises again
        server.run([listener])
    return 0 if server.started else 1


def _bind(host: str, port: int) -> socket.socket:
    """The socket of an address, before a model is read for it; it listens once the model is ready."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        raise BadOption(f"cannot listen on {host}, port {port} ({error}); choose others: --host, --port") from None
    return listener


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
    parser.add_argument("--port", type=int, default=8000, help="0: any that is free, which is printed (default: 8000)")
    parser.add_argument("--token-file", metavar="FILE", help="a file with the token that clients must send")
    for limit in fields(Limits):
        name, default = limit.name.replace("_", "-"), limit.default
        parser.add_argument(
            f"--{name}", type=cli.positive, default=default, help=f"{limit.metadata['help']} (default: {default})"
        )
    cli.add_runtime(parser)
    return parser.parse_args()


if __name__ == "__main__":
    cli.run(main)
