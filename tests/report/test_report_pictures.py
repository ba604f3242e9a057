"""The report's pictures: which stand beside which, what is said where one lacks, and that no text becomes markup."""

import base64
import re
from html.parser import HTMLParser

import pytest

from bibench.recipes import SGD, Recipe
from bibench.records import Results, RunConfig, StoredPair, StoredPicture, StoredPictures
from bibench.report import Meta, write_report
from bibench.report.pictures import shown_samples
from bibench.report.summary import task_tables
from bibench.tracks import score
from bibench.tracks.learning_task import learning_task


def _results(architectures=("faster_rcnn",), algorithms=("fp32", "bnn", "recu"), seeds=(0, 1)):
    """A planned run for each."""
    recipe = Recipe(optimizer=SGD(lr=0.1), epochs=1, batch_size=8)
    plan = [
        RunConfig(
            task="voc07",
            architecture=architecture,
            algorithm=algorithm,
            method="fine_tune",
            seed=seed,
            recipe=recipe,
            family="cnns",
            metric="map",
        )
        for architecture in architectures
        for algorithm in algorithms
        for seed in seeds
    ]
    return Results(plan=plan, records=[])


def _kept(made, *, without=(), titles=("test image 3", "test image 8"), **changed):
    """Pictures by run: every run has those of the titles, except ``without`` and ``changed``, by algorithm."""
    kept = {}
    for run in made.plan:
        if (run.algorithm, run.seed) in without:
            continue
        text = f"{run.architecture} {run.algorithm} {run.seed}"
        pairs = [
            StoredPair(
                title=title,
                truth=StoredPicture(jpeg=f"truth {title}".encode(), text=f"objects of {title}"),
                found=StoredPicture(jpeg=f"{text} {title}".encode(), text=f"{text} on {title}"),
            )
            for title in titles
        ]
        kept[run.id] = changed.get(run.algorithm, StoredPictures(pairs=tuple(pairs)))
    return lambda run_id: kept.get(run_id, StoredPictures())


def _rows(made, pictures):
    (table,) = task_tables(made, [])
    return shown_samples(made, table, pictures)


def _content(shown):
    assert shown.source.startswith("data:image/jpeg;base64,")
    return base64.b64decode(shown.source.split(",")[1]).decode()


def test_a_row_an_architecture_and_sample_truth_first_then_full_precision():
    made = _results(("faster_rcnn", "ssd300"))
    rows = _rows(made, _kept(made))
    assert [(row.architecture, row.title, row.seed) for row in rows] == [
        ("faster_rcnn", "test image 3", 0),
        ("faster_rcnn", "test image 8", 0),
        ("ssd300", "test image 3", 0),
        ("ssd300", "test image 8", 0),
    ]
    assert [shown.caption for shown in rows[3].pictures] == ["truth", "full precision", "bnn", "recu"]
    assert [_content(shown) for shown in rows[3].pictures] == [
        "truth test image 8",
        *(f"ssd300 {algorithm} 0 test image 8" for algorithm in ("fp32", "bnn", "recu")),
    ]
    assert rows[0].pictures[2].text == "faster_rcnn bnn 0 on test image 3"


def test_a_row_is_of_one_seed_the_lowest_with_pictures():
    made = _results()
    rows = _rows(made, _kept(made, without=[(algorithm, 0) for algorithm in ("fp32", "bnn", "recu")]))
    assert [row.seed for row in rows] == [1, 1]
    rows = _rows(made, _kept(made, without=[("fp32", 0), ("recu", 0)]))
    assert [(shown.caption, shown.text) for shown in rows[0].pictures if not shown.source] == [
        ("full precision", "no picture of this sample"),
        ("recu", "no picture of this sample"),
    ]
    assert _content(rows[0].pictures[2]) == "faster_rcnn bnn 0 test image 3"


def test_what_cannot_be_shown_says_why_and_doesnt_hide_the_others():
    made = _results()
    broken = StoredPictures(problem="runs/x/pictures/0-found.jpg: not shown")
    for row in _rows(made, _kept(made, recu=broken)):
        assert [bool(shown.source) for shown in row.pictures] == [True, True, True, False]
        assert row.pictures[3].text == broken.problem


def test_pictures_of_another_sample_do_not_stand_in_the_row():
    made = _results()
    other = _kept(made, titles=("test image 5",))(made.plan[2].id)
    first, _ = _rows(made, _kept(made, bnn=other))
    assert first.pictures[2].text == "no picture of this sample"


def test_no_pictures_no_rows():
    made = _results()
    assert _rows(made, lambda run_id: StoredPictures()) == []
    assert _rows(made, lambda run_id: StoredPictures(problem="all broken")) == []


# ---- the page


class _Images(HTMLParser):
    """The images of a page, and the tags."""

    def __init__(self):
        super().__init__()
        self.images, self.tags = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attributes))


def _page(path, made, *pictures):
    meta = Meta(suite="quick", tracks=[learning_task])
    write_report(path / "report.html", made, score(made, [learning_task]), [], lambda _: [], meta, *pictures)
    return (path / "report.html").read_text(encoding="utf-8")


def test_the_page_embeds_them_with_captions_and_words_for_who_doesnt_see(tmp_path):
    made = _results(seeds=(4,))
    text = _page(tmp_path, made, _kept(made))
    parser = _Images()
    parser.feed(text)
    assert len(parser.images) == 8
    assert [image["alt"] for image in parser.images[:2]] == [
        "objects of test image 3",
        "faster_rcnn fp32 4 on test image 3",
    ]
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in parser.images)
    captions = re.findall(r"<figcaption><b>(.*?)</b> [^<]*test image", text)
    assert captions == ["truth", "full precision", "bnn", "recu"] * 2
    assert text.count("What faster_rcnn makes of samples of voc07") == 1
    assert "The networks of seed 4 after the last epoch" in text


@pytest.mark.parametrize("pictures", [(), (lambda run_id: StoredPictures(),)])
def test_a_page_without_pictures_doesnt_speak_of_them(tmp_path, pictures):
    text = _page(tmp_path, _results(), *pictures)
    assert "<img" not in text
    assert "makes of samples" not in text


def test_no_text_becomes_markup(tmp_path):
    attack = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
    made = _results(algorithms=("fp32", "bnn"))
    picture = StoredPicture(jpeg=b"jpeg", text=attack)
    pair = StoredPair(title=attack, truth=picture, found=picture)
    bad = StoredPictures(problem=attack)
    text = _page(tmp_path, made, _kept(made, fp32=StoredPictures(pairs=(pair,)), bnn=bad))
    parser = _Images()
    parser.feed(text)
    assert "script" not in parser.tags
    assert [image["alt"] for image in parser.images] == [attack, attack]
    assert all(set(image) == {"src", "alt"} for image in parser.images)
