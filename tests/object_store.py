"""A server that speaks S3's protocol, on loopback, and a line to it that can be cut."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import fsspec

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "a-secret-key", "AWS_DEFAULT_REGION": "us-east-1"}

UNCONDITIONAL = """
import sys
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple
app = DomainDispatcherApplication(create_backend_app)
def ignoring(environ, start):
    environ.pop("HTTP_IF_NONE_MATCH", None)
    return app(environ, start)
run_simple("127.0.0.1", int(sys.argv[1]), ignoring, threaded=True)
"""


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


@contextmanager
def server(*, conditional: bool = True) -> Iterator[int]:
    """The port of an S3 server with a bucket ``results``; without ``conditional`` one that ignores If-None-Match."""
    port = free_port()
    command = ["-m", "moto.server", "-p", str(port)] if conditional else ["-c", UNCONDITIONAL, str(port)]
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < end, "the S3 server doesn't start"
                assert process.poll() is None, "the S3 server ended"
                time.sleep(0.1)
        files = fsspec.filesystem("s3", key="test", secret="a", endpoint_url=f"http://127.0.0.1:{port}", anon=False)
        files.mkdir("results")
        yield port
    finally:
        process.kill()
        process.wait()


def environment(port: int) -> dict[str, str]:
    """What s3fs reads: keys, and the address of the server."""
    return KEYS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}


class Line:
    """A port that hands on to another one, unless it is cut: then it closes what is open and takes nothing new."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.cut = False
        self.refused = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                here, _ = self._server.accept()
            except OSError:
                return
            if self.cut:
                self.refused += 1
                here.close()
                continue
            threading.Thread(target=self._hand_on, args=(here,), daemon=True).start()

    def _hand_on(self, here: socket.socket) -> None:
        with here, socket.create_connection(("127.0.0.1", self.target)) as there:
            while not self.cut:
                ready, _, _ = select.select([here, there], [], [], 0.1)
                for source in ready:
                    content = source.recv(65536)
                    if not content:
                        return
                    (there if source is here else here).sendall(content)

    def close(self) -> None:
        self._server.close()


def without_keys() -> dict[str, str]:
    """This process's environment, with nothing of Amazon's in it."""
    return {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
