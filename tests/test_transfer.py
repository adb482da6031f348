"""Other images under the same features, with the paper's numbers beside."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from etils import epath
from sklearn.datasets import load_digits

from jepa_jax.data.transforms import EvalView
from jepa_jax.errors import UserError
from jepa_jax.evaluation.backbones import Pixels
from jepa_jax.evaluation.extractor import Extractor
from jepa_jax.evaluation.knn import knn_accuracy
from jepa_jax.evaluation.linear import linear_probe_accuracy
from jepa_jax.evaluation.lowlevel import synthetic_images
from jepa_jax.evaluation.run import Asked, data_name, evaluate
from jepa_jax.evaluation.splits import open_splits
from jepa_jax.evaluation.task import Result, Task
from jepa_jax.evaluation.transfer import Options, data_section, run, sections
from jepa_jax.parallel.sharding import make_mesh
from tests.recording import pets, write_tfds
from tests.tiny import tiny


@pytest.fixture
def task(tmp_path) -> Task:
    """Of pixels; the images that it is about are not looked at."""
    data = tiny().data
    extract = Extractor(
        Pixels(EvalView.of(data)), data, make_mesh((1, 1, 1), jax.devices()[:1]), tmp_path
    )
    return Task("pixels", None, None, extract, epath.Path(tmp_path), data=data)


def transfer(task: Task, options: Options) -> Result:
    sets = {}
    for name, data in sections(task.data, options).items():
        train, test = open_splits(data)
        sets[name] = dataclasses.replace(task, train=train, test=test, data=data)
    return run(dataclasses.replace(task, sets=sets), options)


def test_is_the_protocol_on_the_other_images(task, tmp_path):
    digits = load_digits()
    images, labels = (15 * digits.images).astype(np.uint8), digits.target
    # None of these is all but a tie of two classes, which the last bit of a pixel would decide.
    parts = {"learn": slice(0, 300), "try": slice(300, 400)}
    for split, part in parts.items():
        np.savez(tmp_path / f"{split}.npz", images=images[part], labels=labels[part])
    splits = {"train_split": "learn", "test_split": "try"}
    data = str(tmp_path / "{split}.npz")
    found = transfer(task, Options(data=(data,), by=("linear", "knn"), source="npz", **splits))
    x = images.reshape(-1, 64).astype(np.float32) / np.float32(255)
    train, test = ((x[part], labels[part]) for part in parts.values())
    assert found.rows == {
        f"{data}, linear": {"accuracy": linear_probe_accuracy(*train, *test)},
        f"{data}, knn": {"accuracy": knn_accuracy(*train, *test)},
    }
    assert found.best == found.rows[f"{data}, linear"]["accuracy"]


def test_needs_nothing_of_the_images_that_were_trained_on(tmp_path):
    config = tiny()
    config.data.update(source="npz", path="not here/{split}.npz", test_split="")
    settings = ["source=digits", "data=digits", "by=knn"]
    settings = [f"transfer.{each}" for each in settings]
    few = {"train_images": 60, "test_images": 20}
    evaluate(Asked(["pixels"], ["transfer"], config, settings, str(tmp_path), **few))
    [found] = json.loads((tmp_path / "results.json").read_text())["results"]
    assert found["data"] == "digits"
    assert found["details"]["digits, knn"]["images"] == {"train": 60, "test": 20}


def test_images_or_labels_that_changed_are_another_result(tmp_path):
    images = np.random.default_rng(0).integers(255, size=(20, 8, 8), dtype=np.uint8)
    settings = ["source=npz", f"data={tmp_path}/{{split}}.npz", "by=knn"]
    settings = [f"transfer.{each}" for each in settings]
    np.savez(tmp_path / "test.npz", images=images, labels=np.arange(20) % 2)
    for labels in (np.arange(20) % 2, np.arange(20) < 10, np.arange(20) < 10):
        np.savez(tmp_path / "train.npz", images=images, labels=labels.astype(int))
        evaluate(Asked(["pixels"], ["transfer"], tiny(), settings, str(tmp_path)))
    assert len(json.loads((tmp_path / "results.json").read_text())["results"]) == 2


def test_a_data_set_of_tfds_stands_beside_the_papers_number(task, tmp_path):
    write_tfds(tmp_path / "cifar100" / "1.0.0", {"train": pets(6), "test": pets(4)})
    found = transfer(task, Options(folder=str(tmp_path), by=("knn",)))
    assert list(found.rows) == ["cifar100, knn"]
    found = transfer(task, Options(folder=str(tmp_path)))
    assert found.rows["cifar100, linear"]["paper (ViT-H/14)"] == 0.875


def test_the_papers_data_sets_by_name():
    places = data_section(tiny().data, "places205", Options(folder="data"))
    assert (places.source, places.path, places.test_split) == (
        *("folder", "data/places205/{split}", "val"),
    )
    inat = data_section(tiny().data, "inat18", Options())
    assert (inat.source, inat.name, inat.path) == ("tfds", "i_naturalist2018", "")


def test_images_that_a_run_held_out_are_of_its_own_data_set():
    config = tiny()
    config.data.validation = 0.2
    assert data_section(config.data, "cifar100", Options()).validation == 0
    assert synthetic_images(config.data, "count", (32, 32)).validation == 0
    assert data_name(config.data, labelled=True) == "digits, held out"
    config.data.update(source="folder", path="photos/{split}")
    assert data_name(config.data, labelled=True) == "photos/train, held out"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"by": ("linaer",)}, "did you mean 'linear'"),
        ({"data": ()}, "give one of each"),
        ({"folder": "nowhere"}, "tfds build cifar100"),
    ],
)
def test_what_cannot_be_is_answered_in_one_line(task, options, complaint):
    with pytest.raises(UserError, match=complaint) as error:
        transfer(task, Options(**options))
    assert "\n" not in str(error.value)
