import numpy as np
import pytest
from PIL import Image

from jepa_jax.data.decoding import decode, decode_box
from jepa_jax.data.sources import Example
from jepa_jax.errors import UserError
from tests.pictures import encode, noise, orientation, whole

# What a viewer shows


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
        (encode(Image.new("PA", (1, 1), (0, 51)), "tiff"), [[204, 204, 204]]),
        (palette(), [[10, 20, 30], [40, 50, 60]]),
        (palette(transparency=0), [[255, 255, 255], [40, 50, 60]]),
        (palette(transparency=b"\xff\x00"), [[10, 20, 30], [255, 255, 255]]),
        (encode(Image.new("CMYK", (1, 1), (255, 0, 0, 0)), "tiff"), [[0, 255, 255]]),
        (encode(Image.fromarray(np.uint16([[0, 257, 65535]]))), [[0] * 3, [1] * 3, [255] * 3]),
    ],
)
def test_colours_are_what_a_viewer_shows(example, expected):
    np.testing.assert_array_equal(decode(example, 3)[0], expected)


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_16_bits_become_8_by_rounding(kind):
    image = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    expected = np.round(image / 257).astype(np.uint8)[..., None]
    np.testing.assert_array_equal(decode(encode(Image.fromarray(image), kind), 1), expected)


def test_adobe_cmyk_jpegs_are_not_inverted():
    example = encode(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "jpeg")
    assert b"Adobe" in example.image  # who stores 255 for no ink
    assert np.abs(decode(example, 3).astype(int) - [0, 255, 255]).max() <= 2


def test_colour_to_grey():
    assert decode(encode(Image.new("RGB", (1, 1), (255, 0, 0))), 1).tolist() == [[[76]]]


# What puts the picture [[1, 2], [3, 4]] right, by the EXIF standard.
UPRIGHT = {
    1: [[1, 2], [3, 4]],
    2: [[2, 1], [4, 3]],
    3: [[4, 3], [2, 1]],
    4: [[3, 4], [1, 2]],
    5: [[1, 3], [2, 4]],
    6: [[3, 1], [4, 2]],
    7: [[4, 2], [3, 1]],
    8: [[2, 4], [1, 3]],
}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("png", {}),
        ("webp", {"lossless": True}),
        ("tiff", {}),
        ("tiff", {"compression": "tiff_lzw"}),
    ],
)
@pytest.mark.parametrize("value", UPRIGHT)
def test_exif_orientation_is_applied(kind, options, value):
    image = Image.fromarray(np.uint8([[1, 2], [3, 4]]))
    pixels = decode(encode(image, kind, exif=orientation(value), **options), 1)
    assert pixels[..., 0].tolist() == UPRIGHT[value]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize(
    "exif",
    [b"II*\0\x08\0\0\0\x05\0", b"nonsense", b"II*\0\xff\xff\xff\xff", orientation(9).tobytes()],
)
@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_damaged_exif_is_as_good_as_none(kind, exif):
    example = encode(Image.new("L", (3, 2)), kind, exif=b"Exif\0\0" + exif)
    assert decode(example, 1).shape == (2, 3, 1)


@pytest.mark.parametrize("kind", ["gif", "png", "webp", "mpo"])
def test_the_first_of_several_pictures_counts(kind):
    first, second = (Image.new("RGB", (32, 32), colour) for colour in ("white", "black"))
    example = encode(first, kind, save_all=True, append_images=[second])
    assert decode(example, 3).min() >= 253
    assert decode_box(example, 3, whole, (8, 8), "bilinear").min() >= 253


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_arrays_of_the_right_channels_pass(channels):
    image = noise(4, 5, channels)
    assert decode(Example(image, None, "a[0]"), channels) is image


def test_grey_arrays_become_rgb():
    image = noise(4, 5, 1)
    expected = np.repeat(image, 3, axis=2)
    np.testing.assert_array_equal(decode(Example(image, None, "a[0]"), 3), expected)


def test_rgb_arrays_become_grey_like_files():
    image = noise(4, 5, 3)
    expected = decode(encode(Image.fromarray(image)), 1)
    np.testing.assert_array_equal(decode(Example(image, None, "a[0]"), 1), expected)


def test_arrays_of_other_channels_are_refused():
    with pytest.raises(UserError, match=r"a\[7\] has 4 channels: set data.channels, now 3"):
        decode(Example(noise(4, 5, 4), None, "a[7]"), 3)


def test_files_of_other_channels_are_refused():
    with pytest.raises(UserError, match=r"a\.png is a file: data.channels must be 1 or 3, not 4"):
        decode(encode(Image.new("RGBA", (2, 2))), 4)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bit_files_are_refused(mode):
    with pytest.raises(UserError, match=r"a\.tiff has 32-bit pixels"):
        decode(encode(Image.new(mode, (2, 2)), "tiff"), 1)


def test_unknown_formats_are_refused():
    with pytest.raises(UserError, match=r"a\.ppm can't be read as an image"):
        decode(encode(Image.new("RGB", (2, 2)), "ppm"), 3)
