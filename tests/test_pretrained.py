"""`jepa_jax.load(path).features(images)`, on a run of ours."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jepa_jax
from jepa_jax import ijepa
from jepa_jax.data.protocol import Example
from jepa_jax.data.transforms import EvalView
from jepa_jax.errors import UserError
from jepa_jax.training.setup import build_model
from tests.saving import save_run
from tests.tiny import tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder, and its state."""
    folder = tmp_path_factory.mktemp("run")
    return folder, save_run(folder, tiny())


@pytest.fixture(scope="module")
def model(run):
    return jepa_jax.load(run[0])


def images(count: int, height: int = 8, width: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 1), np.uint8)


def encoded(params, pixels: np.ndarray) -> np.ndarray:
    return np.asarray(ijepa.encode(build_model(tiny(), 1), params, jnp.asarray(pixels)))


@pytest.mark.parametrize("place", ["", "checkpoints", "checkpoints/30"])
def test_the_target_encoder_unless_another_is_asked_for(run, place):
    folder, state = run
    for arguments, params in (((), state.target), (("context",), state.params["encoder"])):
        jax.tree.map(
            np.testing.assert_array_equal, jepa_jax.load(folder / place, *arguments).params, params
        )


def test_patch_features_are_those_of_the_encoder(run, model):
    np.testing.assert_allclose(
        model.patch_features(images(3)), encoded(run[1].target, images(3)), atol=1e-5
    )


def test_files_are_read_as_an_evaluation_sees_them(model, tmp_path):
    pixels = images(1, 30, 20)[0]
    for name in ("a.png", "b.png"):
        Image.fromarray(pixels[..., 0]).save(tmp_path / name)
    found = model.read(tmp_path / "a.png", str(tmp_path / "b.png"))
    expected = EvalView.of(tiny().data)(Example(pixels, None, ""))
    np.testing.assert_array_equal(found, [expected, expected])
    with pytest.raises(UserError, match=r"c\.png can't be read: No such file"):
        model.read(tmp_path / "c.png")


def test_features_are_their_average_whatever_the_number_of_images(run, model):
    expected = encoded(run[1].target, images(70)).mean(axis=1)
    features = model.features(images(70))
    np.testing.assert_allclose(features, expected, atol=1e-5)
    np.testing.assert_allclose(model.features(images(70)[:1]), features[:1], atol=1e-5)


def test_positions_of_another_image_size_are_computed(run, model):
    pixels = images(2, 12, 6)
    np.testing.assert_allclose(
        model.patch_features(pixels), encoded(run[1].target, pixels), atol=1e-5
    )


def test_floats_are_taken_as_normalised(model):
    normal = (images(2) / 255 - model.backbone.mean[0]) / model.backbone.std[0]
    np.testing.assert_allclose(model.features(normal), model.features(images(2)), atol=1e-5)


def test_another_mean_and_deviation(run, model):
    other = jepa_jax.load(run[0], mean=[0], std=[1])
    np.testing.assert_allclose(
        other.features(images(2)), model.features(images(2) / np.float32(255)), atol=1e-5
    )


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (images(2, 8, 7), "images of 8×7 pixels do not divide into patches of 2: take 6 or 8"),
        (images(2)[0], r"shape \(8, 8, 1\): give \(images, height, width, 1\)"),
        (images(2).repeat(3, axis=3), r"shape \(2, 8, 8, 3\)"),
        (images(0), r"shape \(0, 8, 8, 1\)"),
        (images(2).astype(np.int32), "int32: give uint8, or normalised floats"),
    ],
)
def test_images_that_do_not_fit(model, wrong, complaint):
    with pytest.raises(UserError, match=complaint):
        model.features(wrong)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"encoder": "taget"}, "encoder='taget' is none of target, context; did you mean 'target'"),
        ({"heads": 4}, "has 2 heads, not heads=4"),
        ({"mean": [0.5, 0.5]}, "mean with a value for each of 1 channels"),
        ({"mean": ["a"]}, r"mean with a value for each of 1 channels, not \['a'\]"),
        ({"std": [0]}, "must be above 0"),
    ],
)
def test_arguments_that_do_not_fit(run, arguments, complaint):
    with pytest.raises(UserError, match=complaint):
        jepa_jax.load(run[0], **arguments)


def test_paths_without_an_encoder(tmp_path):
    (tmp_path / "some.safetensors").touch()
    for path, complaint in (
        ("nothing", "nothing is not there"),
        (".", "has no checkpoint"),
        ("some.safetensors", "name the folder that it lies in"),
    ):
        with pytest.raises(UserError, match=complaint):
            jepa_jax.load(tmp_path / path)


def test_a_damaged_run(run, tmp_path):
    shutil.copytree(run[0], tmp_path, dirs_exist_ok=True)
    about = tmp_path / "checkpoints" / "30" / "about" / "metadata"
    content = json.loads(about.read_text())
    content["checksums"]["target/patch_embed/bias"] = "0" * 16
    about.write_text(json.dumps(content))
    jepa_jax.load(tmp_path, "context")
    with pytest.raises(UserError, match="target/patch_embed/bias is not what was saved"):
        jepa_jax.load(tmp_path)
    about.write_text("{")
    with pytest.raises(UserError, match="is no checkpoint of a run, or damaged"):
        jepa_jax.load(tmp_path)
