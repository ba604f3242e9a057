"""Larq Compute Engine's interpreter in a process of its environment, and in the place of the packed engine."""

import json
import subprocess
from pathlib import Path

import numpy as np

from bibench.deploy.format import Program
from bibench.deploy.lce import to_tflite

SERVER = Path(__file__).parents[2] / "benchmarks" / "lce.py"


class Client:
    """Runs files in Larq Compute Engine.

    Args:
        environment: what ``python benchmarks/lce.py --setup`` has made.
        folder: for files that are passed on.
    """

    def __init__(self, environment, folder):
        self.folder = folder
        self.process = subprocess.Popen(
            [environment / "bin" / "python", SERVER, "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def run(self, content, *inputs, mode="default"):
        """The outputs of a file."""
        paths = {name: str(self.folder / name) for name in ("file", "inputs.npz", "outputs.npz")}
        Path(paths["file"]).write_bytes(content)
        np.savez(paths["inputs.npz"], **{str(number): x for number, x in enumerate(inputs)})
        request = {"mode": mode} | {name.removesuffix(".npz"): path for name, path in paths.items()}
        print(json.dumps(request), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        assert answer, f"the interpreter has ended with status {self.process.wait()}"
        assert not json.loads(answer), answer
        with np.load(paths["outputs.npz"]) as stored:
            return [stored[str(number)] for number in range(len(stored.files))]

    def close(self):
        self.process.stdin.close()
        self.process.wait()

    def on(self, content, inputs, **how):
        """The outputs of a file for inputs as the model takes them: maps get their channels last."""
        last = [x.transpose(0, 2, 3, 1) if x.ndim == 4 else x for x in inputs]
        return self.run(content, *last, **how)


class LceEngine:
    """A program in Larq Compute Engine, in the place of `Engine` in `compare`."""

    def __init__(self, client, content, mode="default"):
        self.client, self.mode = client, mode
        self.program = Program.from_bytes(content)
        self.maps = {layer["value"]: layer["map"] for layer in self.program.metadata["layers"]}
        self.content = to_tflite(self.program, list(self.maps))
        self.now = {}

    def observe(self, inputs, after):
        found = self.client.on(self.content, inputs, mode=self.mode)
        outputs = found[: len(self.program.outputs)]
        self.now = dict(zip(self.maps, found[len(outputs) :], strict=True))
        for number in range(len(self.program.operations)):
            after(number)
        return outputs

    def value(self, index, count, type):
        height, width, _, _, top, left, high, wide = self.maps[index]
        bits = self.now[index].view(np.uint32).reshape(height, width, -1)
        padded = np.zeros((high, wide, bits.shape[2]), np.uint32)
        padded[top : top + height, left : left + width] = bits
        assert padded.size == count
        return padded.reshape(-1)
