"""What is stored of one image: its own bytes, or those of a smaller or newly encoded one."""

import io

import numpy as np
import pytest
from PIL import Image

from jepa_jax.data import decoding
from jepa_jax.data.prepare.encoding import Encoding
from jepa_jax.data.sources import Example
from jepa_jax.errors import UserError
from tests.pictures import photo
from tests.preparing import NOISE, encoded


def example(image) -> Example:
    return Example(image, None, "photo")


def opened(file: bytes) -> Image.Image:
    return Image.open(io.BytesIO(file))


WIDE = encoded(NOISE[0, :60, :90], "jpeg")


def test_larger_images_are_shrunk_to_the_short_side():
    small = opened(Encoding(short_side=20)(example(WIDE)))
    assert (small.format, small.size) == ("JPEG", (30, 20))


def test_small_images_of_the_right_format_keep_their_bytes():
    assert Encoding(short_side=60, format="jpeg", quality=1)(example(WIDE)) is WIDE


@pytest.mark.parametrize("format", ["jpeg", "png", "webp"])
def test_other_formats_are_encoded_anew(format):
    gif = encoded(NOISE[0], "gif")
    assert opened(Encoding(format=format)(example(gif))).format == format.upper()


def test_a_format_that_is_no_choice_becomes_png():
    assert opened(Encoding(short_side=20)(example(encoded(NOISE[0], "gif")))).format == "PNG"


def test_the_orientation_is_applied_where_it_would_be_lost():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(NOISE[0, :60, :90], "jpeg", exif=exif)
    assert opened(Encoding(short_side=20)(example(turned))).size == (20, 30)


def test_shrinking_is_antialiased():
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    small = opened(Encoding(short_side=8)(example(encoded(stripes, "png"))))
    assert small.mode == "L"
    assert np.abs(np.asarray(small)[:, 1:-1] - 127.5).max() < 2


def test_a_jpeg_of_too_many_pixels_is_shrunk_or_kept_as_training_reads_it(monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = 6
    large = example(encoded(photo(160, 240), "jpeg", exif=exif))
    whole = np.asarray(opened(Encoding(short_side=40, format="png")(large)), int)
    monkeypatch.setattr(decoding, "MAX_PIXELS", 120 * 80)
    small = np.asarray(opened(Encoding(short_side=40, format="png")(large)), int)
    assert whole.shape == small.shape == (60, 40, 3)
    assert np.abs(whole - small).max() <= 3
    assert Encoding()(large) is large.image
    for encoding in (Encoding(short_side=100), Encoding(format="png")):  # need all of its pixels
        with pytest.raises(UserError, match="photo has too many pixels"):
            encoding(large)


def test_lower_quality_is_smaller():
    sizes = [len(Encoding(format="jpeg", quality=q)(example(NOISE[0]))) for q in (20, 90)]
    assert sizes[0] < sizes[1] / 2


def test_arrays_are_stored_without_loss():
    np.testing.assert_array_equal(np.asarray(opened(Encoding()(example(NOISE[0])))), NOISE[0])
    with pytest.raises(UserError, match="photo has 4 channels: image files have 1 or 3"):
        Encoding()(example(np.zeros((2, 2, 4), np.uint8)))


def long(side: int) -> bytes:
    return encoded(np.zeros((1, side), np.uint8), "png")


@pytest.mark.parametrize(("format", "side"), [("webp", 16383), ("jpeg", 65500)])
def test_what_a_format_cannot_hold_is_named(format, side):
    assert opened(Encoding(format=format)(example(long(side)))).size == (side, 1)
    with pytest.raises(
        UserError, match=rf"photo has {side + 1}×1 pixels, but {format} holds {side}"
    ):
        Encoding(format=format)(example(long(side + 1)))
