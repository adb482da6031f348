"""Unreadable examples: replaced, counted, named once, and too many stop the run."""

import numpy as np
import pytest
from PIL import Image

from jepa_jax.config import defaults
from jepa_jax.data.broken import Broken, read_sound
from jepa_jax.data.loader import TrainBatches
from jepa_jax.data.mixture import mixed
from jepa_jax.data.sources import ArraySource, Example, open_source
from jepa_jax.data.transforms import EvalView
from jepa_jax.errors import UserError
from tests.pictures import encode, photo

LENGTH = 200


class Source:
    classes = None

    def __init__(self, broken):
        self.broken = broken

    def __len__(self):
        return LENGTH

    def __getitem__(self, index):
        return Example(index, None, f"image {index}")

    def view(self, example):
        if example.image in self.broken:
            raise UserError(f"{example.name} is damaged")
        return example.image


def read(source, *indices):
    rows = [read_sound(source, index, source.view) for index in indices]
    return {key: np.array([row[key] for row in rows]) for key in ("index", "broken")}


def account(source, share=0.1):
    lines = []
    return Broken(source, share, source.view, lines.append), lines


def test_sound_examples_are_read_as_they_are():
    source = Source(broken={3})
    assert read_sound(source, 5, source.view) == {"image": 5, "index": 5, "broken": -1}


def test_the_next_sound_example_takes_the_place():
    source = Source(broken={3, 4, LENGTH - 1})
    assert read_sound(source, 3, source.view) == {"image": 5, "index": 5, "broken": 3}
    assert read_sound(source, LENGTH - 1, source.view)["index"] == 0


def test_a_hundred_in_a_row_are_too_many():
    source = Source(broken=set(range(10, 110)))
    with pytest.raises(UserError, match="100 images in a row can't be used: image 10 is damaged"):
        read_sound(source, 10, source.view)
    assert read_sound(source, 11, source.view)["index"] == 110


def test_more_in_a_row_are_put_up_with_where_the_share_allows_it():
    source = Source(broken=set(range(10, 130)))
    assert read_sound(source, 10, source.view, share=0.61)["index"] == 130
    with pytest.raises(UserError, match="110 images in a row"):
        read_sound(source, 10, source.view, share=0.549)


def test_each_is_named_once():
    source = Source(broken={3, 4, 7})
    broken, lines = account(source)
    for _ in range(2):
        broken.note(read(source, 1, 3, 7, 4), 1)
    assert len(broken) == 3
    assert [line.split(";")[0] for line in lines] == [
        "image 3 is damaged",
        "image 4 is damaged",
        "image 7 is damaged",
    ]


def test_those_of_an_earlier_start_count_and_are_not_named_again():
    source, rows, lines = Source(broken={3, 4}), [], []
    first = Broken(source, 0.1, source.view, lines.append, record=rows.append)
    first.note(read(source, 3), 7)
    assert [(row["step"], row["index"]) for row in rows] == [(7, 3), (7, 4)]
    lines.clear()
    second = Broken(source, 0.1, source.view, lines.append, known=rows)
    second.note(read(source, 4), 8)
    assert len(second) == 2
    assert not lines


def test_every_damaged_file_is_counted_on_its_way_to_batches(tmp_path):
    rng, damaged = np.random.default_rng(0), 0
    data = defaults().data
    data.path, data.image_size = str(tmp_path), (8, 8)
    view = EvalView.of(data)
    for number in range(60):
        kind = ("jpeg", "png", "webp")[number % 3]
        file = bytearray(encode(Image.fromarray(photo(40, 48)), kind).image)
        if number % 4 == 1:
            del file[rng.integers(1, len(file)) :]
        elif number % 4 == 2:
            for place in rng.integers(len(file), size=20):
                file[place] ^= 1 << rng.integers(8)
        (tmp_path / f"{number:03}.{kind}").write_bytes(file)
        try:
            view(Example(bytes(file), None, ""))
        except UserError:
            damaged += 1
    source, lines = open_source(data, "train"), []
    broken = Broken(source, 1.0, view, lines.append)
    batches = TrainBatches(source, data, seed=0, batch_size=20)
    for step in range(3):  # an epoch
        broken.note(batches[step], step + 1)
    assert 15 <= damaged < 30
    assert len(broken) == len(lines) == damaged


def test_a_row_of_them_may_go_over_the_end():
    source = Source(broken={LENGTH - 1, 0, 1})
    broken, lines = account(source)
    broken.note(read(source, LENGTH - 1), 1)
    assert len(broken) == len(lines) == 3


def test_one_that_can_be_read_again_is_named_too():
    source = Source(broken={3})
    broken, lines = account(source)
    batch = read(source, 3)
    source.broken.clear()
    broken.note(batch, 1)
    assert lines == ["image 3 could not be read, but can now; the next image takes its place"]


def repeated(times):
    """A mixture of two images, of which the first, broken, comes so often, and 200 others."""
    pixels = np.zeros((2, 1, 1, 1), np.uint8)
    few, many = ArraySource("few", pixels, None), ArraySource("many", pixels.repeat(100, 0), None)
    looks = []

    def view(example):
        looks.append(example.name)
        if example.name == "few[0]":
            raise UserError(f"{example.name} is damaged")

    return mixed([few, many], [2 * times / 200, 1]), view, looks


def test_one_that_a_mixture_repeats_is_tried_counted_and_named_once():
    source, view, looks = repeated(150)  # more than may be in a row
    batch = {key: np.array([value]) for key, value in read_sound(source, 0, view).items()}
    assert looks == ["few[0]", "few[1]"]
    assert (batch["broken"], batch["index"]) == (0, 150)
    rows, lines = [], []
    broken = Broken(source, 1 / 202, view, lines.append, record=rows.append)
    broken.note(batch, 1)
    assert len(broken) == len(rows) == len(lines) == 1
    assert looks.count("few[0]") == 2
    again = Broken(source, 1 / 202, view, lines.append, known=rows, record=rows.append)
    again.note(batch, 2)
    assert len(again) == len(rows) == len(lines) == 1


def test_the_share_is_of_the_images_that_there_are():
    source, view, _ = repeated(150)
    batch = {"broken": np.array([0]), "index": np.array([150])}
    with pytest.raises(UserError, match="1 of 202 images can't be used"):
        Broken(source, 1 / 203, view, print).note(batch, 1)


def test_more_than_the_share_stops_with_the_list():
    source = Source(broken={3, 5, 7})
    broken, _ = account(source, share=2 / LENGTH)
    broken.note(read(source, 3, 5), 1)
    with pytest.raises(
        UserError,
        match=r"3 of 200 images .* data\.broken_share=0\.01 allows: "
        r"image 3 is damaged; image 5 is damaged; image 7 is damaged",
    ):
        broken.note(read(source, 7), 1)


def test_processes_count_what_any_of_them_met():
    """Each calls settle at the same step and gets the others' rows, some of them its own too."""
    source, lines, rows = Source(broken={3, 5, 7}), [], []
    other = [
        {"step": 1, "index": index, "problem": f"image {index} is damaged"} for index in (5, 3)
    ]
    gather = lambda mine: [other, mine]  # noqa: E731
    broken = Broken(source, 0.1, source.view, lines.append, record=rows.append, gather=gather)
    broken.note(read(source, 3, 7), 1)
    assert not lines
    for _ in range(2):
        broken.settle()
    assert [row["index"] for row in rows] == [5, 3, 7]
    assert len(lines) == len(broken) == 3
