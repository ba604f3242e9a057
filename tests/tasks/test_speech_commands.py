"""Speech Commands: features against other computations, the original layout, damaged files, the cache, augmentation."""

import hashlib
import math
import shutil
import warnings
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers.audio_utils import mel_filter_bank

from bibench import registry
from bibench.records.published import published_results
from bibench.tasks import cache
from bibench.tasks import speech_commands as module
from bibench.tasks.base import DataError
from bibench.tasks.speech_commands import (
    BANDS,
    FRAMES,
    RATE,
    Features,
    log_mel,
    mel_filters,
    speech_commands,
    speech_commands_v2_35,
)
from small_runs import bibench

CPU = torch.device("cpu")
WORDS = ("yes", "no", "bed", "tree")
SMALL = module._Original(folder="speech_commands_v0.01", words=module._V1, train=12, validation=4, test=4)
TWELVE = speech_commands.labels
load_small = partial(module._load, task="speech_commands", original=SMALL, classes=TWELVE)


def tone(hertz: float, seconds: float = 1.0, seed: int = 0) -> np.ndarray:
    time = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(seed).normal(size=len(time)) * 0.01
    return (0.3 * np.sin(2 * np.pi * hertz * time) + noise).astype(np.float32)


def write(path: Path, samples: np.ndarray, rate: int = RATE, **options: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **{"subtype": "PCM_16"} | options)
    return path


def generate(folder: Path, words: tuple[str, ...] = WORDS, speakers: int = 5, noises: int = 2) -> Path:
    """Files in the original's layout: a tone for each word; one speaker of five validates and one tests."""
    lists: dict[int, list[str]] = {0: [], 1: []}
    for number, word in enumerate(words):
        for speaker in range(speakers):
            name = f"{word}/{speaker:08x}_nohash_0.wav"
            write(folder / name, tone(300 * 1.2**number, seed=100 * number + speaker))
            if speaker < 2:
                lists[speaker].append(name)
    (folder / "validation_list.txt").write_text("".join(f"{name}\n" for name in lists[0]))
    (folder / "testing_list.txt").write_text("".join(f"{name}\n" for name in lists[1]))
    for number in range(noises):
        noise = np.random.default_rng(number).normal(size=6 * RATE).astype(np.float32) * 0.05
        write(folder / "_background_noise_" / f"noise{number}.wav", noise)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return generate(tmp_path / "speech_commands_v0.01")


def note_of(data) -> str:
    (note,) = data.notes
    return note


# Features


def test_filters_are_those_of_another_implementation():
    other = mel_filter_bank(1025, BANDS, 0, 8000, RATE, norm="slaney", mel_scale="slaney")
    np.testing.assert_allclose(mel_filters().numpy(), other.T, rtol=1e-5, atol=1e-8)


def test_filters_by_hand():
    """The scale is 15 mel at 1,000 Hz and 15 + 27 ln 6.4 / ln 6.4 = 42 at 6,400 Hz; each triangle has area 1."""
    filters = mel_filters().double()
    step = (15 + 27 * math.log(8) / math.log(6.4)) / 33
    peaks = filters.argmax(dim=1) * RATE / 2048
    for band, peak in enumerate(peaks.tolist(), 1):
        mel = peak * 3 / 200 if peak < 1000 else 15 + 27 * math.log(peak / 1000) / math.log(6.4)
        assert mel == pytest.approx(band * step, abs=0.08)
    area = filters.sum(dim=1) * RATE / 2048
    torch.testing.assert_close(area, torch.ones(BANDS, dtype=torch.float64), rtol=0.02, atol=0)


def test_features_equal_a_float64_computation():
    wave = tone(440) + tone(3000, seed=1) * 0.1
    wave[:4000] = 0
    padded = np.pad(wave.astype(np.float64), 1024, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2048) / 2048)
    filters = mel_filter_bank(1025, BANDS, 0, 8000, RATE, norm="slaney", mel_scale="slaney").T
    frames = [padded[512 * n : 512 * n + 2048] for n in range(FRAMES)]
    expected = np.stack([np.log(filters @ np.abs(np.fft.rfft(window * one)) ** 2 + 1e-6) for one in frames], axis=1)
    (found,) = log_mel(torch.from_numpy(wave)[None]).numpy()
    assert found.shape == (BANDS, FRAMES) == (32, 32)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=2e-3)
    assert np.all(found[:, :4] == np.float32(math.log(1e-6)))  # digital silence


# The original's layout


def test_the_whole_by_its_lists(folder):
    data = load_small(folder, False)
    assert (len(data.train), len(data.test), data.outputs) == (12 + 1, 4, 12)
    assert data.notes == ()
    assert data.trivial.value == 50
    label = TWELVE.index
    assert Counter(data.train.labels.tolist()) == {
        label("yes"): 3, label("no"): 3, label("_unknown_"): 6, label("_silence_"): 1
    }  # fmt: skip
    assert Counter(data.test.labels.tolist()) == {label("yes"): 1, label("no"): 1, label("_unknown_"): 2}
    waves = [soundfile.read(folder / "yes" / f"0000000{speaker}_nohash_0.wav", dtype="float32")[0] for speaker in (1,)]
    where = data.test.labels == label("yes")
    assert torch.equal(data.test.features[where], log_mel(torch.from_numpy(np.stack(waves))))
    assert load_small(folder.parent, False).fingerprint == data.fingerprint


def test_a_part_is_refused_or_noted(folder):
    with pytest.raises(
        DataError, match=r"has 12 of 51,088 training and 4 of 6,835 test clips, 4 of 6,798(.|\n)*64,721"
    ):
        speech_commands.load(folder, False)
    note = note_of(speech_commands.load(folder, True))
    assert note.startswith("speech_commands_v0.01: 12 of 51,088 training and 4 of 6,835 test clips of speech_commands")
    shutil.rmtree(folder / "_background_noise_")
    with pytest.raises(DataError, match="0 background noises"):
        load_small(folder, False)
    data = load_small(folder, True)
    assert "no _background_noise_: no noise is added, no silence made" in note_of(data)
    assert data.train.noise is None
    assert TWELVE.index("_silence_") not in data.train.labels


def test_thirty_five_words(tmp_path):
    words = ("yes", "bed", "visual")
    folder = generate(tmp_path / "speech_commands_v0.02", words)
    data = speech_commands_v2_35.load(tmp_path, True)
    assert (len(data.train), len(data.test), data.outputs) == (9, 3, 35)
    assert {speech_commands_v2_35.labels[number] for number in data.test.labels} == set(words)
    assert data.train.noise is not None
    small = module._Original(folder=folder.name, words=module._V2, train=9, validation=3, test=3)
    whole = module._load(folder, False, task="x", original=small, classes=module._V2)
    assert whole.notes == ()
    assert whole.trivial.value == pytest.approx(100 / 3)


def test_without_lists_a_speaker_is_in_one_half(tmp_path):
    folder = tmp_path / "speech_commands_test_set_v0.02"
    for speaker in range(30):
        who = hashlib.sha256(str(speaker).encode()).hexdigest()[:8]
        write(folder / "yes" / f"{who}_nohash_0.wav", tone(300, seed=speaker))
        write(folder / "_unknown_" / f"bed_{who}_nohash_3.wav.wav", tone(600, seed=speaker))
        write(folder / "_silence_" / f"{speaker}.wav", tone(0, seed=speaker))
    files = module._files(folder)
    found = module._divide(folder, files, ("yes", "_unknown_", "_silence_"))
    assert not found.listed
    halves = [{module._speaker(path) for path in part} for part in (found.train, found.test)]
    assert halves[0].isdisjoint(halves[1])
    assert len(halves[0] | halves[1]) == 60  # 30 speakers, and 30 clips of silence that nobody speaks
    assert 5 <= len(found.test) <= 30
    data = speech_commands.load(tmp_path, True)
    assert len(data.train) + len(data.test) == 90
    assert "one speaker in five is for the test, since there is no testing_list.txt" in note_of(data)
    shutil.copytree(generate(tmp_path / "speech_commands_v0.01") / module._NOISE, folder / module._NOISE)
    noisy = speech_commands.load(folder, True)
    assert noisy.train.noise is not None
    assert len(noisy.train) + len(noisy.test) == 90  # where there is silence none is made
    shutil.rmtree(folder / module._NOISE)
    assert speech_commands.load(tmp_path, True).fingerprint == data.fingerprint  # the larger one is taken
    with pytest.raises(DataError, match=r"speech_commands_v0.01 has 12 of 51,088"):
        speech_commands.load(tmp_path, False)


def test_silence_of_the_test_is_not_that_of_training(folder):
    """The first four fifths of a noise are low, the last is high."""
    shutil.rmtree(folder / "_background_noise_")
    noise = np.concatenate([tone(200, 8), tone(5000, 2)])
    write(folder / "_background_noise_" / "two.wav", noise)
    reader = module._Reader()
    found = module._noises(folder, reader)
    assert reader.left_out == {}
    for test, low in ((False, True), (True, False)):
        features = log_mel(torch.from_numpy(np.stack(list(found.silence(5, test=test)))))
        loudest = features.mean(dim=2).argmax(dim=1)
        assert bool(((loudest < 5) == low).all())
    again = np.stack(list(found.silence(5, test=True)))
    assert np.array_equal(again, np.stack(list(found.silence(5, test=True))))
    assert len(list(found.cuts(step=RATE))) == 8


def test_the_published_scores_of_a_constant_answer(real_data):
    """A tenth of silence and all other words as unknown: what is told by 56.77 and 56.45 in the published table."""
    shares = []
    for name in ("testing_list.txt", "validation_list.txt"):
        lines = (real_data / "speech_commands_v0.01" / name).read_text().split()
        unknown = sum(line.split("/")[0] not in TWELVE for line in lines)
        shares.append(round(100 * unknown / (len(lines) + len(lines) // 10), 2))
        assert {line.split("/")[0] for line in lines} == set(module._V1)
        assert len(lines) == {"testing_list.txt": 6_835, "validation_list.txt": 6_798}[name]
    values = {
        figure.value
        for record in published_results().records
        if record.run.task == "speech_commands"
        for figure in record.figures
    }
    assert set(shares) == {56.77, 56.45} <= values


# Files that are unusual


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def header_only(path: Path) -> None:
    write(path, np.zeros(0, np.float32))


def text(path: Path) -> None:
    path.write_text("no sound")


def other_rate(path: Path) -> None:
    write(path, soundfile.read(path)[0], 8000)


def stereo(path: Path) -> None:
    write(path, np.stack([soundfile.read(path)[0]] * 2, axis=1))


def not_numbers(path: Path) -> None:
    samples = soundfile.read(path)[0]
    samples[5] = np.nan
    write(path, samples, subtype="FLOAT")


def damaged_header(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[8:16] = b"ABCDEFGH"
    path.write_bytes(bytes(content))


DAMAGES = [
    (cut_off, r"cut off: \d+,\d+ of \d+,\d+ bytes"),
    (emptied, "an empty file"),
    (header_only, "no sound: its length is 0"),
    (text, "cannot be read as a sound"),
    (other_rate, "8,000 samples a second, expected 16,000"),
    (stereo, "2 channels, expected one"),
    (not_numbers, "holds values that are not numbers"),
    (damaged_header, "cannot be read as a sound"),
]


@pytest.mark.parametrize(("damage", "reason"), DAMAGES)
def test_a_damaged_file_is_refused_or_left_out(folder, damage, reason):
    path = folder / "bed" / "00000003_nohash_0.wav"
    damage(path)
    with pytest.raises(
        DataError, match=rf"^1 of the sound files can't be used: .*{path.name}: {reason}.*--allow-subset"
    ):
        load_small(folder, False)
    data = load_small(folder, True)
    assert len(data.train) == 12
    assert "sound files left out: 1 (the first: " in note_of(data)
    assert f"{path}: " in note_of(data)


def test_real_files_damaged(real_data, tmp_path):
    """The same on real recordings, all at once; what is shorter than a second in the original stays."""
    files = sorted((real_data / "speech_commands_test_set_v0.02" / "yes").glob("*.wav"))[:40]
    (tmp_path / "yes").mkdir()
    copies = [Path(shutil.copy(path, tmp_path / "yes")) for path in files]
    (tmp_path / "testing_list.txt").write_text("".join(f"yes/{path.name}\n" for path in copies[20:]))
    for (damage, _), path in zip(DAMAGES, copies, strict=False):
        path.chmod(0o644)
        damage(path)
    data = speech_commands.load(tmp_path, True)
    assert (len(data.train), len(data.test)) == (20 - len(DAMAGES), 20)
    assert f"sound files left out: {len(DAMAGES)} (the first: {copies[0]}: cut off" in note_of(data)


def test_other_lengths_are_filled_and_cut(folder):
    path = folder / "yes" / "00000001_nohash_0.wav"
    short, long = tone(500, 0.4), tone(500, 1.3)
    for samples, note in (
        (short, "clips shorter than a second, followed by zeros: 1"),
        (long, "clips longer than a second, cut: 1"),
    ):
        write(path, samples)
        data = load_small(folder, False)
        assert note in note_of(data)
        stored = soundfile.read(path, dtype="float32")[0][:RATE]
        wave = np.zeros(RATE, np.float32)
        wave[: len(stored)] = stored
        (found,) = data.test.features[data.test.labels == TWELVE.index("yes")]
        assert torch.equal(found, log_mel(torch.from_numpy(wave)[None])[0])


def test_a_short_noise_is_left_out(folder):
    write(folder / "_background_noise_" / "noise0.wav", tone(100, 4.9))
    with pytest.raises(DataError, match=r"noise0.wav: a background noise of 4.9 s, expected at least 5"):
        load_small(folder, False)
    assert len(load_small(folder, True).train.noise) == 8  # of the other: seconds at every half of 4.8


def test_a_folder_that_is_no_word_is_counted(folder):
    write(folder / "hello" / "00000000_nohash_0.wav", tone(100))
    assert "clips left out whose folder is no word of the data set: 1 (the first in hello)" in note_of(
        load_small(folder, True)
    )


def test_a_line_that_names_no_clip_is_named(folder):
    with (folder / "testing_list.txt").open("a") as file:
        file.write("\nyes 00000004\n")
    with pytest.raises(DataError, match=r"testing_list.txt, line 6: 'yes 00000004' names no clip; expected <word>/"):
        load_small(folder, True)


def test_other_folders_are_explained(tmp_path, folder):
    for task in (speech_commands, speech_commands_v2_35):
        with pytest.raises(DataError, match=rf"the task {task.name} needs its files(.|\n)*testing_list.txt"):
            task.load(None, False)
        with pytest.raises(DataError, match="no such folder"):
            task.load(tmp_path / "nowhere", False)
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(DataError, match=r"has 0 training and 0 test clips(.|\n)*<word>/\*.wav"):
            task.load(tmp_path / "empty", True)
    for path in folder.glob("*/*_nohash_*.wav"):
        emptied(path)
    with pytest.raises(DataError, match="no training or no test clip can be used; sound files left out: 16"):
        speech_commands.load(folder, True)


# Kept features


def test_features_are_computed_once(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("BIBENCH_CACHE", str(tmp_path / "cache"))
    computed = []
    monkeypatch.setattr(module, "log_mel", lambda waves: computed.append(len(waves)) or log_mel(waves))
    first = load_small(folder, False)
    assert sum(computed) == 13 + 4 + len(first.train.noise)
    computed.clear()
    second = load_small(folder, False)
    assert computed == []
    for a, b in ((first.train, second.train), (first.test, second.test)):
        assert torch.equal(a.features, b.features)
    moved = shutil.move(folder, tmp_path / "elsewhere")
    assert load_small(moved, False).fingerprint == first.fingerprint
    assert computed == []  # they are found by content, wherever the files are
    write(moved / "yes" / "00000001_nohash_0.wav", tone(1234))
    other = load_small(moved, False)
    assert computed == [4]
    assert other.fingerprint != first.fingerprint


def test_a_damaged_file_of_the_cache_is_replaced(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("BIBENCH_CACHE", str(tmp_path / "cache"))
    expected = load_small(folder, False).test.features
    kept = list((tmp_path / "cache" / "speech").glob("*.npy"))
    assert len(kept) == 3
    for number, path in enumerate(kept):
        path.write_bytes([b"", b"no array", path.read_bytes()[:-9]][number])
    assert torch.equal(load_small(folder, False).test.features, expected)
    np.save(kept[0], np.zeros((2, 2)))
    assert torch.equal(load_small(folder, False).test.features, expected)
    for path in kept:
        assert np.load(path).shape[1:] == (BANDS, FRAMES)


def test_where_nothing_can_be_kept_a_warning_says_so(folder, tmp_path, monkeypatch):
    expected = load_small(folder, False).test.features
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("BIBENCH_CACHE", str(tmp_path / "file"))
    cache._warn.cache_clear()
    with pytest.warns(UserWarning, match="features of sounds cannot be kept in .*file.*Set BIBENCH_CACHE"):
        found = load_small(folder, False)
    assert torch.equal(found.test.features, expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_small(folder, False)


def test_the_size_of_a_chunk_changes_nothing_but_the_fingerprint(folder, monkeypatch):
    whole = load_small(folder, False)
    monkeypatch.setattr(module, "_CHUNK", 5)
    monkeypatch.setattr(module, "_PART", 2)
    parts = load_small(folder, False)
    assert torch.equal(whole.train.labels, parts.train.labels)
    torch.testing.assert_close(whole.train.features, parts.train.features)


# Batches


def split(count=10, **options) -> Features:
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(count, BANDS, FRAMES, generator=generator) - 7
    return Features(features=features, labels=torch.arange(count), **options)


def restored(inputs: torch.Tensor) -> torch.Tensor:
    return inputs[:, 0] * module._STD + module._MEAN


def test_evaluation_is_everything_in_order():
    one = split(shift=3, noise=torch.zeros(2, BANDS, FRAMES))
    batches = list(one.batches(4, device=CPU))
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    assert torch.cat([labels for _, labels in batches]).tolist() == list(range(10))
    inputs = torch.cat([inputs for inputs, _ in batches])
    assert inputs.shape == (10, *speech_commands.input_shape)
    torch.testing.assert_close(restored(inputs), one.features)


def test_training_depends_on_the_seed_alone():
    one = split(shift=3, noise=torch.zeros(2, BANDS, FRAMES))
    state = torch.get_rng_state()
    first = list(one.batches(4, device=CPU, seed=1))
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(5)
    for (a, b), (c, d) in zip(first, one.batches(4, device=CPU, seed=1), strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)
    assert [len(labels) for _, labels in first] == [4, 4]
    assert not torch.equal(first[0][0], next(one.batches(4, device=CPU, seed=2))[0])
    assert [len(labels) for _, labels in one.batches(100, device=CPU, seed=1)] == [10]


def test_clips_are_moved_by_whole_frames_and_silence_comes_in():
    one = split(200, shift=3)
    silence = math.log(1e-6)
    seen = Counter()
    for inputs, labels in one.batches(50, device=CPU, seed=0):
        for found, label in zip(restored(inputs), labels, strict=True):
            original = one.features[label]
            for move in range(-3, 4):
                expected = torch.full_like(original, silence)
                if move >= 0:
                    expected[:, move:] = original[:, : FRAMES - move]
                else:
                    expected[:, :move] = original[:, -move:]
                seen[move] += torch.allclose(found, expected, atol=1e-4)
    assert sum(seen.values()) == 200
    assert all(seen[move] > 10 for move in range(-3, 4))


def test_noise_adds_its_energy_in_some_of_the_clips():
    noise = torch.stack([torch.full((BANDS, FRAMES), -4.0), torch.full((BANDS, FRAMES), 2.0)])
    one = split(400, noise=noise, volume=0.5, noisy=0.75)
    volumes = []
    for inputs, labels in one.batches(100, device=CPU, seed=0):
        added = restored(inputs).double().exp() - one.features[labels].double().exp()
        for clip in added:
            assert clip.std() < 1e-3 * max(clip.mean(), 1e-3)  # the same everywhere, as the noise is
            volumes.append(clip.mean().clamp(min=0).item())
    share = sum(volume > 1e-9 for volume in volumes) / 400
    assert share == pytest.approx(0.75, abs=0.06)
    assert max(volumes) <= 0.25 * math.exp(2)
    assert max(volumes) > 0.2 * math.exp(2)
    again = torch.cat([inputs for inputs, _ in replace(one, noisy=0.0).batches(100, device=CPU, seed=0)])
    assert torch.equal(again, torch.cat([i for i, _ in replace(one, noise=None).batches(100, device=CPU, seed=0)]))


def test_energies_add_as_those_of_sounds_do():
    """The features of summed sounds have, on average over noises, what is added here."""
    clip = torch.from_numpy(tone(700))
    noises = torch.from_numpy(np.random.default_rng(1).normal(size=(200, RATE)).astype(np.float32)) * 0.05
    mixed = log_mel(clip + 0.3 * noises).exp().mean(dim=0)
    added = torch.logaddexp(log_mel(clip[None]), log_mel(noises) + 2 * math.log(0.3)).exp().mean(dim=0)
    torch.testing.assert_close(mixed, added, rtol=0.15, atol=1e-5)


# The task


def test_tasks_are_registered():
    assert registry.get("tasks", "speech_commands") is speech_commands
    assert registry.get("tasks", "speech_commands_v2_35") is speech_commands_v2_35
    assert speech_commands.training_samples == 51_088 + 5_108
    assert (speech_commands.outputs, speech_commands_v2_35.outputs) == (12, 35)
    assert len(set(module._V1)) == 30
    assert len(set(module._V2)) == 35
    assert (module._V001.clips, module._V002.clips) == (64_721, 105_829)
    for task in (speech_commands, speech_commands_v2_35):
        assert task.full_precision.epochs == task.binarized.epochs == 300
        assert task.example().shape == (2, 1, 32, 32)


@pytest.mark.slow
def test_a_run_from_the_files_to_the_score(folder, tmp_path):
    """Through the command line, both architectures, binarized too; what was unusual is in the result."""
    emptied(folder / "bed" / "00000003_nohash_0.wav")
    recipe = "{epochs: 1, batch_size: 4}"
    suite = tmp_path / "small.yaml"
    suite.write_text(
        f"name: small\ntasks:\n  - task: speech_commands\n    architectures: [fsmn, d_fsmn]\n"
        f"    full_precision: {recipe}\n    binarized: {recipe}\n"
        "algorithms: [reactnet]\nseeds: 1\ntracks: [learning_task, neural_architecture]\n"
    )
    result = bibench("run", suite, "--data", folder.parent, "--allow-subset", "--out", tmp_path / "out", "--jobs", 1)
    assert result.returncode == 0, result.stdout + result.stderr
    records = [path.read_text() for path in (tmp_path / "out" / "runs").glob("*/record.json")]
    assert len(records) == 4
    assert all("sound files left out: 1 (the first: " in record for record in records)
    compared = bibench("compare", tmp_path / "out", "--published")
    assert compared.returncode == 0, compared.stdout + compared.stderr
    assert "speech_commands" in compared.stdout


def test_real_clips(real_data):
    data = speech_commands.load(real_data, True)
    assert (len(data.train), len(data.test), data.outputs) == (1_140, 300, 12)
    note = note_of(data)
    assert note.startswith("speech_commands_test_set_v0.02: 1,140 of 51,088 training and 300 of 6,835 test clips")
    assert f"{data.trivial.value:.2f}" == "9.67"
    inputs = torch.cat([inputs for inputs, _ in data.train.batches(96, device=CPU)])
    assert abs(inputs.mean().item()) < 0.1
    assert abs(inputs.std().item() - 1) < 0.1
    version1 = speech_commands.load(real_data / "speech_commands_v0.01", True)
    assert (len(version1.train), len(version1.test)) == (205, 51)
    assert "clips shorter than a second, followed by zeros: 21" in note_of(version1)
