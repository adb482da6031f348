"""From an example to the image that the model sees: which box, how large, in what colours.

The views are what the loader calls. They can be pickled, and go to its workers.
"""

import math
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict
from PIL import Image
from PIL.Image import Resampling

from jepa_jax.data.colour import Colours
from jepa_jax.data.decoding import decode_box
from jepa_jax.data.resizing import Box, Pixels
from jepa_jax.data.sources import Example


@dataclass(frozen=True)
class TrainView:
    """A random box (see `crop_box`) at `size`, half of them mirrored if `flip`, then `colours`.

    The same state of the generator gives the same pixels, and the same box whatever the other
    options are. The pixels, uint8 (H, W, C), may share memory with the example.

    Raises UserError, which names the example, for what can't be read.
    """

    size: tuple[int, int]  # height, width
    channels: int
    scale: tuple[float, float] = (0.3, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str = "bilinear"
    resizer: str = "exact"
    flip: bool = False
    colours: Colours = field(default_factory=Colours)

    @classmethod
    def of(cls, data: ConfigDict) -> Self:
        """The view that the section `data` of a config asks for."""
        return cls(
            size=tuple(data.image_size),
            channels=data.channels,
            scale=tuple(data.crop_scale),
            aspect=tuple(data.crop_aspect),
            interpolation=data.interpolation,
            resizer=data.resizer,
            flip=data.flip,
            colours=Colours(data.colour_jitter, data.greyscale, data.blur),
        )

    def __call__(self, example: Example, rng: np.random.Generator) -> Pixels:
        def box(height: int, width: int) -> Box:
            return crop_box(rng, height, width, self.scale, self.aspect)

        pixels = decode_box(
            example, self.channels, box, self.size, self.interpolation, self.resizer
        )
        is_mirrored = rng.random() < 0.5  # drawn in any case: see Colours
        return self.colours(mirrored(pixels) if is_mirrored and self.flip else pixels, rng)


@dataclass(frozen=True)
class EvalView:
    """The centre of the image (see `centre_box`) at `size`; all of it if `whole`.

    A whole image takes the proportions of `size`, as VTAB resizes: nothing is cut off.

    Raises UserError, which names the example, for what can't be read.
    """

    size: tuple[int, int]  # height, width
    channels: int
    share: float = 0.875
    interpolation: str = "bilinear"
    resizer: str = "exact"
    whole: bool = False

    @classmethod
    def of(cls, data: ConfigDict) -> Self:
        """The view that the section `data` of a config asks for."""
        size = tuple(data.image_size)
        return cls(size, data.channels, data.eval_crop, data.interpolation, data.resizer)

    def __call__(self, example: Example) -> Pixels:
        return decode_box(
            example, self.channels, self._box, self.size, self.interpolation, self.resizer
        )

    def of_mask(self, mask: UInt8[np.ndarray, "height width"]) -> UInt8[np.ndarray, "H W"]:
        """The same part of a mask of classes, each pixel of the nearest one's class."""
        box = self._box(*mask.shape)
        return np.asarray(Image.fromarray(mask).resize(self.size[::-1], Resampling.NEAREST, box))

    def _box(self, height: int, width: int) -> Box:
        if self.whole:
            return 0, 0, width, height
        return centre_box(height, width, self.size, self.share)


def mirrored(pixels: Pixels) -> Pixels:
    """Left is right; a channel at a time, four times as fast as copying pixel by pixel."""
    result = np.empty_like(pixels)
    for channel in range(pixels.shape[2]):
        result[..., channel] = pixels[:, ::-1, channel]
    return result


def crop_box(
    rng: np.random.Generator,
    height: int,
    width: int,
    scale: tuple[float, float],
    aspect: tuple[float, float],
) -> tuple[int, int, int, int]:
    """A random box (left, top, right, bottom) inside an image, in whole pixels.

    Its share of the image's area is uniform in `scale`, its width / height log-uniform in
    `aspect`. When ten draws don't fit, it is the largest central box of an allowed aspect.
    """
    low, high = math.log(aspect[0]), math.log(aspect[1])
    for _ in range(10):
        u_area, u_aspect, u_top, u_left = rng.random(4).tolist()
        area = height * width * (scale[0] + u_area * (scale[1] - scale[0]))
        ratio = math.exp(low + u_aspect * (high - low))
        h, w = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < h <= height and 0 < w <= width:
            top, left = int(u_top * (height - h + 1)), int(u_left * (width - w + 1))
            return left, top, left + w, top + h
    h = min(height, max(1, round(width / aspect[0])))
    w = min(width, max(1, round(height * aspect[1])))
    top, left = (height - h) // 2, (width - w) // 2
    return left, top, left + w, top + h


def centre_box(height: int, width: int, size: tuple[int, int], share: float) -> Box:
    """The central box (left, top, right, bottom) of an image, with the proportions of `size`.

    It spans `share` of the side that limits it, the short one when `size` is square: at 224 with
    0.875 it is the usual "resize to 256, crop 224". Resizing this box alone equals resizing
    everything and cropping then, and an image of 1×10000 pixels doesn't become one of
    256×2560000 on the way.
    """
    pixel = share * min(height / size[0], width / size[1])  # side of a new pixel, in old ones
    h, w = min(height, pixel * size[0]), min(width, pixel * size[1])
    top, left = (height - h) / 2, (width - w) / 2
    return left, top, left + w, top + h
