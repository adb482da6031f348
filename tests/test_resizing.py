import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jepa_jax.config import defaults
from jepa_jax.data.resizing import FILTERS, resize_exactly, resize_fast, through_pillow
from jepa_jax.errors import UserError
from jepa_jax.validation import validate

SIDES = st.integers(1, 300)


def noise(height, width, channels, seed=0):
    shape = (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@st.composite
def boxes(draw):
    """An image's size and a box in it, which may lie between pixels."""
    height, width = draw(SIDES), draw(SIDES)
    spans = []
    for side in (width, height):
        length = draw(st.floats(min(1.0, side), side))
        start = draw(st.floats(0, side - length))
        spans.append((start, min(start + length, side)))
    (left, right), (top, bottom) = spans
    return height, width, (left, top, right, bottom)


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize("box", [(3, 4, 40, 44), (3.25, 4.5, 40.75, 44.0)])
def test_exactly_is_as_pillow_does(box, interpolation):
    pixels = noise(50, 60, 3)
    expected = Image.fromarray(pixels).resize((30, 24), FILTERS[interpolation], box)
    found = resize_exactly(pixels, box, (24, 30), interpolation)
    np.testing.assert_array_equal(found, np.asarray(expected))


@settings(max_examples=200, deadline=None)
@given(
    boxes(),
    st.tuples(SIDES, SIDES),
    st.integers(1, 5),
    st.integers(0, 2**32 - 1),
)
def test_fast_is_nearly_exact_for_any_size_and_box(image, size, channels, seed):
    height, width, box = image
    pixels = noise(height, width, channels, seed)
    fast = resize_fast(pixels, box, size, "bilinear")
    exact = resize_exactly(pixels, box, size, "bilinear")
    assert (fast.shape, fast.dtype) == ((*size, channels), np.uint8)
    assert np.abs(fast.astype(int) - exact).max() <= 2


def test_fast_differs_in_few_pixels():
    small = Image.fromarray(noise(38, 50, 3))
    pixels = np.asarray(small.resize((500, 375), Image.Resampling.BICUBIC))  # smooth as photos are
    box = (17, 20, 417, 320)
    exact = resize_exactly(pixels, box, (224, 224), "bilinear")
    fast = resize_fast(pixels, box, (224, 224), "bilinear")
    assert 0 < np.mean(fast != exact) < 0.1


def test_fast_is_bilinear_only():
    config = defaults()
    config.data.resizer, config.data.interpolation = "fast", "bicubic"
    with pytest.raises(UserError, match='set it to "exact"'):
        validate(config)


def test_fast_needs_its_package(monkeypatch):
    config = defaults()
    config.data.resizer = "fast"
    monkeypatch.setitem(sys.modules, "cykooz_resizer", None)
    with pytest.raises(UserError, match=r"pip install 'cykooz\.resizer>=4'"):
        validate(config)
    with pytest.raises(UserError, match=r"pip install 'cykooz\.resizer>=4'"):
        resize_fast(noise(4, 4, 1), (0, 0, 4, 4), (2, 2), "bilinear")


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_through_pillow_and_back(channels):
    image = noise(4, 5, channels)
    np.testing.assert_array_equal(through_pillow(image, lambda x: x), image)
