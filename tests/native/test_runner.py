"""The program that measures: what it refuses, and how it ends. What it prints is tested where it is read."""

import json
import os
import resource
import subprocess

import pytest
from native_programs import chain

from needed_tools import need_runner, need_tool


@pytest.fixture
def network(tmp_path):
    path = tmp_path / "network.bibpack"
    path.write_bytes(chain()[0])
    return path


def ends(*arguments, status, **settings):
    """What it says when it fails: one line, and nothing else."""
    command = [need_runner(), *map(str, arguments)]
    done = subprocess.run(command, **({"stdout": subprocess.PIPE} | settings), stderr=subprocess.PIPE, text=True)
    assert done.returncode == status, done.stderr
    assert not done.stdout
    assert done.stderr.endswith("\n")
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        *([], ["1"], ["1", "0"], ["0", "0", "1"], ["257", "0", "1"], ["1", "-1", "1"], ["1", "0", "0"]),
        *(["1", "0", "10001"], ["x", "0", "1"], ["1x", "0", "1"], ["", "0", "1"], ["1", "0", "1", "1"]),
        ["99999999999999999999", "0", "1"],
    ],
)
def test_wrong_arguments(network, arguments):
    assert ends(network, *arguments, status=2).startswith("usage: ")


def test_files_that_are_no_networks(network, tmp_path):
    assert ends(tmp_path / "none", 1, 0, 1, status=1) == f"{tmp_path}/none: No such file or directory\n"
    assert ends(tmp_path, 1, 0, 1, status=1) == f"{tmp_path}: Is a directory\n"
    empty = tmp_path / "empty"
    empty.touch()
    assert ends(empty, 1, 0, 1, status=1).startswith(f"{empty}: ")
    network.write_bytes(network.read_bytes()[:-1])
    assert ends(network, 1, 0, 1, status=1).startswith(f"{network}: ")


def limited(kibibytes):
    return lambda: resource.setrlimit(resource.RLIMIT_AS, (kibibytes << 10, kibibytes << 10))


def test_a_lack_of_memory(network, tmp_path):
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(1 << 30)
    assert ends(large, 1, 0, 1, status=1, preexec_fn=limited(100_000)) == f"{large}: no memory left\n"
    # A stack of 8 MiB a thread.
    text = ends(network, 100, 0, 1, status=1, preexec_fn=limited(100_000))
    assert text == f"{network}: no more threads can be started: Resource temporarily unavailable\n"


def test_an_output_that_takes_nothing(network):
    with open("/dev/full", "w") as full:
        assert ends(network, 1, 0, 1, status=1, stdout=full) == "the output: No space left on device\n"


def test_it_ends_when_nobody_listens_any_more(network):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert ends(network, 1, 0, 10_000, status=1, stdout=writing) == "nobody reads the output any more\n"
    finally:
        os.close(writing)


ARM = "processor\t: {}\nBogoMIPS\t: 108.00\nCPU implementer\t: {}\nCPU architecture: 8\nCPU part\t: {}\n\n"


def arm(*parts, implementer="0x41", more=""):
    return "".join(ARM.format(number, implementer, part) for number, part in enumerate(parts)) + more


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        (arm(*4 * ["0xd08"], more="Revision : c03111\n"), "Cortex-A72"),
        (arm(*4 * ["0xd05"], *3 * ["0xd41"], "0xd44"), "Cortex-A55 + Cortex-A78 + Cortex-X1"),
        (arm("0xd42", "0xd41"), "Cortex-A78AE + Cortex-A78"),
        (arm("0xd08", more="Hardware\t: BCM2711\n"), "Cortex-A72"),
        (arm("0xd05", "0xfff", more="Hardware\t: Qualcomm SM8350\n"), "Qualcomm SM8350"),
        (arm("0xd05", implementer="0x51"), None),
        ("processor : 0\nmodel name\t: A processor @ 3.00GHz\n", "A processor @ 3.00GHz"),
        ("", None),
    ],
)
def test_the_processor_has_the_name_that_the_system_gives_it(network, tmp_path, cpuinfo, name):
    """Of an emulator, which finds the system's files in a folder."""
    qemu = need_tool("qemu-x86_64", "qemu-user")
    files = {"proc/cpuinfo": cpuinfo, "sys/firmware/devicetree/base/model": "Raspberry Pi 4 Model B Rev 1.4\0"}
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content)
    command = [qemu, "-L", tmp_path, need_runner("x86_64"), network, "1", "0", "1"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert found["processor"] == (name or "Raspberry Pi 4 Model B Rev 1.4")


def test_it_prints_one_object(network):
    done = subprocess.run([need_runner(), network, "1", "0", "7"], capture_output=True, text=True, check=True)
    assert (done.stdout.count("\n"), done.stderr) == (1, "")
    found = json.loads(done.stdout)
    assert (len(found["nanoseconds"]), found["threads"], found["warm_up"]) == (7, 1, 0)
