"""Speech Commands: which word is said in one second of sound, from the original folders of wav files."""

from __future__ import annotations

import hashlib
import io
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import torch
from torch import Tensor
from torch.nn import functional as F

from bibench.recipes import SGD, Adam, Cosine, Recipe
from bibench.tasks.base import Data, DataError, Task
from bibench.tasks.cache import kept
from bibench.tasks.classification import ACCURACY, commonest, evaluate, fingerprint, loss

__all__ = ["BANDS", "FRAMES", "Features", "log_mel", "mel_filters", "speech_commands", "speech_commands_v2_35"]

Wave = npt.NDArray[np.float32]

RATE = 16_000
"""Samples a second; a clip is one second long."""
BANDS, WINDOW, HOP = 32, 2_048, 512
FRAMES = 1 + RATE // HOP
_FLOOR = 1e-6
"""Added to an energy before its logarithm, so that silence is finite: 20 dB above the noise of rounding to 16 bits."""
_MEAN, _STD = -7.3, 4.7
"""Of `log_mel` over all bands and frames of the canonical test clips, rounded."""

_VERSION = 1
"""Raised when `log_mel` changes, so that nobody meets features of an earlier one."""
_CHUNK = 1_000
"""Clips that are read, and whose features are kept in one file."""
_PART = 50
"""Clips whose spectra are in memory at a time, half a megabyte each."""

_SILENCE, _UNKNOWN, _NOISE = "_silence_", "_unknown_", "_background_noise_"
_TEN = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
_V1 = (
    *(*_TEN, "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
    *("bed", "bird", "cat", "dog", "happy", "house", "marvin", "sheila", "tree", "wow"),
)
_V2 = tuple(sorted((*_V1, "backward", "follow", "forward", "learn", "visual")))


@dataclass(frozen=True, kw_only=True)
class _Original:
    """A published folder: its name, its words, and how many clips its lists put where."""

    folder: str
    words: tuple[str, ...]
    train: int
    validation: int
    test: int

    @property
    def clips(self) -> int:
        return self.train + self.validation + self.test


_V001 = _Original(folder="speech_commands_v0.01", words=_V1, train=51_088, validation=6_798, test=6_835)
_V002 = _Original(folder="speech_commands_v0.02", words=_V2, train=84_843, validation=9_981, test=11_005)
_TEST_SET = "speech_commands_test_set_v0.02"
_SUBSET = "complete it, or accept a part of the data set with --allow-subset"


def mel_filters() -> Tensor:
    """The share of each frequency of the transform in each band: ``(BANDS, 1 + WINDOW / 2)``, float32.

    Triangles over the mel scale of Slaney's Auditory Toolbox (1998), each of area 1 over the frequency in hertz: with
    ``f`` in hertz, ``mel = 3f / 200`` below 1,000 Hz, and ``15 + 27·ln(f / 1000) / ln 6.4`` above. Their corners are
    BANDS + 2 equal steps from 0 to half of the rate.

    >>> mel_filters().shape
    torch.Size([32, 1025])
    """
    top = 15 + 27 * math.log(RATE / 2 / 1_000) / math.log(6.4)
    mel = torch.linspace(0, top, BANDS + 2, dtype=torch.float64)
    corner = torch.where(mel < 15, mel * 200 / 3, 1_000 * torch.exp((mel - 15) * math.log(6.4) / 27))
    frequency = torch.linspace(0, RATE / 2, 1 + WINDOW // 2, dtype=torch.float64)
    low, middle, high = corner[:-2, None], corner[1:-1, None], corner[2:, None]
    rising, falling = (frequency - low) / (middle - low), (high - frequency) / (high - middle)
    return (torch.minimum(rising, falling).clamp(min=0) * 2 / (high - low)).float()


def log_mel(waves: Tensor) -> Tensor:
    """``log(energy + 1e-6)`` of each mel band and frame: float32 ``(clips, BANDS, FRAMES)``.

    The energy is the squared magnitude of a short-time Fourier transform (periodic Hann window of 2,048 samples, hop
    512, centred on its frame, the wave reflected at both ends), summed by `mel_filters`.

    Args:
        waves: float32 ``(clips, RATE)``, between -1 and 1.

    >>> log_mel(torch.zeros(1, 16_000))[0, 0, 0]
    tensor(-13.8155)
    """
    window = torch.hann_window(WINDOW, device=waves.device)
    spectrum = torch.stft(waves, WINDOW, HOP, window=window, center=True, pad_mode="reflect", return_complex=True)
    return (mel_filters().to(waves.device) @ spectrum.abs().square() + _FLOOR).log()


def _features(waves: Wave, key: str) -> Tensor:
    """`log_mel`, from the cache if it is there, else kept there for the next time, in ``speech/<key>-v<version>.npy``.

    Args:
        waves: ``(clips, RATE)``.
        key: `fingerprint` of the waves.
    """

    def make() -> Wave:
        return torch.cat([log_mel(part) for part in torch.from_numpy(waves).split(_PART)]).numpy()

    shape = (len(waves), BANDS, FRAMES)
    return torch.from_numpy(kept(f"speech/{key}-v{_VERSION}.npy", "features of sounds", np.float32, shape, make))


SpeechBatch = tuple[Tensor, Tensor]
"""Inputs ``(batch, 1, BANDS, FRAMES)``, float32, and labels ``(batch,)``, int64."""


@dataclass(eq=False, kw_only=True)
class Features:
    """A split whose features are held in memory (4 KiB a clip), augmented a batch at a time.

    Training clips are moved in time by whole frames, what comes in being silence, and get background noise: energies
    add, so ``log(e^x + v² · e^n)`` is what the sum of the sounds has on average, with a volume ``v`` that is uniform
    below ``volume``. Order and augmentation depend on the seed of ``batches`` alone, not on torch's global generator or
    the device.

    Args:
        features: float32 ``(clips, BANDS, FRAMES)`` as `log_mel` returns them.
        labels: int64 ``(clips,)``.
        noise: features of noises to add, or None.
        shift: largest move in time, in frames of 32 ms.
        volume: largest factor of the noise.
        noisy: share of the clips that get noise.

    >>> split = Features(features=torch.zeros(10, BANDS, FRAMES), labels=torch.arange(10))
    >>> [inputs.shape[0] for inputs, _ in split.batches(4, device=torch.device("cpu"), seed=0)]
    [4, 4]
    """

    features: Tensor
    labels: Tensor
    noise: Tensor | None = None
    shift: int = 0
    volume: float = 0.1
    noisy: float = 0.8
    _held: dict[torch.device, tuple[Tensor, Tensor, Tensor | None]] = field(
        default_factory=dict, init=False, repr=False
    )

    def __len__(self) -> int:
        return len(self.features)

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
        """Features, labels and noises on a device, moved there once."""
        if device not in self._held:
            noise = None if self.noise is None else self.noise.to(device)
            self._held[device] = (self.features.to(device), self.labels.to(device), noise)
        return self._held[device]

    def batches(self, batch_size: int, *, device: torch.device, seed: int | None = None) -> Iterator[SpeechBatch]:
        """Iterate over ``(inputs, labels)``; see `bibench.tasks.base.Split.batches`."""
        features, labels, noise = self._on(device)
        if seed is None:
            for part, answers in zip(features.split(batch_size), labels.split(batch_size), strict=True):
                yield _normalised(part), answers
            return

        # All random numbers of the epoch are drawn on the CPU and moved at once: the same on every device.
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self), generator=generator).to(device)
        move = torch.randint(-self.shift, self.shift + 1, (len(self),), generator=generator).to(device)
        volume = self.volume * torch.rand(len(self), generator=generator)
        volume *= torch.rand(len(self), generator=generator) < self.noisy
        gain = 2 * volume.log().to(device)  # -inf where there is no noise
        which = torch.randint(1 if noise is None else len(noise), (len(self),), generator=generator).to(device)
        for start in range(0, max(1, len(self) // batch_size) * batch_size, batch_size):
            chosen = slice(start, start + batch_size)
            part = _moved(features[order[chosen]], move[chosen], self.shift)
            if noise is not None:
                part = torch.logaddexp(part, noise[which[chosen]] + gain[chosen, None, None])
            yield _normalised(part), labels[order[chosen]]


def _normalised(features: Tensor) -> Tensor:
    """Features as a network sees them: about mean 0 and deviation 1 over all bands, with a channel."""
    return ((features - _MEAN) / _STD)[:, None]


def _moved(features: Tensor, move: Tensor, shift: int) -> Tensor:
    """Each clip moved by its own number of frames, from ``-shift`` to ``shift``; silence comes in."""
    if not shift:
        return features
    frames = features.shape[2]
    padded = F.pad(features, (shift, shift), value=math.log(_FLOOR))
    index = torch.arange(frames, device=features.device) + shift - move[:, None]
    return padded.gather(2, index[:, None].expand(-1, features.shape[1], -1))


class _Unusable(ValueError):
    """What is wrong with a sound file."""


def _decode(content: bytes) -> Wave:
    """The samples of a mono wav file at 16 kHz, between -1 and 1.

    Raises:
        _Unusable: it is something else, or damaged.
    """
    if not content:
        raise _Unusable("an empty file")
    # libsndfile reads what is there of a file that was cut off, without a word.
    promised = int.from_bytes(content[4:8], "little") + 8
    if content[:4] == b"RIFF" and promised > len(content):
        raise _Unusable(f"cut off: {len(content):,} of {promised:,} bytes")
    try:
        samples, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise _Unusable(f"cannot be read as a sound: {error}") from error
    if rate != RATE:
        raise _Unusable(f"{rate:,} samples a second, expected {RATE:,}")
    if samples.shape[1] != 1:
        raise _Unusable(f"{samples.shape[1]} channels, expected one")
    if not len(samples):
        raise _Unusable("no sound: its length is 0")
    if not np.isfinite(samples).all():
        raise _Unusable("holds values that are not numbers")
    wave: Wave = np.ascontiguousarray(samples[:, 0])
    return wave


@dataclass
class _Reader:
    """Reads sound files, and keeps account of those that are unusual."""

    left_out: dict[Path, str] = field(default_factory=dict)
    short: int = 0
    long: int = 0

    def wave(self, path: Path) -> Wave | None:
        """The samples of a file; None where it can't be used, which is noted."""
        try:
            return _decode(path.read_bytes())
        except _Unusable as error:
            self.left_out[path] = str(error)
        except OSError as error:
            self.left_out[path] = error.strerror or str(error)
        return None

    def clips(self, files: Iterable[tuple[Path, int]]) -> Iterator[tuple[Wave, int]]:
        """One second of each file, and its label: a shorter one is followed by zeros, a longer one is cut."""
        for path, label in files:
            wave = self.wave(path)
            if wave is not None:
                self.short += len(wave) < RATE
                self.long += len(wave) > RATE
                yield np.pad(wave[:RATE], (0, max(0, RATE - len(wave)))), label

    def notes(self) -> list[str]:
        """What of the files was unusual."""
        notes = []
        if self.short:
            notes.append(f"clips shorter than a second, followed by zeros: {self.short:,}")
        if self.long:
            notes.append(f"clips longer than a second, cut: {self.long:,}")
        if self.left_out:
            path, reason = next(iter(self.left_out.items()))
            notes.append(f"sound files left out: {len(self.left_out):,} (the first: {path}: {reason})")
        return notes


def _stored(clips: Iterator[tuple[Wave, int]], most: int, digest: Any) -> tuple[Tensor, Tensor]:
    """Features and labels of at most so many clips, a chunk of waves at a time; the digest grows by their content."""
    features, labels = torch.empty(most, BANDS, FRAMES), torch.empty(most, dtype=torch.int64)
    done = 0
    while chunk := list(itertools.islice(clips, _CHUNK)):
        waves = np.stack([wave for wave, _ in chunk])
        answers = [label for _, label in chunk]
        key = fingerprint(waves)
        digest.update(f"{key} {answers}\n".encode())
        features[done : done + len(chunk)] = _features(waves, key)
        labels[done : done + len(chunk)] = torch.tensor(answers)
        done += len(chunk)
    return features[:done], labels[:done]


@dataclass(frozen=True)
class _Noise:
    """Background noises, of which the last fifth of each file is for the test."""

    waves: tuple[Wave, ...]

    def _part(self, wave: Wave, test: bool) -> Wave:
        border = len(wave) * 4 // 5
        return wave[border:] if test else wave[:border]

    def cuts(self, *, step: int) -> Iterator[Wave]:
        """A second at every ``step`` samples of what is for training."""
        for whole in self.waves:
            wave = self._part(whole, test=False)
            yield from (wave[start : start + RATE] for start in range(0, len(wave) - RATE + 1, step))

    def silence(self, count: int, *, test: bool) -> Iterator[Wave]:
        """A second from anywhere at a volume that is uniform between 0 and 1: always the same ones."""
        generator = np.random.default_rng(int(test))
        for _ in range(count if self.waves else 0):
            wave = self._part(self.waves[generator.integers(len(self.waves))], test)
            start = generator.integers(len(wave) - RATE + 1)
            yield wave[start : start + RATE] * np.float32(generator.random())


def _speaker(path: Path) -> str:
    """Who speaks: the name's part before ``_nohash_``, in ``_unknown_`` without the word; else the name itself."""
    speaker, found, _ = path.name.partition("_nohash_")
    return speaker.rpartition("_")[2] if found else path.stem


def _is_test(path: Path) -> bool:
    """Whether a clip is one of the fifth that tests where no list says so: all clips of a speaker or none."""
    return int(hashlib.sha256(_speaker(path).encode()).hexdigest(), 16) % 5 == 0


def _list(path: Path) -> frozenset[str] | None:
    """The clips that a list names; None: there is no list.

    Raises:
        DataError: a line names no clip.
    """
    if not path.is_file():
        return None
    names = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        name = line.strip()
        if name and (name.count("/") != 1 or not name.endswith(".wav")):
            raise DataError(
                f"{path}, line {number}: '{name[:60]}' names no clip; expected <word>/<name>.wav; "
                "unpack the list again from the archive"
            )
        names.append(name)
    return frozenset(names) - {""}


def _layout(original: _Original) -> str:
    return f"""expected in the folder, or in a folder {original.folder}/ below it:
  <word>/*.wav               {original.clips:,} clips of {len(original.words)} words
  {_NOISE}/*.wav   background noises, of 5 seconds or more
  testing_list.txt, validation_list.txt
from http://download.tensorflow.org/data/{original.folder}.tar.gz"""


def _files(folder: Path) -> list[Path]:
    """The clips of a folder, in order."""
    return sorted(path for path in folder.glob("*/*.wav") if path.parent.name != _NOISE)


def _find(root: Path, original: _Original, others: tuple[str, ...]) -> tuple[Path, list[Path]]:
    """The folder to read and its clips: the original if it is whole, else the largest there is."""
    places = [root, *(root / name for name in (original.folder, *others))]
    found = [(place, _files(place)) for place in places if place.is_dir()]
    return max(found, key=lambda one: (len(one[1]) == original.clips, len(one[1])))


@dataclass(frozen=True, kw_only=True)
class _Found:
    """The clips of a folder, divided by its lists; those to validate are used for nothing."""

    train: list[Path]
    validation: list[Path]
    test: list[Path]
    unknown: Counter[str]
    """Clips in folders that are no word of the data set, by folder."""
    listed: bool
    """Whether there is a list of test clips; otherwise the speaker decides."""

    def counts(self) -> tuple[int, int, int]:
        return len(self.train), len(self.validation), len(self.test)


def _divide(folder: Path, files: list[Path], words: Iterable[str]) -> _Found:
    tests = _list(folder / "testing_list.txt")
    validation = _list(folder / "validation_list.txt") or frozenset()
    parts: dict[str, list[Path]] = {"train": [], "validation": [], "test": []}
    unknown: Counter[str] = Counter()
    for path in files:
        name = f"{path.parent.name}/{path.name}"
        if path.parent.name not in words:
            unknown[path.parent.name] += 1
        elif _is_test(path) if tests is None else name in tests:
            parts["test"].append(path)
        else:
            parts["validation" if name in validation else "train"].append(path)
    return _Found(**parts, unknown=unknown, listed=tests is not None)


def _noises(folder: Path, reader: _Reader) -> _Noise:
    """The background noises of a folder; one whose last fifth is no second is left out."""
    waves = []
    for path in sorted((folder / _NOISE).glob("*.wav")):
        wave = reader.wave(path)
        if wave is not None and len(wave) < 5 * RATE:
            reader.left_out[path] = f"a background noise of {len(wave) / RATE:.1f} s, expected at least 5"
        elif wave is not None:
            waves.append(wave)
    return _Noise(tuple(waves))


def _counted(what: str, counts: Counter[str]) -> str:
    """Such as "clips left out: 3 (the first in x)"; empty where there are none."""
    return f"{what}: {counts.total():,} (the first in {next(iter(counts))})" if counts else ""


def _load(root: Path | None, subset: bool, *, task: str, original: _Original, classes: tuple[str, ...]) -> Data:
    """Read the clips below ``root``; see `bibench.tasks.base.Task`."""
    layout = _layout(original)
    if root is None:
        raise DataError(f"the task {task} needs its files: name their folder with --data DIR; {layout}")
    if not root.is_dir():
        raise DataError(f"--data {root}: no such folder; {layout}")
    label = {word: classes.index(word if word in classes else _UNKNOWN) for word in original.words}
    twelve = _SILENCE in classes
    if twelve:
        label |= {name: classes.index(name) for name in (_SILENCE, _UNKNOWN)}
    folder, files = _find(root, original, (_TEST_SET,) if twelve and subset else ())
    found = _divide(folder, files, label)
    if not found.train or not found.test:
        raise DataError(f"{folder} has {len(found.train):,} training and {len(found.test):,} test clips; {layout}")
    reader = _Reader()
    noise = _noises(folder, reader)
    whole = found.counts() == (original.train, original.validation, original.test) and bool(noise.waves)
    trains, tests = f"{len(found.train):,} of {original.train:,}", f"{len(found.test):,} of {original.test:,}"
    part = f"{trains} training and {tests} test clips"
    if not whole and not subset:
        rest = f"{len(found.validation):,} of {original.validation:,} to validate, {len(noise.waves)} background noises"
        raise DataError(f"{folder} has {part}, {rest}; {_SUBSET}; {layout}")

    digest = hashlib.sha256()
    make = twelve and not any(path.parent.name == _SILENCE for path in files)

    def read(files: list[Path], *, test: bool) -> tuple[Tensor, Tensor]:
        count = len(files) // 10 if make else 0
        silence = ((wave, classes.index(_SILENCE)) for wave in noise.silence(count, test=test))
        words = reader.clips((path, label[path.parent.name]) for path in files)
        return _stored(itertools.chain(words, silence), len(files) + count, digest)

    (train, train_labels), (test, test_labels) = read(found.train, test=False), read(found.test, test=True)
    if reader.left_out and not subset:
        some = "; ".join(f"{path}: {reason}" for path, reason in list(reader.left_out.items())[:3])
        raise DataError(
            f"{len(reader.left_out):,} of the sound files can't be used: {some}; unpack them again from the archive, "
            "or leave them out with --allow-subset"
        )
    if not len(train) or not len(test):
        raise DataError(f"{folder}: no training or no test clip can be used; {'; '.join(reader.notes())}")
    cuts = list(noise.cuts(step=RATE // 2))
    noises, _ = _stored(((wave, 0) for wave in cuts), len(cuts), digest)
    every = [
        "" if whole else f"{folder.name}: {part} of {original.folder}",
        "" if found.listed else "one speaker in five is for the test, since there is no testing_list.txt",
        "" if noise.waves else f"no {_NOISE}: no noise is added{', no silence made' if twelve else ''}",
        _counted("clips left out whose folder is no word of the data set", found.unknown),
        *reader.notes(),
    ]
    notes = [note for note in every if note]
    return Data(
        train=Features(features=train, labels=train_labels, noise=noises if len(noises) else None, shift=3),
        test=Features(features=test, labels=test_labels),
        outputs=len(classes),
        fingerprint=digest.hexdigest(),
        notes=("; ".join(notes),) if notes else (),
        trivial=commonest(test_labels, classes),
    )


def _task(name: str, title: str, original: _Original, classes: tuple[str, ...]) -> Task:
    silence = original.train // 10 if _SILENCE in classes else 0
    return Task(
        name=name,
        title=title,
        modality="speech",
        architectures=("fsmn", "d_fsmn"),
        load=partial(_load, task=name, original=original, classes=classes),
        input_shape=(1, BANDS, FRAMES),
        loss=loss,
        evaluate=evaluate,
        metric=ACCURACY,
        training_samples=original.train + silence,
        outputs=len(classes),
        full_precision=Recipe(
            optimizer=SGD(lr=1e-3, momentum=0.9, weight_decay=0.01, nesterov=True),
            schedule=Cosine(),
            epochs=300,
            batch_size=96,
            warmup=5 / 300,
        ),
        binarized=Recipe(optimizer=Adam(lr=1e-3), schedule=Cosine(), epochs=300, batch_size=96),
        source="Warden, Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition, 2018",
        labels=classes,
    )


speech_commands = _task("speech_commands", "Speech Commands", _V001, (_SILENCE, _UNKNOWN, *_TEN))
"""Version 1 in 12 classes: ten words, the 20 other words as ``_unknown_``, and ``_silence_``, a tenth more clips.

So 56.77 % of the test clips are ``_unknown_`` (4,268 of 7,518), and 56.45 % of those to validate would be: the two
scores of a constant answer that the published table has.

>>> speech_commands.load(None, False)
Traceback (most recent call last):
bibench.tasks.base.DataError: the task speech_commands needs its files: name their folder with --data DIR; ...
"""

speech_commands_v2_35 = _task("speech_commands_v2_35", "Speech Commands, 35 words", _V002, _V2)
"""Version 2 with each of its 35 words as a class.

>>> len(speech_commands_v2_35.labels)
35
"""
