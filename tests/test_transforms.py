import contextlib
import io
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jepa_jax.data.sources import Example
from jepa_jax.data.transforms import centre_crop, crop_box, decode, random_resized_crop
from jepa_jax.errors import UserError

SCALE, ASPECT = (0.3, 1.0), (3 / 4, 4 / 3)


def encode(image, kind="png", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Example(file.getvalue(), None, f"a.{kind}")


def noise(height, width, channels, seed=0):
    shape = (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# Decoding


@pytest.mark.parametrize("kind", ["png", "webp", "bmp", "gif", "tiff", "jpeg"])
@pytest.mark.parametrize("channels", [1, 3])
def test_formats(kind, channels):
    pixels = decode(encode(Image.new("L", (5, 4), 100), kind), channels)
    assert (pixels.shape, pixels.dtype) == ((4, 5, channels), np.uint8)
    assert np.abs(pixels.astype(int) - 100).max() <= 2


def palette(transparency=None):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    return encode(image, **({} if transparency is None else {"transparency": transparency}))


@pytest.mark.parametrize(
    ("example", "expected"),
    [
        (encode(Image.new("RGB", (1, 1), (10, 20, 30))), [[10, 20, 30]]),
        (encode(Image.new("1", (1, 1), 1)), [[255, 255, 255]]),
        (encode(Image.new("RGBA", (1, 1), (10, 20, 30, 255))), [[10, 20, 30]]),
        (encode(Image.new("RGBA", (1, 1), (10, 20, 30, 0))), [[255, 255, 255]]),
        (encode(Image.new("RGBA", (1, 1), (0, 0, 0, 51))), [[204, 204, 204]]),
        (encode(Image.new("LA", (1, 1), (0, 51))), [[204, 204, 204]]),
        (palette(), [[10, 20, 30], [40, 50, 60]]),
        (palette(transparency=0), [[255, 255, 255], [40, 50, 60]]),
        (palette(transparency=b"\xff\x00"), [[10, 20, 30], [255, 255, 255]]),
        (encode(Image.new("CMYK", (1, 1), (255, 0, 0, 0)), "tiff"), [[0, 255, 255]]),
        (encode(Image.fromarray(np.uint16([[0, 257, 65535]]))), [[0] * 3, [1] * 3, [255] * 3]),
    ],
)
def test_colours_are_what_a_viewer_shows(example, expected):
    np.testing.assert_array_equal(decode(example, 3)[0], expected)


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° to the right to see it upright
    image = Image.fromarray(np.uint8([[0, 255]]))
    assert decode(encode(image, exif=exif), 1).tolist() == [[[0]], [[255]]]


def test_colour_to_grey():
    assert decode(encode(Image.new("RGB", (1, 1), (255, 0, 0))), 1).tolist() == [[[76]]]


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_arrays_of_the_right_channels_pass(channels):
    image = noise(4, 5, channels)
    assert decode(Example(image, None, "a[0]"), channels) is image


def test_grey_arrays_become_rgb():
    image = noise(4, 5, 1)
    expected = np.repeat(image, 3, axis=2)
    np.testing.assert_array_equal(decode(Example(image, None, "a[0]"), 3), expected)


def test_arrays_of_other_channels_are_refused():
    with pytest.raises(UserError, match=r"a\[7\] has 4 channels: set data.channels, now 3"):
        decode(Example(noise(4, 5, 4), None, "a[7]"), 3)


def test_files_of_other_channels_are_refused():
    with pytest.raises(UserError, match=r"a\.png is a file: data.channels must be 1 or 3, not 4"):
        decode(encode(Image.new("RGBA", (2, 2))), 4)


def test_floating_point_files_are_refused():
    with pytest.raises(UserError, match=r"a\.tiff has 32-bit pixels"):
        decode(encode(Image.new("F", (2, 2)), "tiff"), 1)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "gif", "tiff"])
@pytest.mark.parametrize("keep", [0, 20, 0.6])
def test_cut_files_are_named(kind, keep):
    whole = encode(Image.fromarray(noise(40, 40, 3)), kind).image
    cut = whole[: int(keep * len(whole)) if isinstance(keep, float) else keep]
    with pytest.raises(UserError, match=r"cat\.x can't be read as an image: remove or replace it"):
        decode(Example(cut, None, "cat.x"), 3)


@settings(max_examples=50, deadline=None)
@given(place=st.integers(0, 400), value=st.integers(0, 255))
def test_a_changed_byte_gives_pixels_or_a_user_error(place, value):
    damaged = bytearray(encode(Image.fromarray(noise(8, 8, 3))).image)
    damaged[place % len(damaged)] = value
    with contextlib.suppress(UserError):
        assert decode(Example(bytes(damaged), None, "a.png"), 3).dtype == np.uint8


@pytest.mark.parametrize("limit", [10, 60])  # 100 pixels: beyond twice the limit, and beyond it
def test_decompression_bombs_are_refused(monkeypatch, limit):
    example = encode(Image.new("L", (10, 10)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(UserError, match=r"a\.png has too many pixels"):
        decode(example, 1)


# Boxes

SIDES = st.integers(1, 300)


@settings(max_examples=200, deadline=None)
@given(
    height=SIDES,
    width=SIDES,
    scale=st.tuples(st.floats(0.001, 1), st.floats(0.001, 1)).map(sorted),
    aspect=st.tuples(st.floats(0.05, 20), st.floats(0.05, 20)).map(sorted),
    seed=st.integers(0, 2**32),
)
def test_boxes_lie_inside_the_image(height, width, scale, aspect, seed):
    rng = np.random.default_rng(seed)
    top, left, h, w = crop_box(rng, height, width, scale, aspect)
    assert 1 <= h <= height - top
    assert 1 <= w <= width - left
    assert top >= 0 <= left


def test_boxes_are_spread_as_asked():
    rng = np.random.default_rng(0)
    boxes = np.array([crop_box(rng, 1000, 1000, (0.1, 0.5), (0.5, 2)) for _ in range(2000)])
    top, left, h, w = boxes.T
    area, aspect = h * w / 1e6, np.log2(w / h)
    for values, low, high in [(area, 0.1, 0.5), (aspect, -1, 1)]:  # uniform on low..high
        assert abs(values.min() - low) < 0.02
        assert abs(values.max() - high) < 0.02
        assert abs(values.mean() - (low + high) / 2) < 5 * (high - low) / math.sqrt(12 * 2000)
    for start, free in [(top, 1000 - h), (left, 1000 - w)]:
        assert abs(np.mean(start / free) - 0.5) < 5 / math.sqrt(12 * 2000)


@pytest.mark.parametrize(
    ("height", "width", "box"),
    [(9, 1000, (0, 494, 9, 12)), (1000, 9, (494, 0, 12, 9)), (1, 1, (0, 0, 1, 1))],
)
def test_box_of_an_image_that_is_too_long(height, width, box):
    rng = np.random.default_rng(0)
    assert crop_box(rng, height, width, (0.9, 1.0), ASPECT) == box


# Crops


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_random_crop_is_pillows_crop_and_resize(mode):
    image = Image.fromarray(noise(50, 60, 3)).convert(mode)
    top, left, h, w = crop_box(np.random.default_rng(3), 50, 60, SCALE, ASPECT)
    box = image.crop((left, top, left + w, top + h))
    expected = np.asarray(box.resize((20, 24), Image.Resampling.BILINEAR)).reshape(24, 20, -1)
    crop = random_resized_crop(image, np.random.default_rng(3), (24, 20), SCALE, ASPECT)
    np.testing.assert_array_equal(crop, expected)


def test_flip_mirrors_half_of_the_crops():
    image, mirrored = noise(20, 20, 3), 0
    for seed in range(40):
        plain = random_resized_crop(image, np.random.default_rng(seed), (8, 6), SCALE, ASPECT)
        flipped = random_resized_crop(
            image, np.random.default_rng(seed), (8, 6), SCALE, ASPECT, flip=True
        )
        is_mirrored = not np.array_equal(flipped, plain)
        np.testing.assert_array_equal(flipped, plain[:, ::-1] if is_mirrored else plain)
        mirrored += is_mirrored
    assert 8 < mirrored < 32


@settings(max_examples=60, deadline=None)
@given(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), st.integers(1, 5), st.floats(0.1, 1))
def test_crops_have_the_size_asked_for(old, new, channels, share):
    image = np.full((*old, channels), 77, np.uint8)
    crop = random_resized_crop(image, np.random.default_rng(0), new, SCALE, ASPECT)
    centre = centre_crop(image, new, share)
    assert crop.shape == centre.shape == (*new, channels)
    assert crop.dtype == centre.dtype == np.uint8
    assert (crop == 77).all()
    assert (centre == 77).all()


def test_every_channel_is_resized_alike():
    image = noise(30, 30, 5)
    crop = random_resized_crop(image, np.random.default_rng(1), (12, 13), SCALE, ASPECT)
    for i in range(5):
        one = image[..., i : i + 1]
        alone = random_resized_crop(one, np.random.default_rng(1), (12, 13), SCALE, ASPECT)
        np.testing.assert_array_equal(crop[..., i : i + 1], alone)


@pytest.mark.parametrize(
    ("old", "size", "share", "resized"),
    [
        ((64, 96), (28, 28), 0.875, (32, 48)),
        ((96, 64), (28, 28), 0.875, (48, 32)),
        ((64, 96), (16, 48), 1.0, (32, 48)),
        ((60, 48), (60, 30), 0.75, (80, 64)),
    ],
)
def test_centre_crop_is_resize_then_crop(old, size, share, resized):
    image = noise(*old, 3)
    whole = Image.fromarray(image).resize(resized[::-1], Image.Resampling.BILINEAR)
    top, left = (resized[0] - size[0]) // 2, (resized[1] - size[1]) // 2
    expected = np.asarray(whole)[top : top + size[0], left : left + size[1]]
    difference = centre_crop(image, size, share).astype(int) - expected
    assert np.abs(difference).max() <= 1


def test_centre_crop_of_the_right_size_is_the_image_itself():
    image = noise(28, 20, 1)
    assert centre_crop(image, (28, 20), 1.0) is image


def test_centre_crop_of_a_very_long_image_is_cheap():
    assert centre_crop(noise(1, 100_000, 1), (224, 224), 0.875).shape == (224, 224, 1)
