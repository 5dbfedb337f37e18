"""The service as a user starts it, for as long as a block lasts; it must end well."""

import signal
import subprocess
import sys
from contextlib import contextmanager


@contextmanager
def started(model, *options):
    """The port of the service, and its process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "segfast.serve", str(model), "--port", "0", *map(str, options)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        address = next((line for line in process.stdout if line.startswith("http://")), None)
        assert address is not None, "the service has ended"
        yield int(address.rpartition(":")[2]), process
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 0
    finally:
        process.kill()
