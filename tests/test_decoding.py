import io
import itertools
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jepa_jax.data import decoding
from jepa_jax.data.decoding import decode, decode_box
from jepa_jax.data.resizing import FILTERS
from jepa_jax.data.sources import Example
from jepa_jax.errors import UserError

SIDES = st.integers(1, 300)


def encode(image, kind="png", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Example(file.getvalue(), None, f"a.{kind}")


def noise(height, width, channels, seed=0):
    shape = (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def photo(height, width):
    """Something with edges and gradients, and not with noise, of which JPEG keeps little."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = np.stack(
        [np.sin(9 * x + 5 * y), np.tanh(3 * np.sin(40 * x * y)), np.cos(30 * y)], axis=2
    )
    return np.round(127.5 + 100 * waves).astype(np.uint8)


def orientation(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def whole(height, width):
    return 0, 0, width, height


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


# Any picture at all


def saved(mode, size, kind):
    try:
        return encode(Image.new(mode, size), kind)
    except (OSError, ValueError, KeyError):  # the format has no such mode
        return None


GREYS = ("1", "L", "LA", "I", "I;16", "I;16B", "F")
COLOURS = ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
KINDS = ("jpeg", "png", "webp", "gif", "tiff", "bmp")
POSSIBLE = [(m, k) for m, k in itertools.product(GREYS + COLOURS, KINDS) if saved(m, (2, 2), k)]
LONG = st.integers(1, 40) | st.integers(1, 4000)


@settings(max_examples=60, deadline=None)
@given(
    file=st.sampled_from(POSSIBLE),
    size=st.tuples(LONG, LONG).map(lambda size: (size[0], min(size[1], 3000))),
    channels=st.sampled_from([1, 3]),
    turn=st.integers(1, 8),
)
def test_any_mode_and_size_gives_pixels_or_a_user_error(file, size, channels, turn):
    mode, kind = file
    # Large WebPs take long to make.
    size = tuple(min(side, 300) for side in size) if kind == "webp" else size
    options = {} if kind in ("gif", "bmp") else {"exif": orientation(turn)}
    example = encode(Image.new(mode, size), kind, **options)
    height, width = size[::-1] if not options or turn < 5 else size
    seen = []

    def box(*size):
        seen.append(size)
        return whole(*size)

    try:
        pixels = decode_box(example, channels, box, (9, 7), "bilinear")
    except UserError:
        assert mode in ("LAB", "I", "F")  # which not every viewer shows either
    else:
        assert (pixels.shape, pixels.dtype) == ((9, 7, channels), np.uint8)
        assert seen == [(height, width)]


# Damaged files


WHOLE = {
    "jpeg": encode(Image.fromarray(photo(40, 48)), "jpeg"),
    "progressive": encode(Image.fromarray(photo(40, 48)), "jpeg", progressive=True),
    "large jpeg": encode(Image.fromarray(photo(160, 200)), "jpeg", exif=orientation(6)),
    "cmyk": encode(Image.fromarray(photo(40, 48)).convert("CMYK"), "jpeg"),
    "png": encode(Image.fromarray(photo(40, 48))),
    "16-bit": encode(Image.fromarray(photo(40, 48)[..., 0].astype(np.uint16) * 257)),
    "palette": encode(Image.fromarray(photo(40, 48)).convert("P"), transparency=3),
    "webp": encode(Image.fromarray(photo(40, 48)), "webp"),
    "lossless": encode(Image.fromarray(photo(40, 48)), "webp", lossless=True),
    "gif": encode(Image.fromarray(photo(40, 48)), "gif"),
    "tiff": encode(Image.fromarray(photo(40, 48)), "tiff"),
    "lzw": encode(Image.fromarray(photo(40, 48)), "tiff", compression="tiff_lzw"),
    "bmp": encode(Image.fromarray(photo(40, 48)), "bmp"),
}


def attempt(file):
    """A small picture, or None if the file is refused."""
    try:
        return decode_box(Example(file, None, "cat.x"), 3, whole, (16, 20), "bilinear")
    except UserError:
        return None


@pytest.mark.parametrize("kind", WHOLE)
def test_cut_files_are_never_half_decoded(kind):
    file = WHOLE[kind].image
    expected = attempt(file)
    for kept in np.linspace(0, len(file) - 1, 60).astype(int):
        pixels = attempt(file[:kept])
        # A PNG's pixels may all be there when the last bytes are missing.
        assert pixels is None or (kept > len(file) - 40 and np.array_equal(pixels, expected))


def test_a_png_with_damaged_pixels_is_refused():
    damaged = bytearray(encode(Image.fromarray(noise(40, 40, 3))).image)
    damaged[1000:1040] = bytes(40)
    assert attempt(bytes(damaged)) is None


def test_cut_files_are_named():
    cut = WHOLE["jpeg"].image[:-9]
    with pytest.raises(UserError, match=r"cat\.x can't be read as an image: remove or replace it"):
        decode(Example(cut, None, "cat.x"), 3)


@pytest.mark.parametrize("kind", WHOLE)
def test_flipped_bits_give_pixels_or_a_user_error(kind):
    rng = np.random.default_rng(0)
    file = np.frombuffer(WHOLE[kind].image, np.uint8)
    for attempts in range(80):
        # Half of the attempts hit the header, which holds the sizes.
        reach = 100 if attempts % 2 else len(file)
        damaged = file.copy()
        for place in rng.integers(0, min(reach, len(file)), 3):
            damaged[place] ^= 1 << rng.integers(0, 8)
        pixels = attempt(damaged.tobytes())
        assert pixels is None or (pixels.shape, pixels.dtype) == ((16, 20, 3), np.uint8)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(list(WHOLE)), st.integers(0, 40))
def test_nonsense_after_a_header_gives_pixels_or_a_user_error(nonsense, kind, kept):
    attempt(WHOLE[kind].image[:kept] + nonsense)


# Too many pixels


def png_header(width, height):
    def chunk(name, data):
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    return Example(start + chunk(b"IDAT", zlib.compress(bytes(9))), None, "bomb.png")


@pytest.mark.parametrize("limit", [None, 10, 10**9])
@pytest.mark.parametrize("width", [10_000, 2**30])
def test_decompression_bombs_are_refused_whatever_pillow_thinks(monkeypatch, limit, width):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(UserError, match=r"bomb\.png has too many pixels: shrink it or remove it"):
        decode(png_header(width, 10_000), 3)


def test_pillows_limit_is_not_asked(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with warnings.catch_warnings(record=True) as caught:
        assert decode(encode(Image.new("L", (10, 10))), 1).shape == (10, 10, 1)
    assert not caught


@pytest.mark.parametrize("kind", ["png", "gif", "webp", "tiff", "bmp", "jpeg"])
def test_every_format_is_limited(monkeypatch, kind):
    monkeypatch.setattr(decoding, "MAX_PIXELS", 99)
    with pytest.raises(UserError, match="has too many pixels"):
        decode(encode(Image.new("RGB", (10, 10)), kind), 3)


def test_what_counts_of_a_jpeg_is_what_is_decoded(monkeypatch):
    monkeypatch.setattr(decoding, "MAX_PIXELS", 32 * 32)
    example = encode(Image.new("RGB", (128, 128)), "jpeg")
    assert decode_box(example, 3, whole, (32, 32), "bilinear").shape == (32, 32, 3)
    with pytest.raises(UserError, match="has too many pixels"):
        decode_box(example, 3, whole, (33, 32), "bilinear")


def test_all_of_a_progressive_jpeg_counts(monkeypatch):
    monkeypatch.setattr(decoding, "MAX_PIXELS", 128 * 128 - 1)
    example = encode(Image.new("RGB", (128, 128)), "jpeg", progressive=True)
    with pytest.raises(UserError, match="has too many pixels"):
        decode_box(example, 3, whole, (8, 8), "bilinear")


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
