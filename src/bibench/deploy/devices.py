"""Devices: their description in a YAML file, and the record of what was measured on one, in a folder of results.

DIR/devices/NAME.json holds a device's record: the device and, for each file, its latest measurements.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator

from bibench.deploy.measuring import Measurement, first_problem
from bibench.deploy.programs import ProgramMeasurement
from bibench.deploy.targets import parse_target
from bibench.files import write_json
from bibench.yaml_lines import YamlError, explain, line_of, parse

__all__ = [
    "Device",
    "DeviceError",
    "DeviceRecord",
    "FileResult",
    "check_device",
    "load_devices",
    "unnamed",
    "write_result",
]


class DeviceError(ValueError):
    """Devices that can't be read, or a record of one; the message names file and place, and what was expected."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@-]*$", max_length=64)]
_Threads = Annotated[int, Field(ge=1, le=256, strict=True)]


def _target(value: str) -> str:
    parse_target(value)
    return value


class Device(_Frozen):
    """A device that networks are measured on.

    Args:
        name: in tables, and of its file of results.
        target: ``local``, ``ssh://user@host:port`` or ``adb://serial``.
        threads: numbers of threads to measure with; the command's by default.
        description: in prose: the board, its cooling, its system.
    """

    name: _Name
    target: Annotated[str, AfterValidator(_target)]
    threads: tuple[_Threads, ...] = ()
    description: Annotated[str, Field(max_length=1000)] = ""


class _Devices(_Frozen):
    devices: Annotated[tuple[Device, ...], Field(min_length=1)]

    @field_validator("devices")
    @classmethod
    def _apart(cls, value: tuple[Device, ...]) -> tuple[Device, ...]:
        names = [device.name.lower() for device in value]  # names of files, on file systems that may ignore case
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two devices are called '{name}'; give each a name of its own")
        return value


def load_devices(path: Path) -> tuple[Device, ...]:
    """The devices of a YAML file.

    Raises:
        DeviceError: it can't be read, isn't YAML, or has a wrong key or value; with the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DeviceError(f"{path}: can't be read as a list of devices ({error})") from error
    return parse_devices(text, str(path))


def parse_devices(text: str, where: str) -> tuple[Device, ...]:
    """Parse and validate the text of a list of devices; ``where`` names it in messages.

    >>> parse_devices("devices: [{name: pi, target: ssh://pi@camera, threads: [1, 4]}]", "x.yaml")[0].threads
    (1, 4)
    """
    try:
        content, root = parse(text, where, "devices")
    except YamlError as error:
        raise DeviceError(str(error)) from error
    try:
        return _Devices.model_validate(content).devices
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "value_error" and not isinstance(first["input"], str):  # of the whole list: it is long
            raise DeviceError(f"{where}, line {line_of(root, first['loc'])}: {first['ctx']['error']}") from error
        raise DeviceError(explain(error, root, where, _keys)) from error


def _keys(loc: Sequence[str | int]) -> Iterable[str]:
    return (_Devices if len(loc) == 1 else Device).model_fields


def unnamed(target: str) -> Device:
    """A device without a description, called by what is its target.

    Raises:
        TargetError: not a target.

    >>> unnamed("ssh://pi@camera:2222").name
    'pi@camera-2222'
    """
    parse_target(target)
    name = re.sub(r"[^A-Za-z0-9_.@-]+", "-", target.partition("://")[2] or target).strip("_.@-")
    return Device(name=name[:64] or "device", target=target)


class FileResult(_Frozen):
    """What was measured of one file on a device.

    Args:
        file: its name.
        sha256, bytes: its content.
        run: the run whose network it holds, if the file says so.
        measured_at: when, with the time zone.
        measurements: in the order in which they were taken: one for each number of threads, or two where they were
            taken in turns with another file. Another library's program says less than the runner.
    """

    file: Annotated[str, Field(min_length=1, max_length=255)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(gt=0)]
    run: Annotated[str, Field(max_length=300)] | None
    measured_at: AwareDatetime
    measurements: Annotated[tuple[Measurement | ProgramMeasurement, ...], Field(min_length=1)]


class DeviceRecord(_Frozen):
    """What was measured on a device.

    Args:
        schema_version: of this record.
        device: the device.
        machine: its architecture.
        results: one a file.
    """

    schema_version: Literal[1] = 1
    device: Device
    machine: str
    results: tuple[FileResult, ...]


def write_result(root: Path, device: Device, machine: str, result: FileResult) -> Path:
    """Add what was measured to a device's record; an earlier result of the same file content is replaced.

    Returns:
        Where the record is: ``root/devices/NAME.json``.

    Raises:
        DeviceError: the record that is there can't be read, or is of another device with that name.
        OSError: it can't be written.
    """
    earlier = check_device(root, device, machine)
    kept = [one for one in earlier.results if one.sha256 != result.sha256] if earlier is not None else []
    record = DeviceRecord(device=device, machine=machine, results=(*kept, result))
    path = _path(root, device)
    write_json(path, record.model_dump(mode="json"))
    return path


def _path(root: Path, device: Device) -> Path:
    return root / "devices" / f"{device.name}.json"


def check_device(root: Path, device: Device, machine: str) -> DeviceRecord | None:
    """The record of a device that results can be added to; None where there is none yet.

    Raises:
        DeviceError: what is there can't be read, or is of another device with that name.
    """
    path = _path(root, device)
    if not path.exists():
        return None
    earlier = read_device_record(path)
    if (earlier.device.target, earlier.machine) != (device.target, machine):
        raise DeviceError(
            f"{path} is of {earlier.device.target} ({earlier.machine}), not {device.target} ({machine}); give the "
            "device a name of its own in a list of devices, or delete the file"
        )
    return earlier


def read_device_record(path: Path) -> DeviceRecord:
    """Read a device's record.

    Raises:
        DeviceError: it isn't one.
    """
    try:
        return DeviceRecord.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DeviceError(f"{path}: can't be read ({error.strerror or error})") from error
    except ValidationError as error:
        raise DeviceError(
            f"{path}: not the record of a device ({first_problem(error)}); delete it and measure again"
        ) from error
