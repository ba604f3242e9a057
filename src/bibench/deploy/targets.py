"""Machines that commands run on: this one, one behind ssh, one behind adb. What comes from there is bounded."""

from __future__ import annotations

import os
import re
import selectors
import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

__all__ = ["Done", "Target", "TargetError", "parse_target"]

_MOST_OUTPUT = 1 << 20
_SECONDS = 30.0
_PUSH_SECONDS = 600.0
_SSH = (
    "ssh",
    "-T",
    *("-o", "BatchMode=yes"),
    *("-o", "StrictHostKeyChecking=yes"),
    *("-o", "ConnectTimeout=10"),
    *("-o", "ServerAliveInterval=5"),
    *("-o", "ServerAliveCountMax=3"),
    *("-o", "LogLevel=ERROR"),
)
_TELL = ("sh", "-c", '"$@"; echo "[$?]" >&2', "sh")
"""Runs a command and says how it ended: when a connection breaks, adb's own exit status is that of a success."""
_TOLD = re.compile(r"(?P<err>.*)\[(?P<status>[0-9]{1,3})\]\r?\n", re.DOTALL | re.ASCII)
_USER = r"[A-Za-z_][A-Za-z0-9_.-]{0,63}"
_HOST = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,252}|\[[0-9A-Fa-f:.]{2,45}\]"
_SSH_TARGET = re.compile(rf"ssh://(?:(?P<user>{_USER})@)?(?P<host>{_HOST})(?::(?P<port>[0-9]{{1,5}}))?", re.ASCII)
_ADB_TARGET = re.compile(r"adb://(?P<serial>[A-Za-z0-9][A-Za-z0-9_.:-]{0,127})", re.ASCII)
_FOLDER = re.compile(r"/[ -~]{0,200}/bibench\.[A-Za-z0-9]{8}", re.ASCII)


class TargetError(ValueError):
    """A machine that can't be used, or a command that failed there; the message says which, why and what to do."""


@dataclass(frozen=True)
class Done:
    """A command that ended: its exit status (negative: the signal that ended it), output and error output."""

    status: int
    out: str
    err: str

    @property
    def reason(self) -> str:
        """Why it failed, in one line of printable characters."""
        said = " ".join("".join(letter if letter.isprintable() else " " for letter in self.err).split())
        return said[:300] or f"status {self.status}"


@dataclass(frozen=True)
class Target:
    """A machine that commands run on. See `parse_target`.

    Args:
        text: as a person names it.
        prefix: the command of this machine that runs one there; empty for this machine itself.
        temporary: where folders are made, unless ``TMPDIR`` says so there.
    """

    text: str
    prefix: tuple[str, ...] = ()
    temporary: str = "/tmp"  # noqa: S108 - `mktemp` makes a folder of its own below

    def run(self, argv: Sequence[str], *, seconds: float = _SECONDS, source: Path | None = None) -> Done:
        """Run a command there.

        Args:
            argv: program and arguments, in any characters.
            seconds: after which it is given up.
            source: a file that it gets as its input; none by default.

        Raises:
            TargetError: the machine can't be reached, or the command can't be started, takes too long or says too much.

        >>> parse_target("local").run(["echo", "a  b;c"]).out
        'a  b;c\\n'
        """
        command = [*self.prefix, shlex.join([*_TELL, *argv])] if self.prefix else [*argv]
        name = PurePosixPath(argv[0]).name
        try:
            done = _call(command, seconds, source)
        except subprocess.TimeoutExpired as error:
            raise TargetError(f"{self.text}: {name}: no answer within {seconds:g} s") from error
        except OverflowError as error:
            raise TargetError(f"{self.text}: {name}: stopped after {_MOST_OUTPUT:,} bytes of output") from error
        except OSError as error:
            program = PurePosixPath(command[0]).name
            what = f"{source} can't be read" if str(error.filename) == str(source) else f"{program} can't be started"
            raise TargetError(f"{self.text}: {what}: {error.strerror or error}") from error
        return self._ended(done) if self.prefix else done

    def output(self, argv: Sequence[str]) -> str:
        """What a command prints that must succeed, without blanks around.

        Raises:
            TargetError: as `run`, or it failed.
        """
        done = self.run(argv)
        if done.status:
            raise TargetError(f"{self.text}: {argv[0]} failed: {done.reason}")
        return done.out.strip()

    def push(self, source: Path, path: str) -> None:
        """Copy a file there; it can be executed by the owner, and read by nobody else.

        Raises:
            TargetError: as `run`, there is no room, or the file can't be read here.
        """
        script = 'umask 077 && cat > "$1" && chmod 700 "$1"'
        done = self.run(["sh", "-c", script, "sh", path], seconds=_PUSH_SECONDS, source=source)
        if done.status:
            raise TargetError(f"{self.text}: {source.name} can't be copied there: {done.reason}")

    @contextmanager
    def folder(self) -> Iterator[str]:
        """A new folder there that nobody else can read, removed afterwards, after failures too.

        Raises:
            TargetError: as `run`, or it can't be made, or not removed; the message then says where it is.
        """
        path = self.output(["sh", "-c", 'mktemp -d "${TMPDIR:-$1}/bibench.XXXXXXXX"', "sh", self.temporary])
        if not _FOLDER.fullmatch(path) or "/../" in path:
            raise TargetError(f"{self.text}: mktemp gave {path[:100]!a}: expected the path of a new folder")
        try:
            yield path
        except BaseException as error:
            try:
                self._remove(path)
            except TargetError as second:
                if not isinstance(error, Exception):  # a person stops it, and isn't told that a machine failed
                    raise error from second
                raise TargetError(f"{str(error) or type(error).__name__}; {path} is left there") from second
            raise
        self._remove(path)

    def _remove(self, path: str) -> None:
        done = self.run(["rm", "-rf", path])
        if done.status:
            raise TargetError(f"{self.text}: {path} can't be removed there: {done.reason}")

    def _ended(self, done: Done) -> Done:
        """How the command ended there, which is not how the one here did."""
        told = _TOLD.fullmatch(done.err)
        if told:
            return Done(int(told["status"]), done.out, told["err"])
        advice = ""
        if "ost key" in done.err or "HOST IDENTIFICATION" in done.err:
            advice = f"; compare its key with the device's and accept it once: {shlex.join(self._by_hand)}"
        elif "Permission denied" in done.err:
            advice = "; it needs a key that asks for no password (ssh-copy-id, ssh-agent)"
        reason = done.reason if done.err.strip() else "it ended in the middle"
        raise TargetError(f"{self.text}: the connection failed: {reason}{advice}")

    @property
    def _by_hand(self) -> tuple[str, ...]:
        """The command with which a person connects."""
        return ("ssh", *self.prefix[len(_SSH) :])


def parse_target(text: str, *, ssh_config: Path | None = None) -> Target:
    """The machine of a name: ``local``, ``ssh://[user@]host[:port]`` or ``adb://serial``.

    ssh is OpenSSH's own, with the settings of the person who calls it, save that it never asks and that the host's key
    must be known.

    Args:
        text: the name. Only letters, digits and ``_ . -`` make up its parts, none of which can be taken for an option.
        ssh_config: settings of ssh in place of ``~/.ssh/config``.

    Raises:
        TargetError: not such a name.

    >>> parse_target("ssh://pi@camera:2222").prefix[-5:]
    ('-p', '2222', '-l', 'pi', 'camera')
    >>> parse_target("ssh://-oProxyCommand=reboot")
    Traceback (most recent call last):
    bibench.deploy.targets.TargetError: target 'ssh://-oProxyCommand=reboot': expected local, ssh://user@host,
        ssh://user@host:port or adb://serial, of letters, digits and _ . -
    """
    if text == "local":
        return Target(text)
    found = _SSH_TARGET.fullmatch(text)
    if found and (found["port"] is None or 1 <= int(found["port"]) <= 65535):
        settings = () if ssh_config is None else ("-F", str(ssh_config.absolute()))
        port = () if found["port"] is None else ("-p", found["port"])
        user = () if found["user"] is None else ("-l", found["user"])
        return Target(text, (*_SSH, *settings, *port, *user, found["host"].strip("[]")))
    found = _ADB_TARGET.fullmatch(text)
    if found:
        return Target(text, ("adb", "-s", found["serial"], "shell", "-T"), "/data/local/tmp")
    raise TargetError(
        f"target {text[:100]!a}: expected local, ssh://user@host, ssh://user@host:port or adb://serial, of letters, "
        "digits and _ . -"
    )


def _call(command: Sequence[str], seconds: float, source: Path | None) -> Done:
    """Run a command of this machine.

    Raises:
        OSError: it can't be started, or the source not be read.
        TimeoutExpired: it takes longer.
        OverflowError: it prints more than `_MOST_OUTPUT` bytes.
    """
    end = time.monotonic() + seconds
    with (
        open(os.devnull if source is None else source, "rb") as given,
        subprocess.Popen(command, stdin=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process,  # noqa: S603
    ):
        try:
            out, err = _read((process.stdout, process.stderr), end)
            status = process.wait(max(0.0, end - time.monotonic()))
        except BaseException:
            process.kill()
            raise
    return Done(status, out.decode(errors="replace"), err.decode(errors="replace"))


def _read(pipes: Sequence[IO[bytes] | None], end: float) -> list[bytearray]:
    """What comes out of pipes until all of them are closed."""
    found = [bytearray() for _ in pipes]
    with selectors.DefaultSelector() as selector:
        for pipe, content in zip(pipes, found, strict=True):
            assert pipe is not None
            selector.register(pipe, selectors.EVENT_READ, content)
        while selector.get_map():
            ready = selector.select(max(0.0, end - time.monotonic()))
            if not ready:
                raise subprocess.TimeoutExpired("", 0)
            for key, _ in ready:
                part = os.read(key.fd, 1 << 16)
                if not part:
                    selector.unregister(key.fileobj)
                key.data.extend(part)
                if len(key.data) > _MOST_OUTPUT:
                    raise OverflowError
    return found
