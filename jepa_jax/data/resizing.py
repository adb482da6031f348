"""A box of an image at another size, anti-aliased: exactly as Pillow does it, or faster."""

import importlib
import math
from collections.abc import Callable
from types import ModuleType

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from PIL.Image import Resampling

from jepa_jax.errors import UserError

Pixels = UInt8[np.ndarray, "height width C"]
Box = tuple[float, float, float, float]  # left, top, right, bottom

FILTERS = {"bilinear": Resampling.BILINEAR, "bicubic": Resampling.BICUBIC}


def resize_exactly(pixels: Pixels, box: Box, size: tuple[int, int], interpolation: str) -> Pixels:
    """The `box` of an image at `size` (height, width): equal to Pillow's `resize`."""
    filter = FILTERS[interpolation]
    return through_pillow(pixels, lambda image: image.resize(size[::-1], filter, box))


def fast_package() -> ModuleType:
    """What `resize_fast` needs.

    Raises:
      UserError: if it is not there.
    """
    try:
        return importlib.import_module("cykooz_resizer")
    except ImportError:
        raise UserError(
            "data.resizer=fast needs another package: pip install 'cykooz.resizer>=4', or set it"
            " to exact"
        ) from None


def resize_fast(pixels: Pixels, box: Box, size: tuple[int, int], interpolation: str) -> Pixels:
    """The same with the processor's vector instructions, in less than half of the time.

    Its weights have fewer digits than Pillow's: some pixels differ by 1 of 255, hardly any by 2.
    Bilinear only: bicubic values beyond 0..255 are cut at another moment than Pillow does.

    Raises:
      UserError: if the package is not there that it needs.
    """
    cykooz = fast_package()
    if interpolation != "bilinear":
        raise ValueError(f"resize_fast is bilinear, not {interpolation}")
    if pixels.shape[2] not in (1, 3):
        planes = np.split(pixels, pixels.shape[2], axis=2)
        return np.concatenate([resize_fast(x, box, size, interpolation) for x in planes], axis=2)
    kind = cykooz.PixelType.U8 if pixels.shape[2] == 1 else cykooz.PixelType.U8x3
    pixels, (left, top, right, bottom) = _neighbourhood(pixels, box, size)
    before = cykooz.ImageData(pixels.shape[1], pixels.shape[0], kind, pixels.tobytes())
    after = cykooz.ImageData(size[1], size[0], kind)
    options = cykooz.ResizeOptions(
        cykooz.ResizeAlg.convolution(cykooz.FilterType.bilinear),
        use_alpha=False,
        crop_box=cykooz.CropBox(left, top, right - left, bottom - top),
    )
    cykooz.Resizer().resize(before, after, options)
    return np.frombuffer(after.get_buffer(), np.uint8).reshape(*size, -1)


def through_pillow(pixels: Pixels, change: Callable[[Image.Image], Image.Image]) -> Pixels:
    """What `change` makes of an RGB image, or else of each channel by itself."""
    if pixels.shape[2] == 3:
        return np.asarray(change(Image.fromarray(pixels)))
    planes = [change(Image.fromarray(plane)) for plane in np.moveaxis(pixels, 2, 0)]
    return np.stack(planes, axis=2)


def _neighbourhood(pixels: Pixels, box: Box, size: tuple[int, int]) -> tuple[Pixels, Box]:
    """The pixels that count for the box, so that no others are copied; and the box in them."""
    left, top, right, bottom = box
    x, y = (
        math.ceil(max(1.0, old / new)) + 1  # the filter's reach to either side, and a pixel more
        for old, new in ((right - left, size[1]), (bottom - top, size[0]))
    )
    x0, y0 = max(0, math.floor(left) - x), max(0, math.floor(top) - y)
    part = pixels[y0 : math.ceil(bottom) + y, x0 : math.ceil(right) + x]
    return part, (left - x0, top - y0, right - x0, bottom - y0)


RESIZERS = {"exact": resize_exactly, "fast": resize_fast}
