"""The service as a user starts it, for as long as a block lasts; it must end well."""

import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from http.client import HTTPConnection


@contextmanager
def started(model, *options):
    """The port of the service, and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "segfast.serve", str(model), "--port", str(port), *map(str, options)]
    )
    try:
        while not is_ready(port):
            assert process.poll() is None, "the service has ended"
            time.sleep(0.2)
        yield port, process
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 0
    finally:
        process.kill()


def is_ready(port):
    try:
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
