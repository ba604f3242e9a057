"""Damaged packed files with a right checksum: refused, or run inside their memory (native/tests/fuzz.cpp)."""

import re
import subprocess

import pytest
from native_programs import exact_programs, overlapping, rounded_programs
from native_tools import NATIVE, X86_UNITS, call, lacks, need_tool

import packed_reference as reference

SANITIZERS = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
ITERATIONS = 20_000


@pytest.fixture(scope="module")
def fuzz(tmp_path_factory):
    """The compiled program."""
    compiler, folder = need_tool("g++", "g++"), tmp_path_factory.mktemp("fuzz")
    (folder / "empty.cpp").write_text("int main() { return 0; }\n")
    command = [compiler, *SANITIZERS, folder / "empty.cpp", "-o", folder / "empty"]
    if subprocess.run(command, capture_output=True).returncode or subprocess.run([folder / "empty"]).returncode:
        lacks("the compiler's address and undefined-behaviour sanitizers needed: apt-get install g++ libgcc-12-dev")
    x86 = call("uname", "-m").stdout.strip() == "x86_64"
    units = {"scalar": [], **(X86_UNITS if x86 else {"neon": []})}
    sources = [f for f in (NATIVE / "src").glob("*.cpp") if not f.stem.startswith("kernels_")]
    sources += [NATIVE / "tests" / "fuzz.cpp", *(NATIVE / "src" / f"kernels_{unit}.cpp" for unit in units)]
    for source in sources:
        flags = units.get(source.stem.removeprefix("kernels_"), [])
        call(compiler, "-std=c++17", *SANITIZERS, *flags, "-c", source, "-o", folder / f"{source.stem}.o")
    call(compiler, *SANITIZERS, *folder.glob("*.o"), "-o", folder / "fuzz", "-pthread")
    return folder / "fuzz"


@pytest.mark.slow
def test_damaged_files_do_no_harm(fuzz, tmp_path):
    files = []
    for i, (data, _) in enumerate([overlapping(), *exact_programs().values(), *rounded_programs().values()]):
        files.append(tmp_path / f"{i}.bib")
        files[-1].write_bytes(data)

    done = subprocess.run([fuzz, "1", "0", str(ITERATIONS), *files], capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[:8000]}"
    refused, accepted, ran, _ = map(int, re.findall(r"\d+", done.stdout))
    assert min(refused, accepted, ran) > ITERATIONS / 50, done.stdout  # the damage is neither too small nor too big


def test_every_kind_of_damage_is_named(engine):
    data, _ = exact_programs()["chain"]

    def message(changed):
        with pytest.raises(engine.NativeError) as raised:
            engine.Engine(changed)
        return str(raised.value)

    def with_number(offset, value, sealed=True):
        changed = data[:offset] + value.to_bytes(4, "little") + data[offset + 4 :]
        return reference.seal(changed) if sealed else changed

    assert engine.Engine(data).operations == len(reference.parse(data).operations)
    assert "not a packed file" in message(b"")
    assert "not a packed file" in message(b"\x89PNG" + data[4:])
    assert "version" in message(with_number(8, 2))
    for length in (20, 79, 80, 500, len(data) - 1):
        assert message(data[:length])
    assert message(data + b"\0")
    assert re.search("checksum|CRC|damaged", message(with_number(len(data) - 100, 7, sealed=False)))
    program = reference.parse(data)
    first = 80 + 32 * (len(program.values) + len(program.constants))
    for number in range(len(program.operations)):
        at = first + 204 * number
        assert f"operation {number}" in message(with_number(at, 99))
        assert f"operation {number}" in message(with_number(at + 4, len(program.values)))
        assert f"operation {number}" in message(with_number(at + 4 + 24 + 32 + 4, 0x7FFFFFFF))
