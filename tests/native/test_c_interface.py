"""The C examples, compiled with the command of docs/c-interface.md against the installed header and library."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from native_programs import chain, simple
from native_tools import NATIVE, call, need_tool

from bibench.native import library_path
from packed_reference import FLOAT32, INPUT, OUTPUT, Writer, run

ROOT = NATIVE.parent


@pytest.fixture(scope="module")
def classify(engine, tmp_path_factory):
    """The compiled example."""
    need_tool("gcc", "gcc")
    text = (ROOT / "docs" / "c-interface.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"<!-- compile command -->\n```bash\n(.*?)\n```", text, re.DOTALL)
    program = tmp_path_factory.mktemp("c") / "classify"
    library = library_path().parent
    include = library if (library / "include").is_dir() else NATIVE
    command = command.replace("-o classify", f"-o {program} -Wall -Wextra -Wpedantic -Werror")
    command = command.replace('"$LIB/include"', f'"{include}/include"').replace("$LIB", str(library))
    call("bash", "-c", command, cwd=ROOT)
    return program


def files(folder: Path, data: bytes, samples) -> list[Path]:
    (folder / "network.bib").write_bytes(data)
    np.asarray(samples, np.float32).tofile(folder / "inputs.f32")
    return [folder / "network.bib", folder / "inputs.f32"]


def test_the_example_prints_each_samples_class(classify, tmp_path):
    data, (image,) = chain()
    samples = [image, -image, image[::-1]]
    scores = [run(data, [sample])[0] for sample in samples]
    expected = "".join(f"{s.argmax()} {s.max():.6g}\n" for s in scores)
    for threads in ([], ["2"]):
        assert call(classify, *files(tmp_path, data, samples), *threads).stdout == expected


def test_the_examples_errors_say_what_is_wrong(classify, tmp_path):
    data, (image,) = chain()
    network, inputs = files(tmp_path, data, [image])

    def fails(*arguments):
        done = subprocess.run([classify, *arguments], capture_output=True, text=True)
        assert done.returncode not in (0, -6, -11)
        assert done.stdout == ""
        return done.stderr

    assert "usage" in fails()
    assert "usage" in fails(network, inputs, "0")
    assert "nowhere.bib: No such file" in fails(tmp_path / "nowhere.bib", inputs)
    assert "nowhere.f32: No such file" in fails(network, tmp_path / "nowhere.f32")
    inputs.write_bytes(inputs.read_bytes()[:-1])
    assert "expected samples of 2560 numbers" in fails(network, inputs)
    inputs.write_bytes(b"")
    assert "0 bytes" in fails(network, inputs)
    network.write_bytes(data[:-1])
    assert str(network) in fails(network, inputs)
    two = Writer()
    ends = [two.value(FLOAT32, 4, INPUT), two.value(FLOAT32, 4, OUTPUT), two.value(FLOAT32, 4, OUTPUT)]
    two.operation("UNARY", [ends[0], ends[1]], params=[8, 4])
    two.operation("UNARY", [ends[0], ends[2]], params=[8, 4])
    network.write_bytes(two.file())
    assert "1 inputs and 2 outputs" in fails(network, inputs)
    network.write_bytes(simple("EMBED", [np.array([1])], 2, [1, 4, 2, 0, 1], constants=[np.zeros((4, 2))])[0])
    assert "float32" in fails(network, inputs)
