"""64-bit ARM and older x86-64 processors, emulated: the same bits, by the instruction set that the processor has."""

import subprocess

import numpy as np
import pytest
from native_programs import exact_programs, rounded_programs
from native_tools import X86_UNITS, build_replay, call, need_tool

import packed_reference as reference


def replay_all(folder, command, isa):
    """Replay every program; exact ones bit for bit."""
    wrong = []
    for tolerance, programs in (("0", exact_programs()), ("2e-6", rounded_programs())):
        for name, (data, inputs) in programs.items():
            (folder / "network.bib").write_bytes(data)
            (folder / "inputs").write_bytes(b"".join(np.ascontiguousarray(array).tobytes() for array in inputs))
            outputs = reference.run(data, inputs)
            (folder / "outputs").write_bytes(b"".join(array.tobytes() for array in outputs))
            files = [folder / file for file in ("network.bib", "inputs", "outputs")]
            for wanted in ("best", "scalar"):
                done = subprocess.run([*command, *files, wanted, tolerance], capture_output=True, text=True)
                used = "scalar" if wanted == "scalar" else isa
                if done.returncode != 0 or done.stdout != f"{used}: 1 samples equal\n":
                    wrong.append(f"{name}, {wanted}: status {done.returncode}, {done.stdout}{done.stderr}")
    assert wrong == []


@pytest.mark.slow
def test_arm_computes_the_same(tmp_path):
    need_tool("aarch64-linux-gnu-g++", "g++-aarch64-linux-gnu")
    qemu = need_tool("qemu-aarch64", "qemu-user")
    replay = build_replay(tmp_path / "build", "aarch64-linux-gnu-", {"neon": []})
    replay_all(tmp_path, [qemu, replay], "neon")


@pytest.mark.slow
def test_older_processors_fall_back(tmp_path):
    need_tool("g++", "g++")
    if call("uname", "-m").stdout.strip() != "x86_64":
        pytest.skip("needs an x86-64 machine")
    qemu = need_tool("qemu-x86_64", "qemu-user")
    replay = build_replay(tmp_path / "build", "", X86_UNITS)
    replay_all(tmp_path, [qemu, "-cpu", "Haswell", replay], "avx2")
    replay_all(tmp_path, [qemu, "-cpu", "Nehalem", replay], "scalar")


@pytest.mark.slow
@pytest.mark.parametrize("level", ["-O0", "-O3"])
def test_units_for_new_processors_share_no_code_with_others(tmp_path, level):
    # The linker keeps one copy of an inline function that several units have: it could be the newest processor's.
    need_tool("g++", "g++")
    if call("uname", "-m").stdout.strip() != "x86_64":
        pytest.skip("needs an x86-64 machine")
    build_replay(tmp_path, "", X86_UNITS, level)
    for unit in X86_UNITS:
        symbols = call("nm", "-C", "--defined-only", tmp_path / f"kernels_{unit}.o").stdout.splitlines()
        shared = [line for line in symbols if line.split()[1] in "WVu"]
        assert shared == [], f"{unit} at {level}"
