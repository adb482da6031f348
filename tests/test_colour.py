import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from jepa_jax.data import colour
from jepa_jax.data.colour import Colours


def noise(height, width, channels, seed=0):
    shape = (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def changed(colours, image, seed):
    return colours(image, np.random.default_rng(seed))


def one(*rgb):
    return Image.new("RGB", (1, 1), rgb)


def share(colours, image, count=400):
    return np.mean([changed(colours, image, seed) is not image for seed in range(count)])


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (colour.brightness(one(100, 60, 20), 0.5), (50, 30, 10)),
        (colour.brightness(one(100, 60, 20), 3.0), (255, 180, 60)),
        (colour.contrast(one(100, 100, 100), 0.3), (100, 100, 100)),  # it is its own mean
        (colour.saturation(one(255, 0, 0), 0.0), (76, 76, 76)),
        (colour.saturation(one(90, 90, 90), 1.8), (90, 90, 90)),
        (colour.hue(one(255, 0, 0), 1 / 3), (0, 255, 0)),
        (colour.hue(one(255, 0, 0), -1 / 3), (0, 0, 255)),
        (colour.hue(one(90, 90, 90), 0.4), (90, 90, 90)),
    ],
)
def test_changes(result, expected):
    assert result.getpixel((0, 0)) == pytest.approx(expected, abs=6)  # hues are rounded


def test_contrast_is_about_the_mean():
    image = Image.fromarray(np.uint8([[50, 150]]))
    assert np.asarray(colour.contrast(image, 0.5)).tolist() == [[75, 125]]
    assert np.asarray(colour.contrast(image, 0.0)).tolist() == [[100, 100]]


@pytest.mark.parametrize("what", [colour.brightness, colour.contrast, colour.saturation])
def test_factor_of_one_changes_nothing(what):
    image = noise(6, 7, 3)
    np.testing.assert_array_equal(what(Image.fromarray(image), 1.0), image)


def test_nothing_is_done_by_default():
    image = noise(6, 7, 3)
    assert share(Colours(), image) == 0


@pytest.mark.parametrize(
    ("colours", "expected"),
    [
        (Colours(jitter=0.5), 0.8),
        (Colours(greyscale=0.2), 0.2),
        (Colours(blur=0.5), 0.5),
        (Colours(greyscale=1.0), 1.0),
    ],
)
def test_options_come_as_often_as_asked(colours, expected):
    assert share(colours, noise(4, 4, 3)) == pytest.approx(expected, abs=0.08)


def test_greyscale():
    image = changed(Colours(greyscale=1.0), noise(6, 7, 3), 0)
    expected = Image.fromarray(noise(6, 7, 3)).convert("L")
    np.testing.assert_array_equal(image, np.repeat(np.asarray(expected)[..., None], 3, axis=2))


def test_blur_is_gaussian_of_a_random_radius():
    image, seen = noise(16, 16, 3), set()
    for seed in range(20):
        blurred = changed(Colours(blur=1.0), image, seed)
        radius = 0.1 + 1.9 * np.random.default_rng(seed).random(12)[11].item()
        expected = Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius))
        np.testing.assert_array_equal(blurred, expected)
        seen.add(blurred.tobytes())
    assert len(seen) > 15


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_other_channels_are_changed_one_by_one(channels):
    image, colours = noise(9, 8, channels), Colours(jitter=1.0, blur=0.5)
    for seed in range(10):
        together = changed(colours, image, seed)
        each = [changed(colours, image[..., i : i + 1], seed) for i in range(channels)]
        np.testing.assert_array_equal(together, np.concatenate(each, axis=2))


def drawn(colours, count=2000):
    """What is done to each of so many images: names and amounts in their order."""
    draws = np.random.default_rng(0).random((count, 12)).tolist()
    return [[(what.__name__, amount) for what, amount in colours._changes(u)] for u in draws]


@pytest.mark.parametrize(
    ("strength", "name", "low", "high"),
    [
        (0.5, "brightness", 0.6, 1.4),
        (0.5, "contrast", 0.6, 1.4),
        (2.0, "saturation", 0.0, 2.6),
        (0.5, "hue", -0.1, 0.1),
    ],
)
def test_jitter_is_uniform_within_the_strength(strength, name, low, high):
    changes = itertools.chain.from_iterable(drawn(Colours(jitter=strength)))
    amounts = np.array([amount for what, amount in changes if what == name])
    assert low <= amounts.min() < low + 0.01 * (high - low)
    assert high >= amounts.max() > high - 0.01 * (high - low)
    assert abs(amounts.mean() - (low + high) / 2) < 0.05 * (high - low)


def test_jitter_comes_in_every_order():
    orders = {tuple(name for name, _ in changes) for changes in drawn(Colours(jitter=0.5))}
    assert len(orders) == 25  # 24, and none


def test_options_leave_each_others_numbers_alone():
    alone = drawn(Colours(jitter=0.5)), drawn(Colours(greyscale=0.2)), drawn(Colours(blur=0.5))
    together = drawn(Colours(jitter=0.5, greyscale=0.2, blur=0.5))
    assert together == [jitter + grey + blur for jitter, grey, blur in zip(*alone, strict=True)]


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*[st.integers(1, 60)] * 2),
    st.integers(1, 5),
    st.floats(0, 2.5),
    st.integers(0, 2**32),
)
def test_any_image_keeps_its_shape(size, channels, strength, seed):
    image = noise(*size, channels)
    result = changed(Colours(strength, greyscale=0.5, blur=0.5), image, seed)
    assert (result.shape, result.dtype) == (image.shape, np.uint8)
