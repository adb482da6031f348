"""The dense probe: from classes of pixels to patches and back, and a whole run."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from jepa_jax.data.transforms import EvalView
from jepa_jax.errors import UserError
from jepa_jax.evaluation import segmentation
from jepa_jax.evaluation.features import Features
from jepa_jax.evaluation.opening import first_run
from jepa_jax.evaluation.run import Asked, evaluate
from jepa_jax.evaluation.segmentation import UNLABELLED, Options, Pixels
from jepa_jax.evaluation.splits import Split
from jepa_jax.evaluation.task import Task
from tests.saving import save_run
from tests.tiny import tiny

PIXELS = Pixels(grid=(2, 3), side=4, classes=3)


class Masked:
    """Eight by twelve pixels, in blocks of one class as large as a patch."""

    masked = True

    def __init__(self, seed: int, count: int):
        blocks = np.random.default_rng(seed).integers(3, size=(count, 2, 3))
        self.masks = blocks.repeat(4, 1).repeat(4, 2).astype(np.uint8)

    def __len__(self) -> int:
        return len(self.masks)

    def mask(self, index: int) -> np.ndarray:
        return self.masks[index]


def task_of(train: Masked, test: Masked, size: tuple[int, int] = (8, 12)) -> Task:
    """Features of a patch are its class, and noise."""
    splits = [
        Split(name, source, np.arange(len(source.masks)))
        for name, source in (("train", train), ("test", test))
    ]

    def extract(split, layers, patches):
        classes = split.source.masks[split.index][:, ::4, ::4].reshape(-1, 6)
        noise = np.random.default_rng(9).normal(size=(*classes.shape, 2))
        values = np.concatenate([np.eye(256)[classes][..., :3], noise], -1).astype(np.float32)
        return Features(values, split.index)

    return Task("given", *splits, extract, None, view=EvalView(size, 1, whole=True))


def test_shares_are_counted_patch_by_patch():
    rng = np.random.default_rng(0)
    mask = rng.choice([0, 1, 2, UNLABELLED], size=(2, 8, 12)).astype(np.uint8)
    shares = np.asarray(PIXELS.shares(jax.numpy.asarray(mask)))
    part = mask[1, 4:8, 8:12]
    expected = [np.mean(part == number) for number in range(3)]
    np.testing.assert_allclose(shares[1, 5], expected, atol=1e-6)


def test_confusion_leaves_out_pixels_without_a_label():
    mask = np.zeros((1, 8, 12), np.uint8)
    mask[0, :, :4], mask[0, 0] = 1, UNLABELLED
    scores = np.zeros((1, 6, 3), np.float32)
    scores[..., 2] = 1
    confusion = np.asarray(PIXELS.confusion(jax.numpy.asarray(scores), jax.numpy.asarray(mask)))
    np.testing.assert_array_equal(confusion, [[0, 0, 56], [0, 0, 28], [0, 0, 0]])


def test_iou_is_of_the_classes_that_occur():
    confusion = np.array([[6, 2, 0], [1, 3, 0], [0, 0, 0]])
    np.testing.assert_allclose(segmentation.class_iou(confusion)[:2], [6 / 9, 3 / 6])
    assert segmentation.mean_iou(confusion) == pytest.approx((6 / 9 + 3 / 6) / 2)


def test_a_mask_is_cut_as_its_image_is():
    mask = np.arange(64, dtype=np.uint8).reshape(8, 8)
    np.testing.assert_array_equal(EvalView((4, 4), 1, share=0.5).of_mask(mask), mask[2:6, 2:6])
    assert EvalView((4, 2), 1, whole=True).of_mask(mask).shape == (4, 2)


def test_learns_what_patches_tell():
    options = Options(epochs=5, batch_size=20, learning_rates=(0.1,))
    found = segmentation.run(task_of(Masked(0, 200), Masked(1, 50)), options)
    [whole, common, *classes] = found.rows.values()
    assert found.best == whole["mean IoU"] > 0.6 > 2 * common["mean IoU"]
    assert whole["pixel accuracy"] > 0.75
    assert len(classes) == 3


def test_a_class_that_training_lacks():
    test = Masked(1, 10)
    test.masks[0] = 7
    with pytest.raises(UserError, match="have class 7, which 'train' lacks"):
        segmentation.run(task_of(Masked(0, 20), test), Options())


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_without_a_labelled_pixel(split):
    sources = {"train": Masked(0, 20), "test": Masked(1, 10)}
    sources[split].masks[:] = UNLABELLED
    with pytest.raises(UserError, match=f"split '{split}' have no pixel with a class"):
        segmentation.run(task_of(**sources), Options())


def test_a_class_that_no_drawn_image_of_training_shows(monkeypatch):
    test = Masked(1, 10)
    test.masks[0] = 3
    task = task_of(Masked(0, 20), test)
    train = Split("train", task.train.source, np.arange(8))
    heads = []

    def stop(problem, *_, **__):
        heads.append(problem.head.classes)
        raise UserError("far enough")

    monkeypatch.setattr(segmentation, "train_heads", stop)
    with pytest.raises(UserError, match="far enough"):
        segmentation.run(dataclasses.replace(task, train=train), Options())
    assert heads == [4]


def test_pooled_features_cannot_be_placed():
    task = task_of(Masked(0, 20), Masked(1, 10), size=(6, 12))
    with pytest.raises(UserError, match="no square patches of 6×12"):
        segmentation.run(task, Options())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    save_run(folder, tiny())
    return folder


def asked(run, out, protocol: str, **data) -> Asked:
    config = first_run([str(run)]).config
    config.data.update(**data)
    settings = [f"{protocol}.epochs=1", f"{protocol}.learning_rates=0.01"]
    return Asked([str(run)], [protocol], config, settings, str(out), train_images=40, test_images=9)


def test_synthetic_pictures_need_nothing_else(run, tmp_path):
    evaluate(asked(run, tmp_path, "synthetic_segmentation"))
    [found] = json.loads((tmp_path / "results.json").read_text())["results"]
    assert found["data"] == "synthetic masks"
    assert np.sum(found["details"]["confusion"]) == 9 * 8 * 8


def test_masks_of_npz_files_need_no_labels(run, tmp_path):
    for split in ("train", "test"):
        images = np.random.default_rng(0).integers(256, size=(20, 8, 8), dtype=np.uint8)
        np.savez(tmp_path / f"{split}.npz", images=images, masks=(images > 99).astype(np.uint8))
    path = f"{tmp_path}/{{split}}.npz"
    evaluate(asked(run, tmp_path, "segmentation", source="npz", path=path))
    [found] = json.loads((tmp_path / "results.json").read_text())["results"]
    assert len(found["details"]["confusion"]) == 2


def test_images_without_masks_are_refused(run, tmp_path):
    with pytest.raises(UserError, match="have no masks, or not all of them"):
        evaluate(asked(run, tmp_path, "segmentation"))
