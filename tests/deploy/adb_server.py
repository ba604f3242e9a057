"""A server of the protocol that the ``adb`` client speaks, whose one device is this machine.

Written from the protocol's description: requests are four hexadecimal digits of length and a text, answers ``OKAY`` or
``FAIL``; a shell's packets are one byte of kind, four of length and the content.
"""

from __future__ import annotations

import os
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from needed_tools import need_tool

SERIAL = "emulator-5554"
_VERSION = 41
_STDIN, _STDOUT, _STDERR, _EXIT, _CLOSE_STDIN = range(5)


class AdbServer(socketserver.ThreadingTCPServer):
    """A server on a free port of 127.0.0.1.

    Attributes:
        temporary: ``TMPDIR`` of its shells.
        connected: whether the device is; `unplug` ends its shells too.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, temporary: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.temporary = temporary
        self.connected = True
        self.shells: list[_Connection] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def unplug(self, *, for_good: bool) -> None:
        """Take the device away, and give it back at once unless it is for good."""
        self.connected = not for_good
        for shell in self.shells:
            with suppress(OSError):  # it is over already
                shell.request.shutdown(2)


class _Connection(socketserver.StreamRequestHandler):
    server: AdbServer

    def handle(self) -> None:
        while head := self.rfile.read(4):
            request = self.rfile.read(int(head, 16)).decode()
            if request.startswith("host-serial:") and not self._known(request.split(":")[1]):
                return
            if request == "host:version":
                self._answer(f"{_VERSION:04x}")
                return
            if request.endswith(":features"):
                self._answer("shell_v2,cmd")
                return
            if request.startswith(("host:transport:", "host:tport:serial:")):
                if not self._known(request.rpartition(":")[2]):
                    return
                self.wfile.write(b"OKAY" + bytes(8) * request.startswith("host:tport"))
            elif request.startswith("shell,v2"):
                self.wfile.write(b"OKAY")
                self.server.shells.append(self)
                self._shell(request.partition(":")[2])
                self.server.shells.remove(self)
                return
            else:
                self._fail(f"unknown request {request}")
                return

    def _known(self, serial: str) -> bool:
        if self.server.connected and serial == SERIAL:
            return True
        self._fail(f"device '{serial}' not found")
        return False

    def _answer(self, text: str) -> None:
        self.wfile.write(f"OKAY{len(text):04x}{text}".encode())

    def _fail(self, text: str) -> None:
        self.wfile.write(f"FAIL{len(text):04x}{text}".encode())

    def _shell(self, command: str) -> None:
        environment = {**os.environ, "TMPDIR": str(self.server.temporary)}
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        with subprocess.Popen(["sh", "-c", command], env=environment, **pipes) as process:
            lock = threading.Lock()
            threads = [
                threading.Thread(target=self._forward, args=(pipe, kind, lock))
                for pipe, kind in ((process.stdout, _STDOUT), (process.stderr, _STDERR))
            ]
            for thread in threads:
                thread.start()
            feeding = threading.Thread(target=self._feed, args=(process.stdin,), daemon=True)
            feeding.start()
            for thread in threads:
                thread.join()
            status = process.wait()
        self._packet(_EXIT, bytes([status if status >= 0 else 128 - status]), lock)

    def _feed(self, pipe: Any) -> None:
        try:
            while len(head := self.rfile.read(5)) == 5:
                content = self.rfile.read(int.from_bytes(head[1:], "little"))
                if head[0] == _STDIN:
                    pipe.write(content)
                    pipe.flush()
                elif head[0] == _CLOSE_STDIN:
                    break
            pipe.close()
        except (OSError, ValueError):  # the command takes no more, or is over
            pass

    def _forward(self, pipe: Any, kind: int, lock: threading.Lock) -> None:
        with pipe:  # closed when nobody listens any more, of which the command ends
            while (part := pipe.read1(1 << 14)) and self._packet(kind, part, lock):
                pass

    def _packet(self, kind: int, content: bytes, lock: threading.Lock) -> bool:
        """Send a packet; False if nobody listens any more."""
        try:
            with lock:
                self.wfile.write(bytes([kind]) + len(content).to_bytes(4, "little") + content)
        except OSError:
            return False
        return True


@contextmanager
def adb_server(temporary: Path) -> Iterator[AdbServer]:
    """Start a server; its shells make folders in ``temporary``, which is made."""
    need_tool("adb", "adb")
    temporary.mkdir()
    with AdbServer(temporary) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
