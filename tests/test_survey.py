"""What is told of a recipe's images before the run."""

import pathlib

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from jepa_jax import masks
from jepa_jax.config import defaults, mask_spec
from jepa_jax.data import decoding
from jepa_jax.data.sources import ArraySource, open_source
from jepa_jax.data.survey import survey
from jepa_jax.errors import UserError
from jepa_jax.training.setup import purpose_key
from jepa_jax.visualize import data
from jepa_jax.visualize.data import inspect_data
from tests.pictures import photo


@pytest.fixture
def photos(tmp_path) -> ConfigDict:
    """Three cats, two of them the same file, a dog, and a file that is no image."""
    rng = np.random.default_rng(0)
    for name, size in (("cat/1", (20, 30)), ("cat/2", (40, 30)), ("dog/4", (10, 10))):
        path = tmp_path / "train" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    train = tmp_path / "train"
    (train / "cat" / "3.png").write_bytes((train / "cat" / "2.png").read_bytes())
    (train / "dog" / "5.png").write_bytes(b"no image")
    c = defaults()
    c.data.path = f"{tmp_path}/{{split}}"
    c.data.test_split = ""
    c.data.image_size = (32, 32)
    c.model.patch_size = 4
    c.train.batch_size = 4
    return c


def test_sizes_classes_duplicates_and_broken_files(photos):
    source = open_source(photos.data, "train")
    found = survey(source, range(len(source)), channels=3, threads=2)
    assert found.images == 4
    assert found.heights[[0, -1]].tolist() == [10, 40]
    assert found.widths[[0, -1]].tolist() == [10, 30]
    assert found.aspects[[0, -1]].tolist() == [0.75, 1.5]
    assert found.classes == {"cat": 3, "dog": 1}
    ((first, second),) = found.duplicates
    assert (first[-9:], second[-9:]) == ("cat/2.png", "cat/3.png")
    (problem,) = found.broken
    assert "dog/5.png can't be read" in problem


def test_a_jpeg_of_too_many_pixels_is_looked_at_as_training_reads_it(photos, monkeypatch):
    folder = pathlib.Path(photos.data.path.format(split="train"))
    Image.fromarray(photo(100, 64)).save(folder / "dog" / "6.jpg")
    monkeypatch.setattr(decoding, "MAX_PIXELS", 50 * 32)
    found = survey(open_source(photos.data, "train"), range(6), channels=3, threads=2)
    assert len(found.broken) == 1
    assert (found.heights[-1], found.widths[-1]) == (100, 64)


def test_mean_and_std_are_those_of_the_pixels():
    images = np.random.default_rng(0).integers(0, 256, (50, 6, 5, 2), dtype=np.uint8)
    found = survey(ArraySource("noise", images), range(50), channels=2, threads=2)
    np.testing.assert_allclose(found.mean, (images / 255).mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(found.std, (images / 255).std((0, 1, 2)), rtol=1e-5)


def test_only_the_chosen_are_looked_at():
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    found = survey(ArraySource("flat", images), [1, 3], channels=1, threads=1)
    assert found.images == 2
    np.testing.assert_allclose(found.mean, [2 / 255], rtol=1e-6)


def test_nothing_that_can_be_read(photos):
    source = open_source(photos.data, "train")
    with pytest.raises(UserError, match=r"none of 1 images can be read, the first: .*5\.png"):
        survey(source, [4], channels=3, threads=1)


def test_report_and_picture(photos, tmp_path, capsys):
    inspect_data(photos, tmp_path / "out", most=100)
    printed = capsys.readouterr().out
    assert "train: 5 images" in printed
    assert "2 classes: cat 3, dog 1" in printed
    assert "1 can't be read:\n" in printed
    assert "1 files that are there more than once:\n" in printed
    assert "c.data.mean = (0.5" in printed
    with Image.open(tmp_path / "out" / "batch.png") as image:
        assert np.asarray(image.convert("L")).std() > 5


def test_the_masks_are_those_of_the_run(photos, tmp_path, monkeypatch):
    photos.train.draws = 2
    shown = []
    monkeypatch.setattr(data, "mask_overlay", lambda images, drawn, *_: shown.append(drawn))
    data.draw_batch(photos, tmp_path / "batch.png")
    key = jax.random.fold_in(purpose_key(photos.seed, "masks"), 0)
    of_the_run = masks.sample(key, mask_spec(photos), 4, draws=2)
    np.testing.assert_array_equal(shown[0].targets, of_the_run.targets[:, 0])


def test_a_large_split_is_sampled(photos, tmp_path, capsys):
    inspect_data(photos, tmp_path / "out", most=3)
    assert "train: 5 images, of which 3 were looked at" in capsys.readouterr().out


def test_names_that_are_not_listed_are_counted(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(data, "LISTED", 0)
    inspect_data(photos, tmp_path / "out", most=100)
    assert "1 can't be read:\n  … and 1 more\n" in capsys.readouterr().out
