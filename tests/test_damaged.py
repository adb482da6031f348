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
from jepa_jax.data.sources import Example
from jepa_jax.errors import UserError
from tests.pictures import POSSIBLE, encode, noise, orientation, photo, whole

# Any picture at all

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
