"""A real OpenSSH server on this machine, unprivileged unless the tests are not, with keys of its own."""

from __future__ import annotations

import getpass
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from needed_tools import need_tool


@dataclass(frozen=True)
class SshServer:
    """A server that lets in who runs the tests.

    Args:
        folder: everything of it.
        process: the server.
        port: on 127.0.0.1.
    """

    folder: Path
    process: subprocess.Popen[bytes]
    port: int

    @property
    def target(self) -> str:
        """As ``bibench measure`` takes it."""
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}"

    @property
    def config(self) -> Path:
        """The client's settings: its key, and the key that the server has."""
        return self.folder / "client_config"

    @property
    def temporary(self) -> Path:
        """``TMPDIR`` of its sessions."""
        return self.folder / "tmp"

    def client_config(self, name: str, *, key: str = "client_key", known: str = "known_hosts") -> Path:
        """Other settings of the client."""
        path = self.folder / name
        path.write_text(
            f"Host *\nIdentityFile {self.folder / key}\nIdentitiesOnly yes\nIdentityAgent none\n"
            f"UserKnownHostsFile {self.folder / known}\nGlobalKnownHostsFile /dev/null\n"
        )
        return path

    def hang_up(self) -> None:
        """End all connections; new ones are possible."""
        for connection in _connections(self.process.pid):
            os.kill(connection, signal.SIGKILL)

    def stop(self) -> None:
        """End it, and all connections."""
        self.process.send_signal(signal.SIGSTOP)  # so that no connection is made meanwhile
        self.hang_up()
        self.process.kill()
        self.process.wait()


def _connections(pid: int) -> list[int]:
    """The server's processes below one: not the commands that they run."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        if Path(f"/proc/{child}/comm").read_text().startswith("sshd"):
            found += [int(child), *_connections(int(child))]
    return found


def _key(path: Path) -> str:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path.with_suffix(".pub").read_text()


@contextmanager
def ssh_server(folder: Path, settings: str = "") -> Iterator[SshServer]:
    """Start a server in a folder that is empty; ``settings`` are lines of its configuration."""
    program = need_tool("sshd", "openssh-server")
    need_tool("ssh", "openssh-client")
    if os.geteuid() == 0:  # where a privileged server locks up its unprivileged part
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    (folder / "tmp").mkdir(parents=True)
    for name in ("host_key", "client_key", "other_key"):
        _key(folder / name)
    for _ in range(5):  # the port was free a moment ago
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        (folder / "server_config").write_text(
            f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {folder}/client_key.pub\nStrictModes no\nPasswordAuthentication no\n"
            f"SetEnv TMPDIR={folder}/tmp HOME={folder}\n{settings}"
        )
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([program, "-D", "-e", "-f", folder / "server_config"], stderr=log)
        if _listens(process, port):
            break
    else:
        raise AssertionError((folder / "log").read_text())
    server = SshServer(folder, process, port)
    host = (folder / "host_key.pub").read_text()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host}")
    (folder / "other_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'other_key.pub').read_text()}")
    (folder / "no_hosts").write_text("")
    server.client_config("client_config")
    try:
        yield server
    finally:
        if process.poll() is None:
            server.stop()


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return True
        time.sleep(0.02)
    process.kill()
    process.wait()
    return False
