"""The attentive probe, where the average of the patches tells nothing and one patch all."""

import dataclasses

import numpy as np
import pytest

from jepa_jax.errors import UserError
from jepa_jax.evaluation import attentive, heads, linear
from jepa_jax.evaluation.heads import Recipe
from tests.given import task_of

OPTIONS = Recipe(epochs=12, batch_size=50, learning_rates=(1e-5, 1e-2), layers=1)


def one_tells(n: int, seed: int, patches: int = 6, width: int = 8):
    """One patch, marked in the first feature, holds the class; others cancel it in the average."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, patches, width)).astype(np.float32)
    labels = rng.integers(2, size=n)
    rows, place = np.arange(n), rng.integers(patches, size=n)
    x[..., 0] = -1
    x[rows, place, 0] = 3
    x[rows, place, 1] = 2 * labels - 1
    x[..., 1] -= np.where(np.arange(patches)[None] == place[:, None], 0, 1) * (
        x[..., 1].sum(1, keepdims=True) / (patches - 1)
    )
    return x, labels


TRAIN, TEST = one_tells(500, seed=1), one_tells(400, seed=2)


@pytest.fixture(scope="module")
def found():
    return attentive.run(task_of(TRAIN, TEST), OPTIONS)


def test_finds_the_patch_that_tells_where_the_average_does_not(found):
    average = task_of(*((x.mean(1), y) for x, y in (TRAIN, TEST)))
    assert linear.run(average, linear.Options()).best < 0.6
    assert found.best > 0.95


def test_the_learning_rate_is_chosen_without_the_test_images():
    """Whose labels are wrong, so that the rate that learns nothing is the best one on them."""
    found = attentive.run(task_of(TRAIN, (TEST[0], 1 - TEST[1])), OPTIONS)
    slow, fast = found.rows["learning rate 1e-05"], found.rows["learning rate 0.01"]
    assert slow["held-out training images"] < fast["held-out training images"]
    assert fast["accuracy"] == found.best < 0.1
    assert "accuracy" not in slow


def test_held_out_images_are_not_trained_on():
    """With labels at random they are learned by heart, of those that are seen."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(200, 1, 300)).astype(np.float32), rng.integers(2, size=200)
    options = Recipe(epochs=5, batch_size=20, learning_rates=(1e-2, 3e-3))
    found = attentive.run(task_of(images, images), options)
    assert found.best > 0.95
    assert all(row["held-out training images"] < 0.8 for row in found.rows.values())


def test_the_curve_tells_of_each_epoch(found):
    curve = found.details["curve"]
    assert [point["epoch"] for point in curve] == list(range(1, 13))
    assert curve[-1]["loss"] < curve[0]["loss"]
    assert curve[-1]["score"] == found.best


def test_a_head_does_not_depend_on_those_beside_it(found):
    options = dataclasses.replace(OPTIONS, learning_rates=(1e-2, 0.3))
    beside = attentive.run(task_of(TRAIN, TEST), options).rows["learning rate 0.01"]
    key = "held-out training images"
    assert beside[key] == found.rows["learning rate 0.01"][key]


def test_heads_of_attention_are_as_many_as_are_wide_enough():
    widths = 96, 192, 768, 1280, 1408
    assert [attentive._heads(width) for width in widths] == [1, 3, 12, 20, 22]


def test_moments_are_those_of_all_patches():
    x = 100 + 5 * TRAIN[0]
    x[..., 3] = 7
    mean, scale = heads._moments(x, chunk=64)
    np.testing.assert_allclose(mean, x.mean((0, 1), dtype=np.float64), rtol=1e-6)
    expected = 1 / np.delete(x.std((0, 1), dtype=np.float64), 3)
    np.testing.assert_allclose(np.delete(scale, 3), expected, rtol=1e-5)
    assert scale[3] == 0


def test_pooled_features_are_refused():
    pooled = task_of(*((x.mean(1), y) for x, y in (TRAIN, TEST)))
    with pytest.raises(UserError, match="images, patches, width"):
        attentive.run(pooled, OPTIONS)
