"""The synthetic pictures: pure, labelled as VTAB labels CLEVR's, and such that one could count."""

import pickle

import numpy as np
import pytest

from jepa_jax.config import defaults
from jepa_jax.data import synthetic
from jepa_jax.data.sources import open_source
from jepa_jax.data.synthetic import SyntheticSource
from jepa_jax.errors import UserError

SOURCE = SyntheticSource("train")


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_picture_is_a_function_of_seed_split_and_index():
    again = pickle.loads(pickle.dumps(SOURCE))
    np.testing.assert_array_equal(SOURCE[7].image, again[7].image)
    others = SOURCE[8], SyntheticSource("test")[7], SyntheticSource("train", seed=1)[7]
    assert all((SOURCE[7].image != other.image).any() for other in others)


def test_labels_tell_what_the_scene_holds():
    limits = (0, *synthetic.EDGES, np.inf)
    for i in range(50):
        scene, outline = synthetic.scene(rng(i)), synthetic.outline(rng(i))
        assert len(scene.depth) == outline.count + 3
        low, high = limits[outline.distance : outline.distance + 2]
        assert low <= scene.depth.min() == outline.nearest < high


@pytest.mark.parametrize(("label", "classes"), [("count", 8), ("distance", 6)])
def test_classes_are_vtabs_and_equally_frequent(label, classes):
    source = SyntheticSource("train", label)
    labels = source.labels(np.arange(4000))
    assert len(source.classes) == classes
    np.testing.assert_allclose(np.bincount(labels) / len(labels), 1 / classes, rtol=0.2)
    assert [source[i].label for i in range(5)] == labels[:5].tolist()


def test_count_and_distance_say_nothing_of_each_other():
    both = [SyntheticSource("train", label).labels(np.arange(4000)) for label in synthetic.LABELS]
    assert abs(np.corrcoef(both)[0, 1]) < 0.05


def test_every_object_can_be_seen():
    size = 96, 128
    for i in range(40):
        scene = synthetic.scene(rng(i), aspect=size[1] / size[0])
        owner, area = np.full(size, -1), []
        for k in range(len(scene.depth)):
            alone = synthetic.Scene(*(field[k : k + 1] for field in scene))
            drawn = synthetic.draw(alone, rng(0), size)[1] > 0
            owner[drawn] = k
            area.append(drawn.sum())
        visible = np.array([np.sum(owner == k) for k in range(len(area))]) / area
        assert visible.min() > 2 / 3
        x, y = np.abs(scene.centre).T
        assert (x + scene.radius <= 2 / 3).all()
        assert (y + scene.radius <= 0.5).all()


def test_nearer_objects_are_lower_and_in_front():
    for scene in (synthetic.scene(rng(i)) for i in range(10)):
        assert np.corrcoef(scene.depth, scene.centre[:, 1])[0, 1] < -0.9
        assert (np.diff(scene.depth) <= 0).all()


def test_a_mask_shows_the_shapes_of_its_picture():
    one = synthetic.Scene(
        np.zeros((1, 2)),
        np.array([0.25]),
        np.array([9.0]),
        np.array([0]),
        np.array([1]),
        np.zeros(1),
    )
    image, mask = synthetic.draw(one, rng(0), (64, 64))
    assert np.mean(mask == 1) == pytest.approx(np.pi / 16, rel=0.02)
    assert np.mean(mask == 0) == 1 - np.mean(mask == 1)
    reddish = image[..., 0].astype(int) - image[..., 2] > 40
    assert np.mean(reddish == (mask == 1)) > 0.98
    for shape, share in ((1, 2), (2, 3 * 3**0.5 / 4)):  # square and triangle in the unit circle
        mask = synthetic.draw(one._replace(shape=np.array([shape])), rng(0), (64, 64))[1]
        assert np.mean(mask == shape + 1) == pytest.approx(share / 16, rel=0.04)


def data(**changes):
    c = defaults().data
    c.update(source="synthetic", test_split="test", image_size=(32, 48), **changes)
    return c


def test_opens_as_a_source_of_the_config():
    source = open_source(data(name="distance"), "test")
    assert source[0].image.shape == (32, 48, 3)
    assert source == SyntheticSource("test", "distance", (32, 48))


@pytest.mark.parametrize(
    ("changes", "split", "message"),
    [
        ({"name": "counts"}, "test", "did you mean 'count'"),
        ({"channels": 1}, "test", "set data.channels"),
        ({}, "val", "no split 'val'"),
    ],
)
def test_wrong_input_is_answered_in_one_line(changes, split, message):
    with pytest.raises(UserError, match=message):
        open_source(data(**changes), split)
