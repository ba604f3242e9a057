"""A packed file's latency on a machine: the runner and the file go there, its figures come back, and nothing stays.

The runner (``native/runner``) is one static program: warm-up, then repeats of as many calls on one sample as last half
a millisecond, as in `latency`. It says what the machine was like before and after.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bibench.deploy.latency import Latency
from bibench.deploy.targets import Done, Target, TargetError
from bibench.native import library_path

__all__ = [
    "MOST_REPEATS",
    "Measurement",
    "Surroundings",
    "check_runners",
    "first_problem",
    "joined",
    "machine_of",
    "measure_in_turns",
    "measure_on",
    "parse_measurement",
    "placed",
    "runner_for",
    "why",
]

MOST_REPEATS = 10_000
_SECONDS = 600.0
_MACHINES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}
"""What ``uname -m`` says, and the runner that fits."""
_ELF = {62: "x86_64", 183: "aarch64"}

_Text = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[ -~]+$")]
_Nanoseconds = Annotated[int, Field(gt=0, lt=10**15)]
_Bytes = Annotated[int, Field(gt=0, lt=2**50)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Surroundings(_Frozen):
    """What a machine was like; None for what it doesn't tell.

    Args:
        governor: of the frequency of the core that the runner was on.
        kilohertz: of that core.
        millidegrees: Celsius, of the hottest sensor.
    """

    governor: _Text | None
    kilohertz: Annotated[int, Field(gt=0, le=10**8)] | None
    millidegrees: Annotated[int, Field(ge=-(10**5), le=2 * 10**5)] | None


class Measurement(_Frozen):
    """What the runner says.

    Args:
        schema_version: of the runner's output.
        threads: that the engine had.
        warm_up: calls before.
        calls: in a repeat.
        nanoseconds: of each repeat, all its calls together.
        peak_bytes: of memory that the runner had at most, its own and the file's bytes included; None where the system
            doesn't tell.
        model_bytes: upper bound of what the model itself holds.
        isa: the instruction set, the best that the processor has.
        processor: its name; None where the system doesn't tell.
        cores: that the system has.
        before, after: the machine before the warm-up and after the last repeat.
        checksum: FNV-1a (64 bits) of the outputs for the runner's own input, which is the same everywhere: equal on
            machines that round alike.
    """

    schema_version: Literal[1]
    threads: Annotated[int, Field(ge=1, le=256)]
    warm_up: Annotated[int, Field(ge=0)]
    calls: Annotated[int, Field(ge=1, lt=10**9)]
    nanoseconds: Annotated[tuple[_Nanoseconds, ...], Field(min_length=1, max_length=MOST_REPEATS)]
    peak_bytes: _Bytes | None
    model_bytes: _Bytes
    isa: Annotated[str, Field(pattern=r"^[a-z0-9]{1,16}$")]
    processor: _Text | None
    cores: Annotated[int, Field(ge=1, le=65536)]
    before: Surroundings
    after: Surroundings
    checksum: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]

    @property
    def latency(self) -> Latency:
        """The time of a call."""
        return Latency(tuple(time / self.calls * 1e-9 for time in self.nanoseconds), self.calls)


def parse_measurement(text: str) -> Measurement:
    """What the runner printed.

    Raises:
        ValueError: anything else; says what is wrong with it.

    >>> parse_measurement('{"schema_version": 2}')
    Traceback (most recent call last):
    ValueError: schema_version: Input should be 1
    """
    try:
        return Measurement.model_validate_json(text)
    except ValidationError as error:
        raise ValueError(first_problem(error)) from error


def first_problem(error: ValidationError) -> str:
    """The first thing that is wrong with JSON from elsewhere, whose keys can be any characters."""
    first = error.errors()[0]
    place = ascii(".".join(map(str, first["loc"])))[1:-1][:100]
    return f"{place}: {first['msg']}" if place else first["msg"]


def machine_of(target: Target) -> str:
    """The architecture of a machine, as runners are called: ``"x86_64"`` or ``"aarch64"``.

    Raises:
        TargetError: it can't be reached, or has another one.
    """
    found = target.output(["uname", "-m"])
    machine = _MACHINES.get(found)
    if machine is None:
        raise TargetError(
            f"{target.text}: its processor is {found[:40]!a}; the packed engine runs on x86_64 and aarch64 (64 bits)"
        )
    return machine


def measure_on(
    target: Target,
    file: Path,
    threads: Sequence[int],
    *,
    machine: str,
    repeats: int = 41,
    warm_up: int = 5,
    runners: Sequence[Path] = (),
) -> tuple[Measurement, ...]:
    """Measure a packed file on a machine, with each number of threads in turn.

    Args:
        target: the machine.
        file: the packed file.
        threads: numbers of threads, 1 to 256.
        machine: its architecture, of `machine_of`.
        repeats: 1 to `MOST_REPEATS`.
        warm_up: calls before, which don't count.
        runners: programs to choose from; by default the one that came with the package.

    Raises:
        TargetError: the machine can't be reached or vanishes, there is no runner or no room, or something in the
            runner's place doesn't print what it does. Nothing stays there, if it still can be reached.
        OSError: the file can't be read.
    """
    with placed(target, (file,), machine, runners) as (command,):
        return tuple(_measure(target, command, count, warm_up, repeats) for count in threads)


def measure_in_turns(
    target: Target,
    files: tuple[Path, Path],
    threads: Sequence[int],
    *,
    machine: str,
    repeats: int = 41,
    warm_up: int = 5,
    runners: Sequence[Path] = (),
) -> tuple[tuple[Measurement, ...], tuple[Measurement, ...]]:
    """Measure two packed files on a machine, for each number of threads the first, the second twice, and the first.

    So both have the same share of a machine that warms up or slows down meanwhile.

    Args:
        target, threads, machine, warm_up, runners: as in `measure_on`.
        files: the packed files.
        repeats: of each file, over both of its turns; 2 to `MOST_REPEATS`.

    Returns:
        The measurements of each file, two for each number of threads; see `joined`.

    Raises:
        TargetError, OSError: as `measure_on`.
    """
    found: tuple[list[Measurement], list[Measurement]] = ([], [])
    half = repeats // 2
    with placed(target, files, machine, runners) as commands:
        for count in threads:
            for which, share in ((0, half), (1, half), (1, repeats - half), (0, repeats - half)):
                found[which].append(_measure(target, commands[which], count, warm_up, share))
    return tuple(found[0]), tuple(found[1])


def joined(measurements: Sequence[Measurement], threads: int) -> Latency:
    """The time of a call over all turns with so many threads.

    Raises:
        ValueError: none has so many.
    """
    turns = [one.latency for one in measurements if one.threads == threads]
    return Latency(tuple(seconds for turn in turns for seconds in turn.seconds), max(turn.calls for turn in turns))


@contextmanager
def placed(
    target: Target, files: Sequence[Path], machine: str, runners: Sequence[Path]
) -> Iterator[tuple[list[str], ...]]:
    """The program that fits and files on a machine: the command that measures each; gone afterwards."""
    runner = runner_for(target, machine, runners)
    with target.folder() as folder:
        program = f"{folder}/runner"
        target.push(runner, program)
        networks = [f"{folder}/network{number or ''}.bibpack" for number in range(len(files))]
        for file, network in zip(files, networks, strict=True):
            target.push(file, network)
        yield tuple([program, network] for network in networks)


def check_runners(given: Sequence[Path]) -> None:
    """Check that programs which are to measure are there, before anything else is done.

    Raises:
        TargetError: one of them can't be read.
    """
    for path in given:
        _architecture(path)


def runner_for(target: Target, machine: str, given: Sequence[Path]) -> Path:
    """The program that fits a machine; what is no ELF file, such as a script, may be for any machine.

    Args:
        target, machine: the machine and its architecture.
        given: programs to choose from; without any, the one that came with the package.

    Raises:
        TargetError: none fits, or one of them can't be read.
    """
    if not given:
        own = library_path().with_name(f"bibench_runner_{machine}")
        if own.is_file():
            return own
        raise TargetError(
            f"{target.text}: no runner for {machine} came with this installation ({own}); install bibench again where "
            f"{machine}-linux-gnu-g++ is, or build one as docs/devices.md says and name it with --runner"
        )
    architectures = [_architecture(path) for path in given]
    for path, found in zip(given, architectures, strict=True):
        if found in (None, machine):
            return path
    named = ", ".join(f"{path} is for {found}" for path, found in zip(given, architectures, strict=True))
    raise TargetError(f"{target.text}: it has a processor of type {machine}; {named}; name one that fits with --runner")


def _architecture(program: Path) -> str | None:
    """The architecture that an ELF file is for; None for other files."""
    try:
        with program.open("rb") as file:
            head = file.read(20)
    except OSError as error:
        raise TargetError(
            f"{program}: can't be read ({error.strerror or error}); it was to measure on devices"
        ) from error
    if head[:4] != b"\x7fELF":
        return None
    number = int.from_bytes(head[18:20], "little")
    return _ELF.get(number, f"another architecture (number {number})")


def _measure(target: Target, command: Sequence[str], threads: int, warm_up: int, repeats: int) -> Measurement:
    done = target.run([*command, str(threads), str(warm_up), str(repeats)], seconds=_SECONDS)
    if done.status:
        raise TargetError(f"{target.text}: {why(done)}")
    try:
        found = parse_measurement(done.out)
    except ValueError as error:
        raise TargetError(f"{target.text}: what the runner printed is no measurement ({error}); {_OTHER}") from error
    if (found.threads, found.warm_up, len(found.nanoseconds)) != (threads, warm_up, repeats):
        raise TargetError(
            f"{target.text}: the runner measured {len(found.nanoseconds)} repeats on threads: {found.threads}, after "
            f"{found.warm_up} calls; asked for were {repeats}, {threads} and {warm_up}; {_OTHER}"
        )
    return found


_FOLDER = "the folder for temporary files"
_OTHER = "is it bibench's own, and of this version?"


def why(done: Done, program: str = "the runner") -> str:
    """Why a program that measures failed.

    >>> why(Done(137, "", ""))
    'the runner was ended by signal 9; is there enough memory?'
    """
    if done.status < 0 or done.status > 128:
        number = abs(done.status) if done.status < 0 else done.status - 128
        return f"{program} was ended by signal {number}; is there enough memory?"
    if done.status == 126:
        return f"{program} can't be executed there ({done.reason}); does it fit, may {_FOLDER} hold programs?"
    return f"{program} failed: {done.reason}"
