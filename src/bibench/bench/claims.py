"""Claims: which process works on what, so that none of it is done twice.

runs/ID/claim-000003.json   the third process that took the run: who it is, and how often it has said that it lives

The number is a fencing token. Its file is created exclusively, so of two processes that want the same number one gets
it, and who has a lower one than the highest there has lost the run. A process says that it lives by counting up the
beat in its file. Whether it still does is judged by another one that sees no new beat for a whole lease on its own
monotonic clock: no times of two machines are ever compared. A process that ended on the same system is known to be gone
at once.

A process that is only slow may still write when another one has taken its run over. So the next one works in a folder
of its own (`ClaimState.files`), and whose record is created first is the one that counts.
"""

from __future__ import annotations

import os
import platform
import re
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bibench.bench.storage import Storage, StoreError

__all__ = ["LEASE", "Claim", "ClaimLost", "ClaimState", "Claims", "Holder", "Watch"]

LEASE = 60.0
"""Seconds without a beat after which others take a run over."""

_BEATS = 4
"""In a lease."""

_FILE = re.compile(r"claim-(\d{6})\.json")
_Text = Annotated[str, Field(max_length=200)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Holder(_Frozen):
    """A process.

    Args:
        host: its machine, for people.
        system: what only processes that see each other have in common: this start of the machine, and the namespace of
            process numbers; None where the system doesn't tell.
        pid: its number.
        started: when, in the system's own ticks, so that a later process with the same number is another one.
    """

    host: _Text
    system: _Text | None
    pid: Annotated[int, Field(ge=0)]
    started: _Text | None

    @property
    def gone(self) -> bool:
        """Whether it surely has ended: it was on this system, and is not there any more."""
        return self.system is not None and self.system == _system() and _started(self.pid) != self.started


def _system() -> str | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _started(pid: int) -> str | None:
    """When a process started; None if there is none, or if it has ended and only its parent hasn't noticed yet."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if status[0] in "ZX" else status[19]


def this_process() -> Holder:
    """The process that this is."""
    return Holder(host=platform.node()[:200], system=_system(), pid=os.getpid(), started=_started(os.getpid()))


class ClaimState(_Frozen):
    """What a claim's file says.

    Args:
        holder: who made it.
        nonce: no other claim has it.
        beat: how often the holder has said that it lives.
        share: of the work that is done, from 0 to 1.
        released: whether the holder has given it up.
        files: the folder below the run's own that the holder works in; empty for the run's own.
        since: UTC time when it was made, for people; ISO 8601.
        lease: seconds without a beat after which others may take over.
    """

    holder: Holder
    nonce: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    beat: Annotated[int, Field(ge=0)] = 0
    share: Annotated[float, Field(ge=0, le=1)] = 0.0
    released: bool = False
    files: Annotated[str, Field(pattern=r"^(attempt-[0-9]{1,6})?$")] = ""
    since: _Text
    lease: Annotated[float, Field(gt=0, le=86400)] = LEASE


@dataclass(frozen=True)
class Standing:
    """The newest claim on something.

    Args:
        token: its number.
        state: None for a file that can't be read, such as one that a crash of the machine left empty: it counts as one
            that is held until it has been seen unchanged for a lease.
    """

    token: int
    state: ClaimState | None

    @property
    def free(self) -> bool:
        """Whether it can be taken at once, and the folder with it: its holder surely works there no more."""
        return self.state is not None and (self.state.released or self.state.holder.gone)

    @property
    def lease(self) -> float:
        """Seconds without a beat after which it may be taken."""
        return LEASE if self.state is None else self.state.lease


class ClaimLost(Exception):
    """Another process has taken over what this one claimed, since it thought it gone."""


@dataclass
class Claim:
    """What this process claimed; see `Claims.held`.

    Args:
        claims: where.
        name: of what it claims.
        token: its number.
        state: as last written.
    """

    claims: Claims
    name: str
    token: int
    state: ClaimState
    share: float = 0.0
    lost: bool = False
    _wake: threading.Event = field(default_factory=threading.Event)
    _writing: threading.Lock = field(default_factory=threading.Lock)

    @property
    def files(self) -> str:
        """The folder below the run's own that this process works in; empty for the run's own."""
        return self.state.files

    def progressed(self, share: float) -> None:
        """Remember how far the work is, for the next beat.

        Raises:
            ClaimLost: another process has taken it over.
        """
        self.share = min(max(share, 0.0), 1.0)
        if self.lost:
            raise ClaimLost(f"{self.name} was taken over by another process")

    def check(self) -> bool:
        """Whether it still is this process's, which it is no more once another one has a higher number."""
        found = self.claims.standing(self.name)
        own = found is not None and found.token == self.token and found.state is not None
        if not own or found is None or found.state is None or found.state.nonce != self.state.nonce:
            self.lost = True
        return not self.lost

    def confirm(self) -> None:
        """See that it still is this process's; to be called right before something is replaced that others read.

        Raises:
            ClaimLost: another process has taken it over, and may have written since.
        """
        if not self.check():
            raise ClaimLost(f"{self.name or 'the store'} was taken over by another process")

    def beat(self, *, released: bool = False) -> None:
        """Say that this process lives, or that it gives the claim up; nothing if it has lost it."""
        with self._writing:
            if self.state.released or not self.check():
                return
            update = {"beat": self.state.beat + 1, "share": self.share, "released": released}
            state = self.state.model_copy(update=update)
            self.claims.storage.write(self.claims.path(self.name, self.token), _json(state))
            self.state = state

    def _keep_beating(self) -> None:
        """Beat until the claim is lost or given up. A store that can't be reached is no reason to stop."""
        while not self._wake.wait(self.state.lease / _BEATS):
            try:
                self.beat()
            except (OSError, StoreError):
                continue  # whoever takes over meanwhile works in a folder of its own
            if self.lost:
                return

    @contextmanager
    def beating(self) -> Iterator[Claim]:
        """Beat from a thread of its own; give the claim up at the end, unless it is finished."""
        thread = threading.Thread(target=self._keep_beating, daemon=True, name=f"claim {self.name}")
        thread.start()
        try:
            yield self
        finally:
            self._wake.set()
            thread.join()
            self.beat(released=True)

    def finish(self) -> None:
        """Remove what there is of this and earlier claims: the work is done.

        Nothing if another process has removed this one: then the numbers may be others' by now.
        """
        self._wake.set()
        with self._writing:
            there = self.claims.state(self.name, self.token)
            own = there is not None and there.nonce == self.state.nonce
            self.state = self.state.model_copy(update={"released": True})
            for token in self.claims.tokens(self.name) if own else ():
                if token <= self.token:
                    self.claims.storage.remove(self.claims.path(self.name, token))


class Claims:
    """The claims in a store.

    Args:
        storage: of the store.
        below: the folder that has a folder for everything that is claimed; empty for the store's own, which is claimed
            as a whole under the empty name while its plan is written.
    """

    def __init__(self, storage: Storage, below: str = "runs") -> None:
        self.storage = storage
        self.below = below

    def path(self, name: str, token: int) -> str:
        """The file of a claim."""
        return f"{self._folder(name)}/claim-{token:06d}.json".lstrip("/")

    def _folder(self, name: str) -> str:
        return f"{self.below}/{name}".strip("/")

    def tokens(self, name: str) -> list[int]:
        """The numbers of the claims that were made on something, ascending."""
        found = (
            _FILE.fullmatch(file) for file in self.storage.names("/".join(part for part in (self.below, name) if part))
        )
        return sorted(int(match[1]) for match in found if match)

    def standing(self, name: str) -> Standing | None:
        """The newest claim on something, or None."""
        tokens = self.tokens(name)
        if not tokens:
            return None
        content = self.storage.read(self.path(name, tokens[-1]))
        return None if content is None else Standing(tokens[-1], _parsed(content))  # None: finished just now

    def state(self, name: str, token: int) -> ClaimState | None:
        """What the claim with a number says; None if there is none, or if it can't be read."""
        content = self.storage.read(self.path(name, token))
        return None if content is None else _parsed(content)

    def take(self, name: str, *, takeover: int | None = None, lease: float = LEASE) -> Claim | None:
        """Claim something, if nobody else has it.

        Args:
            name: of what is claimed, such as a run's.
            takeover: the number of a claim whose holder was seen to be gone, see `Watch`.
            lease: see `ClaimState`.

        Returns:
            None if another process has it.
        """
        found = self.standing(name)
        files = ""
        token = 1
        if found is not None:
            if not found.free and found.token != takeover:
                return None
            token = found.token + 1
            # A process that may only be slow, or one before it that was, still can write where it worked.
            files = found.state.files if found.free and found.state is not None else f"attempt-{token}"
        state = ClaimState(holder=this_process(), nonce=uuid.uuid4().hex, files=files, since=_now(), lease=lease)
        if not self.storage.create(self.path(name, token), _json(state)):
            return None
        claim = Claim(self, name, token, state)
        return claim if claim.check() else None

    @contextmanager
    def held(self, name: str, *, wait: float = 0.1) -> Iterator[Claim]:
        """Wait for a claim on something short, and remove it at the end."""
        watch = Watch(self)
        while (claim := self.take(name, takeover=watch.expired(name))) is None:
            time.sleep(wait)
        with claim.beating():
            try:
                yield claim
            finally:
                claim.finish()

    def alone(self, name: str, action: Callable[[Claim], None]) -> None:
        """Do something short under a claim, and again from the start if another process took that over meanwhile.

        Args:
            name: of what is claimed.
            action: reads what is there, and calls `Claim.confirm` before it writes.
        """
        while True:
            with suppress(ClaimLost), self.held(name) as claim:
                action(claim)
                return

    def running(self) -> dict[str, ClaimState]:
        """Who works on what now, as far as claims tell; their holders may be gone, see `Standing.free` and `Watch`."""
        found: dict[str, int] = {}
        for path in self.storage.listing(self.below):
            name, _, file = path.removeprefix(f"{self.below}/").rpartition("/")
            match = _FILE.fullmatch(file)
            if match:
                found[name] = max(found.get(name, 0), int(match[1]))
        standing = {name: self.standing(name) for name in found}
        return {name: own.state for name, own in standing.items() if own is not None and own.state is not None}


class Watch:
    """Who of those that hold claims has not been heard of for a lease; watched by one process.

    Args:
        claims: that are watched.
        clock: seconds that only go forward.
    """

    def __init__(self, claims: Claims, clock: Callable[[], float] = time.monotonic) -> None:
        self.claims = claims
        self.clock = clock
        self._seen: dict[str, tuple[tuple[int, str, int], float]] = {}

    def expired(self, name: str) -> int | None:
        """The number of a claim whose beat has not changed for its lease since it was first seen here.

        Call it again and again; the first call never finds anything.

        Returns:
            What `Claims.take` takes as ``takeover``; None while the holder lives, or if there is nothing to take over.
        """
        found = self.claims.standing(name)
        if found is None or found.free:
            self._seen.pop(name, None)
            return None
        state = found.state
        mark = (found.token, "", 0) if state is None else (found.token, state.nonce, state.beat)
        before = self._seen.get(name)
        if before is None or before[0] != mark:
            self._seen[name] = (mark, self.clock())
            return None
        return found.token if self.clock() - before[1] >= found.lease else None


def _parsed(content: bytes) -> ClaimState | None:
    try:
        return ClaimState.model_validate_json(content)
    except ValidationError:
        return None


def _json(state: ClaimState) -> bytes:
    return state.model_dump_json().encode()


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
