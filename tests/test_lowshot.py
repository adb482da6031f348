"""Few labels: which images are drawn, which are named, and what comes of them."""

import dataclasses
import pathlib
import statistics
import types

import numpy as np
import pytest

from jepa_jax.data.sources import open_source
from jepa_jax.errors import UserError
from jepa_jax.evaluation.linear import linear_probe_accuracy
from jepa_jax.evaluation.lowshot import Options, named, run, shuffled
from jepa_jax.evaluation.splits import Split
from tests.given import task_of
from tests.test_linear import clusters
from tests.tiny import tiny

TRAIN, TEST = clusters(400, seed=1), clusters(200, seed=2)
NAMES = ["cat/1.png", "cat/2.png", "dog/1.png", "dog/3.png"]


@pytest.fixture(scope="module")
def result():
    options = Options(shares=(0.05,), per_class=(2, 1000), draws=3)
    return run(task_of(TRAIN, TEST), options)


def test_mean_and_deviation_of_the_draws(result):
    (few, more, all_of_them), rows = list(result.rows), result.rows
    assert result.best == rows[few]["accuracy"] == np.mean(result.details["draws"][few])
    assert rows[more]["±"] == statistics.stdev(result.details["draws"][more]) > 0
    assert 0.25 < rows[more]["accuracy"] < rows[all_of_them]["accuracy"]


def test_one_draw_deviates_from_nothing():
    found = run(task_of(TRAIN, TEST), Options(shares=(), per_class=(2,), draws=1))
    assert [list(row) for row in found.rows.values()] == [["accuracy"]]
    assert found.metric == "accuracy"


def test_all_labels_are_the_linear_probe(result):
    row = result.rows["1000 of each class (400 images)"]
    expected = linear_probe_accuracy(*TRAIN, *TEST)
    assert row == {"accuracy": pytest.approx(expected, abs=0.006), "±": pytest.approx(0, abs=0.006)}


def test_each_class_gets_its_share_and_of_one_draw_few_are_part_of_more():
    labels = np.repeat([3, 5, 9], [100, 60, 2])
    order = shuffled(labels, 0, 0)
    assert [sorted(np.unique(labels[of]).tolist()) for of in order] == [[3], [5], [9]]
    assert sorted(np.concatenate(order).tolist()) == list(range(162))
    again, other = shuffled(labels, 0, 0), shuffled(labels, 0, 1)
    assert np.array_equal(again[0], order[0])
    assert not np.array_equal(other[0], order[0])


def test_the_sizes_are_told(result):
    labels, counts = np.unique(TRAIN[1], return_counts=True)
    share = int(np.round(0.05 * counts).sum())
    assert list(result.rows)[:2] == [
        f"5 % of each class ({share} images)",
        f"2 of each class ({2 * len(labels)} images)",
    ]


@pytest.fixture
def split(tmp_path) -> Split:
    for name in NAMES:
        file = tmp_path / "images" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"never decoded")
    data = tiny().data
    data.update(source="folder", path=str(tmp_path / "images"))
    source = open_source(data, "train")
    return Split("train", source, np.arange(4), source.labels(np.arange(4)), source.classes)


def listed(folder: pathlib.Path, *lines: str) -> pathlib.Path:
    file = folder / "few.txt"
    file.write_text("\n".join(lines) + "\n")
    return file


def test_a_file_names_the_images(split, tmp_path):
    assert named(split, listed(tmp_path, "2.png", "dog/3.png")).tolist() == [1, 3]
    assert named(split.take(np.array([3, 1])), listed(tmp_path, "dog/3.png")).tolist() == [0]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [("1.png", "has 2"), ("4.png", "has 0; did you mean"), ("", "it is empty")],
)
def test_names_that_fit_no_image_or_several(split, tmp_path, line, complaint):
    with pytest.raises(UserError, match=complaint):
        named(split, listed(tmp_path, line))


def test_files_of_one_name_in_several_folders_are_rows_of_their_own(tmp_path):
    task = task_of(TRAIN, TEST)
    names = [f"{number}.png" for number in range(len(task.train))]
    train = dataclasses.replace(task.train, source=types.SimpleNamespace(names=names))
    files = [tmp_path / folder / "1percent.txt" for folder in ("a", "b")]
    for file, count in zip(files, (20, 40), strict=True):
        file.parent.mkdir()
        file.write_text("\n".join(names[:count]))
    options = Options(shares=(), per_class=(), names=",".join(map(str, files)))
    found = run(dataclasses.replace(task, train=train), options)
    assert list(found.rows) == [f"{files[0]} (20 images)", f"{files[1]} (40 images)"]


def test_what_cannot_be_is_answered_in_one_line(tmp_path):
    task = task_of(TRAIN, TEST)
    for options, complaint in (
        ({"shares": (1.5,)}, "shares=1.5: give shares up to 1"),
        ({"draws": 0}, "draws=0: give a value above zero"),
        ({"shares": (), "per_class": ()}, "give one of them"),
        ({"names": "nowhere.txt"}, "can't be read"),
        ({"names": str(listed(tmp_path, "1.png"))}, "have no file names"),
    ):
        with pytest.raises(UserError, match=complaint) as error:
            run(task, Options(**options))
        assert "\n" not in str(error.value)
