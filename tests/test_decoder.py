"""Sketches of predicted blocks: the flow, the decoder that is trained, and what is measured."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from PIL import Image

from jepa_jax.console import new_console
from jepa_jax.data.sources import open_source
from jepa_jax.errors import UserError
from jepa_jax.masks import Masks
from jepa_jax.visualize.decoder import flow, store
from jepa_jax.visualize.decoder.agreement import seam
from jepa_jax.visualize.decoder.batches import Batches
from jepa_jax.visualize.decoder.fit import Settings, fit
from jepa_jax.visualize.decoder.run import Asked, train_decoder
from jepa_jax.visualize.decoder.sketches import Artist
from jepa_jax.visualize.decoder.training import drawn_side, pixels
from jepa_jax.visualize.figures import as_image, on_image
from jepa_jax.visualize.trained import read_trained
from tests.commands import refused
from tests.saving import save_run
from tests.tiny import tiny

RNG = np.random.default_rng(0)
QUIET = new_console(quiet=True)
COUNT = 3  # images that are drawn: always the same, so that it is compiled once
SETTINGS = Settings(steps=4, batch_size=8, width=32, depth=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    save_run(folder, tiny())
    return folder


@pytest.fixture(scope="module")
def trained(run):
    return read_trained(run)


@pytest.fixture(scope="module")
def source(trained):
    return open_source(trained.config.data, "train")


@pytest.fixture(scope="module")
def fitted(trained, source, tmp_path_factory):
    folder = epath.Path(tmp_path_factory.mktemp("decoder"))
    return folder, *fit(trained, source, SETTINGS, folder, QUIET)


# Data of a mean and a deviation: the velocity and where it leads are known in closed form.
MEAN, STD = 2.0, 0.5


def gaussian_velocity(x, time):
    t = time[:, None, None]
    share = (t * STD**2 - (1 - t)) / (t**2 * STD**2 + (1 - t) ** 2)
    return MEAN + share * (x - t * MEAN)


def test_the_sampler_carries_noise_to_the_data_of_a_gaussian():
    noise = jax.random.normal(jax.random.key(0), (50, 3, 4))
    expected = MEAN + STD * noise
    errors = [
        float(jnp.abs(flow.sample(gaussian_velocity, noise, steps) - expected).max())
        for steps in (20, 40, 80)
    ]
    assert errors[2] < 2e-3
    assert errors[0] / errors[1] > 3.5  # second order: 4 in the limit
    assert errors[1] / errors[2] > 3.5


def test_the_sampler_ends_at_the_only_data_that_there_is():
    data = jax.random.normal(jax.random.key(1), (5, 3, 4))
    noise = jax.random.normal(jax.random.key(0), data.shape)

    def velocity(x, time):
        return (data - x) / (1 - time)[:, None, None]

    np.testing.assert_allclose(flow.sample(velocity, noise, 7), data, atol=1e-6)


def test_the_loss_is_least_at_the_true_velocity():
    data = MEAN + STD * jax.random.normal(jax.random.key(1), (4000, 3, 4))
    real = jnp.ones(data.shape[:2], bool)

    def loss(velocity):
        return float(flow.loss(velocity, jax.random.key(2), data, real))

    # What is left is the variance of data - noise for a given x.
    times = 1 / (1 + np.exp(-flow.TIME_MEAN - flow.TIME_STD * RNG.normal(size=100_000)))
    left = STD**2 / ((1 - times) ** 2 + (times * STD) ** 2)
    least = loss(gaussian_velocity)
    np.testing.assert_allclose(least, left.mean(), rtol=0.02)
    for change in (0.1, -0.1):
        more = loss(lambda x, time, change=change: gaussian_velocity(x, time) + change)
        np.testing.assert_allclose(more - least, change**2, atol=5e-3)


def test_padding_does_not_count_in_the_loss():
    real = jnp.array([[True, False]] * 4)
    data = jnp.zeros((4, 2, 3))
    losses = [
        flow.loss(lambda x, time: jnp.zeros_like(x), jax.random.key(0), each, real)
        for each in (data, data.at[:, 1].set(1e9))
    ]
    assert losses[0] == losses[1]


def test_a_training_that_was_stopped_comes_to_the_same_end(trained, source, fitted, tmp_path):
    folder = epath.Path(tmp_path)
    _, stopped = fit(trained, source, SETTINGS, folder, QUIET, stop=True)
    assert stopped.step == 1
    _, resumed = fit(trained, source, SETTINGS, folder, QUIET)
    assert resumed.step == 4
    jax.tree.map(np.testing.assert_array_equal, resumed, fitted[2])
    assert (folder / store.FILE).read_bytes() == (fitted[0] / store.FILE).read_bytes()


def test_a_decoder_of_another_model_or_setting_is_not_trained_on(trained, source, fitted):
    wider = dataclasses.replace(SETTINGS, width=64)
    with pytest.raises(UserError, match="another width: take another --out"):
        fit(trained, source, wider, fitted[0], QUIET)
    with pytest.raises(UserError, match="set --steps to 4 or more"):
        fit(trained, source, dataclasses.replace(SETTINGS, steps=3), fitted[0], QUIET)
    params = jax.tree.map(lambda x: x + 1, trained.params)
    with pytest.raises(UserError, match="another model: take another --out"):
        fit(dataclasses.replace(trained, params=params), source, SETTINGS, fitted[0], QUIET)


def test_a_damaged_decoder_is_refused(trained, source, fitted, tmp_path):
    damaged = bytearray((fitted[0] / store.FILE).read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / store.FILE).write_bytes(damaged)
    with pytest.raises(UserError, match="is damaged: delete it"):
        fit(trained, source, SETTINGS, epath.Path(tmp_path), QUIET)


def test_a_sketch_depends_on_the_prediction_alone_and_not_on_the_block(trained, fitted):
    _, decoder, state = fitted
    # The output starts at zero, and so would all sketches be the same.
    average = jax.tree.map(
        lambda x: x + 0.3 * RNG.normal(size=x.shape).astype(x.dtype), state.average
    )
    artist = Artist(decoder, trained.params, state.replace(average=average))
    images = RNG.integers(0, 256, (COUNT, 8, 8, 1), dtype=np.uint8)
    context, block = np.array([0, 1, 4, 5]), np.array([10, 11, 14, 10])
    masks = Masks(
        np.tile(context, (COUNT, 1)),
        np.tile(block, (COUNT, 4, 1)),
        np.full((COUNT, 4), 3),
    )
    key = jax.random.key(0)
    drawn = artist.draw(images, masks, 2, key)
    assert drawn.shape == (2, COUNT, 4, 4, 4)
    assert np.abs(drawn[0] - drawn[1]).max() > 0.01
    hidden, seen = np.array(images), np.array(images)
    hidden[:, 4:, 4:] = 255 - hidden[:, 4:, 4:]
    seen[:, :4, :4] = 255 - seen[:, :4, :4]
    np.testing.assert_array_equal(artist.draw(hidden, masks, 2, key), drawn)
    assert np.abs(artist.draw(seen, masks, 2, key) - drawn).max() > 1e-5  # the model is random
    np.testing.assert_allclose(
        as_image(artist.real(images)[0], (4, 4), 1), images[0] / 255, atol=1e-6
    )


def test_large_images_are_drawn_smaller(fitted):
    assert [drawn_side(size, patch) for size, patch in (((224, 224), 16), ((28, 28), 4))] == [4, 4]
    assert drawn_side((224, 112), 14) == 2
    small = dataclasses.replace(fitted[1], side=1)
    images = jnp.asarray(RNG.normal(size=(1, 8, 8, 1)), jnp.float32)
    expected = np.asarray(images).reshape(4, 2, 4, 2).mean((1, 3)).reshape(1, 16, 1)
    np.testing.assert_allclose(pixels(small, images), expected, atol=1e-6)


def test_the_seam_is_the_step_over_the_edge_of_a_block():
    flat = np.full((16, 4), 0.5)  # 4×4 patches of 2×2 pixels
    index = np.array([5, 6])
    inside = as_image(np.isin(np.arange(16), index)[:, None].repeat(4, 1), (4, 4), 1)[..., 0]
    image = on_image(flat, index, np.full((2, 4), 0.8), (4, 4), 1)
    np.testing.assert_allclose(image[2:4, 2:6], 0.8)
    np.testing.assert_allclose(image.mean(), 0.5 + 0.3 / 8)
    np.testing.assert_allclose(seam(image, inside), 0.3)
    assert seam(as_image(flat, (4, 4), 1), inside) == 0


def test_a_model_and_its_beginning_are_drawn_and_measured(run, tmp_path):
    asked = Asked(images=COUNT, samples=2, test_images=COUNT, untrained=True)
    found = train_decoder(run, tmp_path, dataclasses.replace(SETTINGS, steps=1), asked)
    assert list(found) == ["trained", "untrained"]
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["images"] == COUNT
    assert results["untrained"] == found["untrained"]._asdict()
    assert found["trained"].seam_real == found["untrained"].seam_real > 0
    with Image.open(tmp_path / "sketches.png") as image:
        assert np.asarray(image.convert("L")).std() > 5


def test_too_few_images_for_a_batch(trained, source):
    with pytest.raises(UserError, match=r"fewer than a batch: set --batch_size, now 9999"):
        Batches(trained.config, source, seed=0, batch_size=9999)


def test_a_wish_to_stop_ends_the_command_after_the_step(run, tmp_path):
    assert train_decoder(run, tmp_path, SETTINGS, stop=True) == {}
    assert [file.name for file in tmp_path.iterdir()] == ["trained"]
    assert (tmp_path / "trained" / store.FILE).is_file()


def test_wrong_flags_are_answered_in_a_line(tmp_path):
    for flags, message in (
        ([], "say which: --checkpoint"),
        (["--checkpoint=nowhere", "--width=40"], "no multiple of 32"),
    ):
        assert message in refused("train_decoder", *flags)
