import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jepa_jax.data import decoding
from jepa_jax.data.decoding import decode, decode_box
from jepa_jax.data.resizing import FILTERS
from jepa_jax.data.sources import Example
from tests.pictures import encode, noise, orientation, photo, whole

SIDES = st.integers(1, 300)


# JPEGs do not go through Pillow

JPEGS = [
    ("RGB", {}),
    ("RGB", {"subsampling": "4:4:4"}),
    ("RGB", {"subsampling": "4:2:2", "quality": 20}),
    ("RGB", {"progressive": True, "quality": 95}),
    ("RGB", {"keep_rgb": True}),
    ("RGB", {"restart_marker_blocks": 3}),
    ("L", {"quality": 60}),
]


@pytest.mark.parametrize(("mode", "options"), JPEGS)
@pytest.mark.parametrize("scale", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [(131, 93), (64, 128), (70, 9)])
def test_jpegs_are_decoded_as_pillow_does(monkeypatch, mode, options, scale, size):
    example = encode(Image.fromarray(photo(*size)).convert(mode), "jpeg", **options)
    file = decoding._File(example, 3 if mode == "RGB" else 1)
    monkeypatch.setattr(Image.Image, "load", None)  # not called
    pixels = file.load(scale)
    monkeypatch.undo()
    image = Image.open(io.BytesIO(example.image))
    if scale > 1:
        image.draft(None, (image.width // scale, image.height // scale))
    expected = np.asarray(image)
    np.testing.assert_array_equal(pixels, expected.reshape(*expected.shape[:2], -1))


def test_what_pillow_forgives_is_forgiven():
    example = encode(Image.fromarray(photo(40, 50)), "jpeg")
    marker = example.image.rindex(b"\xff\xda")
    odd = Example(example.image[:marker] + b"\0\0\0" + example.image[marker:], None, "odd")
    with pytest.raises(ValueError, match="extraneous"):
        decoding.simplejpeg.decode_jpeg(odd.image)
    np.testing.assert_array_equal(decode(odd, 3), decode(example, 3))


# Boxes


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("box", [(3, 4, 40, 44), (3.25, 4.5, 40.75, 44.0)])
@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_boxes_are_resized_as_pillow_does(kind, box, channels, interpolation):
    example = encode(Image.fromarray(photo(50, 60)), kind)
    image = Image.open(io.BytesIO(example.image)).convert("RGB" if channels == 3 else "L")
    expected = np.asarray(image.resize((30, 24), FILTERS[interpolation], box))
    pixels = decode_box(example, channels, lambda *_: box, (24, 30), interpolation)
    np.testing.assert_array_equal(pixels, expected.reshape(24, 30, channels))
    array = Example(decode(example, channels), None, "a[0]")
    pixels = decode_box(array, channels, lambda *_: box, (24, 30), interpolation)
    np.testing.assert_array_equal(pixels, expected.reshape(24, 30, channels))


def test_every_channel_is_resized_alike():
    image = noise(30, 30, 5)
    pixels = decode_box(
        Example(image, None, "a"), 5, lambda *_: (2, 3, 28, 27), (12, 13), "bicubic"
    )
    for i in range(5):
        one = Example(image[..., i : i + 1], None, "a")
        alone = decode_box(one, 1, lambda *_: (2, 3, 28, 27), (12, 13), "bicubic")
        np.testing.assert_array_equal(pixels[..., i : i + 1], alone)


def test_an_array_of_the_right_size_is_returned_as_it_is():
    image = noise(28, 20, 1)
    assert decode_box(Example(image, None, "a"), 1, whole, (28, 20), "bilinear") is image


@pytest.mark.parametrize(
    ("box", "size", "scale"),
    [
        ((0, 0, 200, 160), (160, 200), 1),
        ((0, 0, 200, 160), (81, 100), 1),
        ((0, 0, 200, 160), (80, 100), 2),
        ((0, 0, 200, 160), (40, 51), 2),
        ((10, 10, 130, 70), (15, 15), 4),
        ((10.5, 10, 130, 70), (15, 29.9), 4),
        ((0, 0, 200, 160), (1, 1), 8),
        ((0, 0, 3, 3), (9, 9), 1),
    ],
)
def test_jpegs_are_decoded_at_the_smallest_scale_that_suffices(monkeypatch, box, size, scale):
    scales, load = [], decoding._File.load
    monkeypatch.setattr(decoding._File, "load", lambda f, s=1: scales.append(s) or load(f, s))
    example = encode(Image.fromarray(photo(160, 200)), "jpeg")
    decode_box(example, 3, lambda *_: box, tuple(map(int, size)), "bilinear")
    assert scales == [scale]


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("size", [(64, 64), (30, 33), (15, 16)])
def test_reduced_jpegs_are_nearly_the_same(turn, size):
    # No multiple of 8: the reduced picture ends with a part of a pixel.
    example = encode(Image.fromarray(photo(325, 291)), "jpeg", exif=orientation(turn))
    box = (13.5, 20, 270, 285)
    expected = Image.fromarray(decode(example, 3)).resize(
        size[::-1], Image.Resampling.BILINEAR, box
    )
    pixels = decode_box(example, 3, lambda *_: box, size, "bilinear")
    difference = np.abs(pixels.astype(int) - np.asarray(expected)).mean()
    assert 0 < difference < 1.8


@settings(max_examples=60, deadline=None)
@given(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), st.integers(1, 8))
def test_reduced_jpegs_keep_to_their_edges(old, new, turn):
    """A picture in one colour stays so: nothing is taken from beyond it."""
    example = encode(Image.new("L", old, 77), "jpeg", exif=orientation(turn), quality=95)
    pixels = decode_box(example, 1, whole, new, "bicubic")
    assert pixels.shape == (*new, 1)
    assert (pixels == 77).all()
