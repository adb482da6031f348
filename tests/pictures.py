"""Pictures and files of them, for the tests of decoding."""

import io
import itertools

import numpy as np
from PIL import Image

from jepa_jax.data.sources import Example


def encode(image, kind="png", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Example(file.getvalue(), None, f"a.{kind}")


def saved(mode, size, kind):
    """An example of this mode and kind of file, or None if there is no such thing."""
    try:
        return encode(_textured(mode, size), kind)
    except (OSError, ValueError, KeyError):
        return None


def _textured(mode, size):
    grain = Image.effect_noise(size, 80)
    try:
        return grain.convert(mode)
    except ValueError:
        return Image.new(mode, size)


GREYS = ("1", "L", "LA", "I", "I;16", "I;16B", "F")
COLOURS = ("P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
KINDS = ("jpeg", "png", "webp", "gif", "tiff", "bmp")
POSSIBLE = [(m, k) for m, k in itertools.product(GREYS + COLOURS, KINDS) if saved(m, (2, 2), k)]


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
