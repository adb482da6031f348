"""A validation split made of training images."""

import numpy as np
import pytest

from jepa_jax.config import defaults
from jepa_jax.data.sources import open_source
from jepa_jax.data.validation_split import SEED
from jepa_jax.errors import UserError
from jepa_jax.evaluation.splits import open_splits
from jepa_jax.validation import validate
from tests.tiny import tiny


def digits(share: float):
    data = tiny().data
    data.validation = share
    return data


def names(source) -> list[str]:
    return [source[i].name for i in range(len(source))]


def test_it_takes_the_place_of_the_test_split_and_training_lacks_it():
    data = digits(0.1)
    train, held_out = open_source(data, "train"), open_source(data, "test")
    whole = open_source(digits(0.0), "train")
    assert (len(train), len(held_out)) == (1293, 144)
    assert sorted(names(train) + names(held_out)) == sorted(names(whole))
    for source in (train, held_out):
        labels = source.labels(np.arange(len(source)))
        assert labels.tolist() == [source[i].label for i in range(len(source))]
        assert source.classes == whole.classes
        assert source.labelled


def test_it_is_the_same_for_every_seed_of_a_run(monkeypatch):
    first = names(open_source(digits(0.1), "test"))
    assert first == names(open_source(digits(0.1), "test"))
    monkeypatch.setattr("jepa_jax.data.validation_split.SEED", SEED + 1)
    assert first != names(open_source(digits(0.1), "test"))


def test_each_part_of_a_mixture_holds_out_its_own():
    c = defaults()
    with c.data.unlocked():
        c.data.update(
            source="mixture",
            test_split="test",
            validation=0.1,
            mixture=({"source": "digits"}, {"source": "digits", "weight": 2.0}),
        )
    train, held_out = (set(names(open_source(c.data, split))) for split in ("train", "test"))
    assert len(held_out) == 144
    assert not train & held_out


def test_a_part_of_a_mixture_that_has_no_test_split_holds_nothing_out():
    c = defaults()
    parts = ({"source": "digits"}, {"source": "digits", "test_split": ""})
    with c.data.unlocked():
        c.data.update(source="mixture", validation=0.1, mixture=parts)
    train, held_out = (open_source(c.data, split) for split in ("train", "val"))
    assert (len(train), len(held_out)) == (2 * 1437, 144)  # the smaller part is stretched


def test_images_held_out_for_nobody_are_refused():
    c = tiny()
    c.data.validation, c.data.test_split = 0.1, ""
    with pytest.raises(UserError, match=r"data\.validation=0\.1 takes the place of data\.test_spl"):
        validate(c)


def test_a_path_without_splits_will_do(tmp_path):
    images = np.arange(40, dtype=np.uint8).reshape(10, 2, 2)
    np.savez(tmp_path / "all.npz", images=images, labels=np.arange(10) % 2)
    c = tiny()
    c.data.source, c.data.path, c.data.validation = "npz", str(tmp_path / "all.npz"), 0.2
    validate(c)
    assert len(open_source(c.data, "train")) == 8


def test_the_only_image_of_a_class_may_be_held_out(tmp_path):
    data = digits(0.2)
    data.source, data.path = "npz", str(tmp_path / "all.npz")
    images, labels = np.zeros((10, 2, 2), np.uint8), np.arange(10) % 2
    np.savez(data.path, images=images, labels=labels)
    labels[open_source(data, "test").index[0]] = 2
    np.savez(data.path, images=images, labels=labels)
    train, held_out = open_splits(data)
    assert (set(train.labels), held_out.labels[0]) == ({0, 1}, 2)


@pytest.mark.parametrize(("share", "what"), [(1e-6, "none for validation"), (0.8, "")])
def test_a_share_that_leaves_nothing_is_refused(tmp_path, share, what):
    np.savez(tmp_path / "one.npz", images=np.zeros((1, 2, 2), np.uint8), labels=np.zeros(1, int))
    data = digits(share)
    data.source, data.path = "npz", str(tmp_path / "one.npz")
    with pytest.raises(UserError, match=f"data.validation=.* leaves {what}"):
        open_source(data, "train")


def test_another_split_is_not_meant():
    with pytest.raises(UserError, match="not for 'all'"):
        open_source(digits(0.1), "all")
