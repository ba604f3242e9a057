"""Under sanitizers: damaged files with a right checksum (native/tests/fuzz.cpp), and convolutions of random shapes."""

import re
import subprocess

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from native_programs import convolution, exact_programs, overlapping, rounded_programs
from native_tools import NATIVE, X86_UNITS, call, lacks, need_tool
from random_shapes import convolutions

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


@pytest.fixture(scope="module")
def replay(fuzz):
    """``native/examples/replay.c`` with the same sanitizers."""
    folder = fuzz.parent
    source, object_file = NATIVE / "examples" / "replay.c", folder / "example.o"
    call("gcc", "-std=c11", *SANITIZERS, "-I", NATIVE / "include", "-c", source, "-o", object_file)
    objects = [file for file in folder.glob("*.o") if file.stem != "fuzz"]
    call("g++", *SANITIZERS, *objects, "-o", folder / "replay", "-pthread", "-lm")
    return folder / "replay"


@pytest.mark.slow
@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(shape=convolutions())
def test_random_shapes_stay_in_their_memory_and_equal_the_reference(engine, replay, shape):
    data, inputs = convolution(shape)
    files = [replay.parent / name for name in ("network.bib", "inputs", "outputs")]
    arrays = ([np.frombuffer(data, np.uint8)], inputs, reference.run(data, inputs))
    for file, content in zip(files, arrays, strict=True):
        file.write_bytes(b"".join(np.ascontiguousarray(array).tobytes() for array in content))
    for isa in engine.instruction_sets():
        done = subprocess.run([replay, *files, isa, "0"], capture_output=True, text=True)
        assert done.returncode == 0, f"{shape}, {isa}: {done.stdout}{done.stderr[:4000]}"
        assert done.stdout == f"{isa}: 1 samples equal\n"


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
