"""Counting and distances: protocols with images of their own, seen whole."""

import json

import numpy as np
import pytest

from jepa_jax.data.protocol import Example
from jepa_jax.data.sources import open_source
from jepa_jax.data.synthetic import SyntheticSource
from jepa_jax.data.transforms import EvalView
from jepa_jax.errors import UserError
from jepa_jax.evaluation import lowlevel
from jepa_jax.evaluation.run import Asked, evaluate
from tests.recording import write_tfds
from tests.test_clevr import SPEC, scene
from tests.tiny import tiny


@pytest.fixture
def results(tmp_path):
    def evaluated(protocols, settings=()):
        few = {"train_images": 60, "test_images": 20}
        evaluate(Asked(["pixels"], protocols, tiny(), list(settings), str(tmp_path / "out"), **few))
        return json.loads((tmp_path / "out" / "results.json").read_text())["results"]

    return evaluated


def test_a_whole_image_takes_the_proportions_of_the_view():
    image = np.zeros((8, 4, 1), np.uint8)
    image[:4] = 200
    seen = EvalView((4, 4), 1, share=0.5, whole=True)(Example(image, None, ""))
    assert seen.shape == (4, 4, 1)
    assert (seen[0, 0, 0], seen[-1, 0, 0]) == (200, 0)


def test_synthetic_pictures_are_drawn_at_the_size_that_is_seen():
    data = lowlevel.synthetic_images(tiny().data, "distance", (48, 32))
    source = open_source(data, data.test_split)
    assert source == SyntheticSource("test", "distance", (48, 32))


def test_protocols_on_synthetic_pictures_say_so(results):
    count, near, knn = results(["synthetic_count", "synthetic_distance", "knn"])
    assert (count["data"], near["data"], knn["data"]) == (
        "synthetic count",
        "synthetic distance",
        "digits",
    )
    assert count["images"] == {"train": 60, "test": 20}
    assert count["paper"] == {}


def test_clevr_has_the_papers_number_beside(results, tmp_path):
    depths = [[d] * n for d, n in ((7, 3), (8.2, 4), (9, 5))]
    splits = {
        split: [scene(i, depths[i % 3]) for i in range(count)]
        for split, count in (("train", 12), ("validation", 6))
    }
    write_tfds(tmp_path / "clevr" / "3.1.0", splits, SPEC)
    settings = [f"clevr_{label}.folder={tmp_path}" for label in ("count", "distance")]
    count, near = results(["clevr_count", "clevr_distance"], settings)
    assert (count["paper"]["ViT-H/14"], near["paper"]["ViT-H/14"]) == (86.7, 72.4)
    assert count["images"] == {"train": 12, "test": 6}
    assert count["best"] == near["best"] == 1  # the test images are among those of the training


def test_clevr_that_is_not_there_is_told_how_to_prepare(results, tmp_path):
    with pytest.raises(UserError, match="prepare it with `tfds build clevr"):
        results(["clevr_count"], [f"clevr_count.folder={tmp_path}"])
