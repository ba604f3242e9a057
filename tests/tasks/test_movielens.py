"""MovieLens: the three published formats, broken files, parts of the data set, and that the network learns it."""

import dataclasses
import os

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bibench import registry
from bibench.models.ncf import NeuMF
from bibench.tasks import movielens as module
from bibench.tasks.base import DataError
from bibench.tasks.movielens import movielens
from bibench.tasks.ranking import LeaveOneOut, evaluate

CPU = torch.device("cpu")
HEADER = "userId,movieId,rating,timestamp"
FORMATS = {
    "ml-20m": ("ratings.csv", ",", HEADER),
    "ml-1m": ("ratings.dat", "::", None),
    "ml-100k": ("u.data", "\t", None),
    "ml-latest-small": ("ratings.csv", ",", HEADER),
}
RATINGS = [
    (1, 31, 2.5, 1260759144),
    (1, 1029, 3.0, 1260759179),
    (1, 1061, 3.0, 1260759182),
    (2, 31, 4.0, 835355493),
    (2, 17, 5.0, 835355681),
    (2, 1029, 5.0, 835355604),
]


def _lines(ratings, folder):
    _, separator, header = FORMATS[folder]
    stars = "{:.1f}" if header else "{:.0f}"
    lines = [separator.join((str(u), str(i), stars.format(r), str(t))) for u, i, r, t in ratings]
    return [header, *lines] if header else lines


def _write(root, folder, lines, end="\n", last=True, encoding="utf-8"):
    (root / folder).mkdir(exist_ok=True)
    path = root / folder / FORMATS[folder][0]
    path.write_bytes((end.join(lines) + (end if last else "")).encode(encoding))
    return path


def _load(root, folder, ratings=RATINGS):
    _write(root, folder, _lines(ratings, folder))
    return movielens.load(root, True)


@pytest.mark.parametrize("folder", FORMATS)
def test_every_format_is_read_alike(tmp_path, folder):
    data = _load(tmp_path, folder)
    assert data.outputs == (2, 4)  # films 17, 31, 1029 and 1061
    train = data.train.interactions
    assert list(zip(train.user.tolist(), train.item.tolist(), strict=True)) == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert data.test.test.tolist() == [3, 0]
    assert (len(data.train), len(data.test)) == (4 * 5, 2)
    other = tmp_path / "other"
    other.mkdir()
    assert data.fingerprint == _load(other, "ml-1m").fingerprint


@pytest.mark.parametrize("folder", FORMATS)
@pytest.mark.parametrize(("end", "last"), [("\r\n", True), ("\n", False), ("\r\n", False), ("\n\n", True)])
def test_line_ends_do_not_matter(tmp_path, folder, end, last):
    expected = _load(tmp_path, folder).fingerprint
    _write(tmp_path, folder, _lines(RATINGS, folder), end, last)
    assert movielens.load(tmp_path, True).fingerprint == expected


@pytest.mark.parametrize("folder", FORMATS)
def test_a_byte_order_mark_does_not_matter(tmp_path, folder):
    expected = _load(tmp_path, folder).fingerprint
    _write(tmp_path, folder, _lines(RATINGS, folder), encoding="utf-8-sig")
    assert movielens.load(tmp_path, True).fingerprint == expected


@pytest.mark.parametrize("folder", FORMATS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda fields: fields[:3], "has 3 fields, expected 4 \\(userId, movieId, rating, timestamp\\) separated by"),
        (lambda fields: [*fields, "7"], "has 5 fields"),
        (lambda fields: ["x", *fields[1:]], "has the userId 'x', expected a whole number"),
        (lambda fields: ["1.5", *fields[1:]], "has the userId '1.5', expected a whole number"),
        (lambda fields: ["-1", *fields[1:]], "has the userId '-1', expected a whole number"),
        (lambda fields: ["", *fields[1:]], "has the userId '', expected a whole number"),
        (lambda fields: [fields[0], "9" * 30, *fields[2:]], "has the movieId '9999.*', expected a whole number"),
        (lambda fields: [*fields[:2], "good", fields[3]], "has the rating 'good', expected a number"),
        (lambda fields: [*fields[:2], "nan", fields[3]], "has the rating 'nan', expected a number"),
        (lambda fields: [*fields[:2], "-3", fields[3]], "has the rating '-3', expected a number"),
        (lambda fields: [*fields[:3], "8e8"], "has the timestamp '8e8', expected whole seconds"),
        (lambda fields: [*fields[:3], "-5"], "has the timestamp '-5', expected whole seconds"),
        (lambda fields: [*fields[:3], "1\xa02"], r"has the timestamp '1\\xa02', expected whole seconds"),
        (lambda fields: [*fields[:3], "5#7"], "has the timestamp '5#7', expected whole seconds"),
        (lambda fields: [*fields[:3], "# 3"], "has the timestamp '# 3', expected whole seconds"),
    ],
)
def test_a_broken_line_is_named(tmp_path, folder, change, message):
    lines = _lines(RATINGS, folder)
    separator = FORMATS[folder][1]
    lines[4] = separator.join(change(lines[4].split(separator)))
    path = _write(tmp_path, folder, lines, encoding="latin1")
    with pytest.raises(DataError, match=rf"{path.name}, line 5: .*{message}.*unpack it again"):
        movielens.load(tmp_path, True)


@pytest.mark.parametrize("folder", FORMATS)
@pytest.mark.parametrize("other", [",", "::", "\t", ":", ":x:", " "])
def test_another_formats_separator_is_refused(tmp_path, folder, other):
    separator = FORMATS[folder][1]
    lines = _lines(RATINGS, folder)
    lines[3] = lines[3].replace(separator, other)
    _write(tmp_path, folder, lines)
    if other == separator:
        assert len(movielens.load(tmp_path, True).test) == 2
        return
    with pytest.raises(
        DataError, match=rf"line 4: .* expected 4 \(.*separated by '{separator!s}'".replace("\t", r"\\t")
    ):
        movielens.load(tmp_path, True)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), folder=st.sampled_from(sorted(FORMATS)))
def test_any_damage_is_a_data_error_or_still_ratings(tmp_path, data, folder):
    """Bytes are changed at random: nothing else may come out of it, and the error names the file."""
    for other in FORMATS:
        (tmp_path / other / FORMATS[other][0]).unlink(missing_ok=True)
    content = bytearray(_write(tmp_path, folder, _lines(RATINGS, folder)).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / folder / FORMATS[folder][0]
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        users = len(movielens.load(tmp_path, True).test)
    except DataError as error:
        message = str(error)
        users = None
    assert path.name in message if users is None else 1 <= users <= 3


@pytest.mark.parametrize("header", ["", "userid,movieid,rating,timestamp", "1,31,2.5,1260759144", "x" * 10_000])
def test_another_header_is_refused(tmp_path, header):
    _write(tmp_path, "ml-20m", [header, *_lines(RATINGS, "ml-20m")[1:]])
    with pytest.raises(DataError, match=f"ratings.csv, line 1: the header is '{header[:80]}', expected '{HEADER}'"):
        movielens.load(tmp_path, True)


@pytest.mark.parametrize("folder", FORMATS)
def test_a_file_without_ratings_is_refused(tmp_path, folder):
    for lines in ([], ["", ""]):
        _write(tmp_path, folder, [*_lines([], folder), *lines])
        with pytest.raises(DataError, match="has no ratings; unpack it again"):
            movielens.load(tmp_path, True)


def test_a_single_line_and_users_of_one_rating_cannot_be_split(tmp_path):
    for ratings in (RATINGS[:1], [RATINGS[0], RATINGS[3]]):
        with pytest.raises(DataError, match="every user has rated a single film"):
            _load(tmp_path, "ml-1m", ratings)


def test_a_part_is_an_error_or_a_note(tmp_path):
    _write(tmp_path, "ml-100k", _lines(RATINGS, "ml-100k"))
    with pytest.raises(DataError, match=r"u.data has 6 ratings, the original has 100,000; .*--allow-subset"):
        movielens.load(tmp_path, False)
    (note,) = movielens.load(tmp_path, True).notes
    assert note == (
        "MovieLens 100K: 6 of 100,000 ratings, 2 users, 4 films; the paper's figures are of MovieLens 20M; "
        "users with fewer than 999 other films, ranked against all of those: 2"
    )


def test_what_is_left_out_is_noted(tmp_path):
    again = [(1, 31, 1.0, 1260759145), (3, 9, 4.0, 5), (4, 9, 4.0, 5), (4, 9, 4.0, 6)]
    data = _load(tmp_path, "ml-20m", RATINGS + again)
    assert (
        "; earlier ratings of a film by the same user left out: 2; users with a single rating left out: 2;"
        in data.notes[0]
    )
    assert "the paper's figures" not in data.notes[0]
    assert data.outputs == (2, 4)  # film 9 went with the users


def test_a_rating_given_anew_counts_when_it_was_given_last(tmp_path):
    data = _load(tmp_path, "ml-20m", [*RATINGS, (1, 31, 1.0, 1260759190)])
    assert data.test.test.tolist() == [1, 0]  # film 31 instead of 1061


@pytest.mark.parametrize(("films", "few"), [(1001, 1), (1000, 2)])
def test_users_with_too_few_other_films_are_counted(tmp_path, films, few):
    """The first user has seen two of the films, the second all."""
    ratings = [(0, 0, 3.0, 1), (0, 1, 3.0, 2), *((1, item, 3.0, item) for item in range(films))]
    (note,) = _load(tmp_path, "ml-1m", ratings).notes
    assert f"users with fewer than 999 other films, ranked against all of those: {few}" in note


def test_full_ranking_of_some_users_is_noted(tmp_path):
    ratings = [(user, item, 3.0, item) for user in range(250) for item in range(user % 3, user % 3 + 3)]
    assert "; hr10_all and ndcg10_all of 200 users" in _load(tmp_path, "ml-1m", ratings).notes[0]
    assert "of 200 users" not in _load(tmp_path, "ml-1m", ratings[:600]).notes[0]


def test_the_papers_version_comes_first_and_the_others_are_noted(tmp_path):
    for folder in reversed(FORMATS):
        data = _load(tmp_path, folder)
    assert data.notes[0].startswith("MovieLens 20M: 6 of 20,000,263 ratings")
    assert (
        "; ml-1m, ml-100k, ml-latest-small also there and not used (name a folder itself to choose it)" in data.notes[0]
    )
    for folder, title in (("ml-100k", "100K"), ("ml-latest-small", "latest-small"), ("ml-1m", "1M")):
        (note,) = movielens.load(tmp_path / folder, True).notes
        assert note.startswith(f"MovieLens {title}: 6 of")
        assert "not used" not in note


def test_a_folder_is_known_by_its_name_from_inside_too(tmp_path, monkeypatch):
    _write(tmp_path, "ml-1m", _lines(RATINGS, "ml-1m"))
    monkeypatch.chdir(tmp_path / "ml-1m")
    assert movielens.load(type(tmp_path)(os.curdir), True).notes[0].startswith("MovieLens 1M")


def test_no_folder_and_an_empty_folder_are_explained(tmp_path):
    layouts = (
        r"(.|\n)*ml-20m/ratings.csv(.|\n)*ml-1m/ratings.dat(.|\n)*ml-100k/u.data(.|\n)*ml-latest-small/ratings.csv"
    )
    with pytest.raises(DataError, match=rf"--data DIR{layouts}"):
        movielens.load(None, False)
    with pytest.raises(DataError, match=rf"missing: no such folder{layouts}"):
        movielens.load(tmp_path / "missing", False)
    with pytest.raises(DataError, match=rf"no MovieLens ratings in .*{layouts}"):
        movielens.load(tmp_path, True)


def test_recipe_is_the_papers(shared):
    import csv

    with (shared / "paper" / "partial_pretraining.csv").open(encoding="utf-8") as file:
        rows = {row["key"]: row for row in csv.DictReader(file) if row["dataset"] == "movielens20m"}
    recipe = movielens.full_precision
    assert recipe == movielens.binarized
    assert recipe.optimizer.name == rows["optimizer"]["value"] == "adam"
    assert recipe.optimizer.betas == (float(rows["beta1"]["value"]), float(rows["beta2"]["value"]))
    assert recipe.batch_size == int(rows["batch_size"]["value"])
    assert recipe.learning_rate(0) == recipe.learning_rate(1) == float(rows["learning_rate"]["value"])
    assert recipe.optimizer.weight_decay == 0
    iterations = int(rows["iterations"]["value"])
    assert recipe.epochs == 8
    assert recipe.epochs * movielens.training_samples / recipe.batch_size == pytest.approx(iterations, abs=1)


def test_is_registered():
    assert registry.get("tasks", "movielens") is movielens
    assert {registry.get("architectures", name).modality for name in movielens.architectures} == {movielens.modality}
    assert (movielens.metric.name, movielens.metric.unit, movielens.metric.higher_is_better) == ("hr10", "ratio", True)
    example = movielens.example()
    assert (example.shape, example.dtype) == ((2, *movielens.input_shape), torch.int64)
    assert NeuMF(1, 2)(example).shape == (2,)  # the smallest data set there can be


def test_real_file(real_data):
    data = movielens.load(real_data / "ml-latest-small", False)
    assert data.outputs == (610, 9724)
    assert (len(data.train), len(data.test)) == (5 * (100_836 - 610), 610)
    assert data.notes[0] == (
        "MovieLens latest-small: 100,836 ratings, 610 users, 9,724 films; the paper's figures are of MovieLens 20M; "
        "hr10_all and ndcg10_all of 200 users"
    )
    assert data.fingerprint == movielens.load(real_data, False).fingerprint
    table = np.genfromtxt(real_data / "ml-latest-small" / "ratings.csv", delimiter=",", skip_header=1)
    films = np.unique(table[:, 1])
    for user in (1, 53, 414, 610):
        own = table[table[:, 0] == user]
        last = own[own[:, 3] == own[:, 3].max()][-1, 1]
        assert films[data.test.test[user - 1]] == last
        train = data.train.interactions
        mine = train.item[train.starts[user - 1] : train.starts[user]]
        assert films[mine].tolist() == sorted(set(own[:, 1]) - {last})
    assert data.test.sampled.shape == (610, 999)
    assert int(data.test.sampled.min()) >= 0


def _made(tmp_path, users=240, items=120, groups=4, seed=0):
    """Users of a group like the group's films, a few films are everybody's, and the latest film is like the others."""
    rng = np.random.default_rng(seed)
    popular = rng.random(items) ** 4
    ratings = []
    for user in range(users):
        weight = popular * np.where(np.arange(items) % groups == user % groups, 1.0, 0.03)
        for time, item in enumerate(rng.choice(items, 12, replace=False, p=weight / weight.sum())):
            ratings.append((user, int(item), 3.0, time))
    return _load(tmp_path, "ml-1m", ratings)


class Popularity(torch.nn.Module):
    """Scores a film by how many users have it in training."""

    def __init__(self, interactions):
        super().__init__()
        self.counts = torch.bincount(interactions.item, minlength=interactions.items).float()

    def forward(self, pairs):
        return self.counts[pairs[:, 1]]


def test_the_network_beats_popularity_and_chance(tmp_path):
    """Popularity knows no groups, so only a network that has learned who likes what beats it clearly."""
    data = _made(tmp_path)
    half = LeaveOneOut(train=data.test.train, test=data.test.test, negatives=50)
    popularity = Popularity(data.test.train)
    popular = evaluate(popularity, half.batches(256, device=CPU)).figures
    assert data.trivial.value == evaluate(popularity, data.test.batches(256, device=CPU)).figures["hr10"] > 0
    model = NeuMF(*data.outputs, factors=8, layers=(32, 16, 8))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for epoch in range(6):
        for batch in data.train.batches(256, device=CPU, seed=epoch):
            optimizer.zero_grad()
            movielens.loss(model, batch).backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        found = movielens.evaluate(model, half.batches(256, device=CPU))
    assert popular["hr10"] > 10 / 51 + 0.1
    assert found.figures["hr10"] > popular["hr10"] + 0.1
    assert found.figures["ndcg10_all"] > popular["ndcg10_all"] + 0.03
    assert found.per_sample.shape == (240,)


@pytest.mark.parametrize("operator", [None, "pact"])
def test_the_loop_trains_and_measures_it(tmp_path, operator):
    """Through the same functions as ``bibench run``; twice the same run gives the same figures."""
    from bibench.models.ncf import ncf
    from bibench.records import RunConfig
    from bibench.training import build_model, train

    data = _made(tmp_path, users=40)
    recipe = dataclasses.replace(movielens.full_precision, epochs=2, batch_size=256)
    config = RunConfig(
        task="movielens",
        architecture="ncf",
        method="from_scratch" if operator else "full_precision",
        algorithm=operator or "fp32",
        operator=operator,
        recipe=recipe,
        seed=0,
        family="mlps",
        metric="hr10",
    )
    found = []
    for attempt in range(2):
        model = build_model(config, task=movielens, architecture=ncf, data=data)
        folder = tmp_path / str(attempt)
        folder.mkdir()
        found.append(train(config, model, task=movielens, data=data, folder=folder).evaluation)
    assert set(found[0].figures) == {"hr10", "ndcg10", "hr10_all", "ndcg10_all"}
    assert found[0].figures == found[1].figures
    assert module.NEGATIVES == 4
