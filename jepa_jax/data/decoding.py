"""From a file's bytes, or an array, to the pixels that a viewer would show.

The header of a file says how large its picture is. So `decode_box` first asks which part of it is
wanted, and then decodes a JPEG no finer than that part needs.
"""

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from jepa_jax.data.resizing import RESIZERS, Box, Pixels
from jepa_jax.data.sources import Example
from jepa_jax.errors import UserError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MODES = {1: "L", 3: "RGB"}  # channels -> what Pillow calls it

# Of a decoded picture: a third of a GiB as Pillow holds it. Pillow's own limit has this value too,
# but is a global that any program may change, and only warns.
MAX_PIXELS = 2**30 // 12

# EXIF orientation -> what sets it right, and whether the result is mirrored in x and in y.
TURNS = {
    2: (lambda pixels: pixels[:, ::-1], (1, 0)),
    3: (lambda pixels: pixels[::-1, ::-1], (1, 1)),
    4: (lambda pixels: pixels[::-1], (0, 1)),
    5: (lambda pixels: pixels.swapaxes(0, 1), (0, 0)),
    6: (lambda pixels: np.rot90(pixels, -1), (1, 0)),
    7: (lambda pixels: np.rot90(pixels, 2).swapaxes(0, 1), (1, 1)),
    8: (np.rot90, (0, 1)),
}


def decode(example: Example, channels: int) -> Pixels:
    """The pixels of one example, uint8 (H, W, channels), as a viewer would show them.

    Files are turned as their EXIF orientation says, transparent ones laid over white, 16-bit
    ones scaled down to 8; of an animation the first picture counts; colour profiles are left
    out. Grey and RGB become each other as `channels` (1 or 3) asks; an array with other channels
    must have as many already.

    Raises UserError, which names the example, for what can't be read (what is cut short or
    damaged included), is larger than `MAX_PIXELS` or has other channels.
    """
    if isinstance(example.image, np.ndarray):
        return _array(example, channels)
    with _named(example):
        return _File(example, channels).load()


class Look(NamedTuple):
    """A picture's size, and its pixels or those of a smaller copy, as `decode` gives them."""

    size: tuple[int, int]  # height, width
    pixels: Pixels


def look(example: Example, channels: int) -> Look:
    """One example as `decode` gives it, but a JPEG of more than `MAX_PIXELS` pixels smaller.

    At 1/2, 1/4 or 1/8 of its size, as `decode_box` may read it: the largest that is allowed.

    Raises UserError as `decode` does.
    """
    if isinstance(example.image, np.ndarray):
        return Look(example.image.shape[:2], _array(example, channels))
    with _named(example):
        file = _File(example, channels)
        height, width = file.height, file.width
        fitting = (s for s in file.scales if -(-height // s) * -(-width // s) <= MAX_PIXELS)
        return Look((height, width), file.load(next(fitting, 1)))


def decode_small(example: Example, channels: int, short_side: int) -> Pixels:
    """The whole of one example, its short side no more than so many pixels; else as `decode_box`.

    A smaller picture is as `decode` gives it. Bicubic.
    """

    def plan(height: int, width: int) -> tuple[Box, tuple[int, int]]:
        scale = min(1, short_side / min(height, width))
        return (0, 0, width, height), (round(scale * height), round(scale * width))

    return _decode_part(example, channels, plan, "bicubic", "exact")


def decode_box(
    example: Example,
    channels: int,
    choose: Callable[[int, int], Box],
    size: tuple[int, int],
    interpolation: str,
    resizer: str = "exact",
) -> Pixels:
    """The box `choose(height, width)` of one example, resized to `size` (height, width).

    It equals Pillow's `resize` of that box of the decoded picture, or nearly so with
    `resizer="fast"`; it may lie between pixels. But where the box of a JPEG has at least 2, 4 or
    8 times the pixels of `size` both ways, the file is decoded at 1/2, 1/4 or 1/8 of its size:
    many times faster, and nearly the same.

    Raises UserError as `decode` does, except that only what is decoded counts for `MAX_PIXELS`.
    """

    def plan(height: int, width: int) -> tuple[Box, tuple[int, int]]:
        return choose(height, width), size

    return _decode_part(example, channels, plan, interpolation, resizer)


def _decode_part(
    example: Example,
    channels: int,
    plan: Callable[[int, int], tuple[Box, tuple[int, int]]],
    interpolation: str,
    resizer: str,
) -> Pixels:
    """The box and size that `plan(height, width)` says, as `decode_box` makes them."""
    resize = RESIZERS[resizer]
    if isinstance(example.image, np.ndarray):
        pixels = _array(example, channels)
        height, width = pixels.shape[:2]
        box, size = plan(height, width)
        if (height, width) == size and box == (0, 0, width, height):
            return pixels
        return resize(pixels, box, size, interpolation)
    with _named(example):
        file = _File(example, channels)
    box, size = plan(file.height, file.width)
    left, top, right, bottom = box
    spare = min((bottom - top) / size[0], (right - left) / size[1])
    scale = max(scale for scale in file.scales if scale <= max(1, spare))
    with _named(example):
        pixels = file.load(scale)
    return resize(pixels, file.reduced(box, scale), size, interpolation)


class _File:
    """The picture in a file. Of a JPEG only the header is read, until it is loaded."""

    def __init__(self, example: Example, channels: int):
        if channels not in MODES:
            name = example.name
            raise UserError(f"{name} is a file: data.channels must be 1 or 3, not {channels}")
        self._bytes, self._image = example.image, (image := _open(example.image))
        self._mode = MODES[channels]
        if image.mode in ("I", "F"):
            raise UserError(f"{example.name} has 32-bit pixels: save it with 8 bits a channel")
        is_jpeg = isinstance(image, JpegImageFile)
        self.scales = (1, 2, 4, 8) if is_jpeg else (1,)
        # Whatever the scale, libjpeg holds the coefficients of a whole progressive picture.
        if not is_jpeg or "progressive" in image.info:
            _check_size(image)
        if not is_jpeg:
            image.load()  # now, since the orientation may stand behind the pixels
        orientation = _orientation(image)
        self._turn, self._mirrors = TURNS.get(orientation, (None, (0, 0)))
        width, height = image.size
        self.height, self.width = (width, height) if orientation > 4 else (height, width)

    def load(self, scale: int = 1) -> Pixels:
        """The picture at 1 / scale of its size, rounded up. Once only."""
        image = self._image
        if scale > 1:
            image.draft(None, (image.width // scale, image.height // scale))
        _check_size(image)
        pixels = self._straight() if isinstance(image, JpegImageFile) else None
        if pixels is None:
            image.load()
            image = _opaque(image)
            pixels = _pixels(image if image.mode == self._mode else image.convert(self._mode))
        return pixels if self._turn is None else self._turn(pixels)

    def _straight(self) -> Pixels | None:
        """The pixels of a JPEG as Pillow has them, without its copies; None: ask Pillow.

        Both call libjpeg-turbo; this takes two thirds of the time.
        """
        image = self._image
        if image.mode != self._mode or max(image.size) < 8:  # at 8, every scale has its own size
            return None
        try:
            return simplejpeg.decode_jpeg(
                self._bytes,
                "GRAY" if self._mode == "L" else "RGB",
                min_height=image.height,
                min_width=image.width,
            )
        except ValueError:  # it refuses what Pillow forgives
            return None

    def reduced(self, box: Box, scale: int) -> Box:
        """The same box in the picture that `load(scale)` gives."""
        # Its last pixel is but a part of one, where the scale doesn't divide the size. Where the
        # orientation mirrors the picture, this is the first one.
        x, y = self._mirrors[0] * (-self.width % scale), self._mirrors[1] * (-self.height % scale)
        left, top, right, bottom = box
        return (left + x) / scale, (top + y) / scale, (right + x) / scale, (bottom + y) / scale


def _open(file: bytes) -> Image.Image:
    """As `Image.open`, which would refuse a large JPEG that needn't be decoded as large."""
    Image.init()
    for opens, accepts in map(Image.OPEN.get, FORMATS):
        if accepts(file[:16]) is True:  # else False, or why it can't be read here
            return opens(io.BytesIO(file), "")
    raise Image.UnidentifiedImageError


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(0x0112)
        return found if found in TURNS else 1
    except Exception:  # damaged EXIF data keeps nobody from seeing the picture
        return 1


def _check_size(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise Image.DecompressionBombError


def _opaque(image: Image.Image) -> Image.Image:
    """With 8 bits a channel and nothing transparent."""
    if image.mode.startswith("I;16"):
        wide = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((wide + 128) // 257).astype(np.uint8))  # 65535 is 255
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def _array(example: Example, channels: int) -> Pixels:
    pixels, has = example.image, example.image.shape[2]
    if has == channels:
        return pixels
    if has not in MODES or channels not in MODES:
        message = f"{example.name} has {has} channels: set data.channels, now {channels}"
        raise UserError(message)
    if has == 1:
        return np.repeat(pixels, 3, axis=2)
    return _pixels(Image.fromarray(pixels).convert("L"))


@contextlib.contextmanager
def _named(example: Example) -> Iterator[None]:
    """Turns whatever is wrong with a file into one line that names it."""
    try:
        yield
    except UserError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"{example.name} has too many pixels: shrink it or remove it") from error
    except Exception as error:  # Pillow raises all kinds of them on a broken file
        message = f"{example.name} can't be read as an image: remove or replace it"
        raise UserError(message) from error


def _pixels(image: Image.Image) -> Pixels:
    pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]
