"""What is stored of an image: its own bytes, or those of a smaller or newly encoded one."""

import dataclasses
import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jepa_jax.data.decoding import decode, decode_small, look
from jepa_jax.data.sources import Example
from jepa_jax.errors import UserError

# Pillow's names, and what they are here; others become png.
FORMATS = {"JPEG": "jpeg", "MPO": "jpeg", "PNG": "png", "WEBP": "webp"}
LONGEST = {"jpeg": 65500, "png": 2**31 - 1, "webp": 16383}  # pixels of a side


@dataclasses.dataclass(frozen=True)
class Encoding:
    """What becomes of each image.

    Attributes:
      short_side: pixels that the short side has at most; 0: as many as it has.
      format: jpeg, png or webp; None: each its own, if it is one of these, or else png.
      quality: of jpeg and webp, from 1 to 100.
      check: files that keep their bytes are decoded too, to know that training can.
    """

    short_side: int = 0
    format: str | None = None
    quality: int = 90
    check: bool = True

    def __call__(self, example: Example) -> bytes:
        """The bytes to store. A file that is as it shall be keeps its own, to the last one.

        Raises UserError, which names the example, for what training couldn't read either, and
        for what the format can't hold.
        """
        if isinstance(example.image, np.ndarray):
            channels = example.image.shape[2]
            if channels not in (1, 3):
                raise UserError(f"{example.name} has {channels} channels: image files have 1 or 3")
            return self._encode(self._pixels(example, channels), self.format or "png", example.name)
        own, side = _header(example.image) if self.short_side or self.format else (None, 0)
        if side <= (self.short_side or side) and self.format in (None, own):
            if self.check:
                look(example, channels=3)
            return example.image
        pixels = self._pixels(example, channels=3)
        return self._encode(pixels, self.format or own or "png", example.name)

    def _pixels(self, example: Example, channels: int) -> UInt8[np.ndarray, "H W C"]:
        if self.short_side:
            return decode_small(example, channels, self.short_side)
        return decode(example, channels)

    def _encode(self, pixels: UInt8[np.ndarray, "H W C"], format: str, name: str) -> bytes:
        if (pixels == pixels[..., :1]).all():  # grey: one channel tells it all
            pixels = pixels[..., 0]
        image = Image.fromarray(pixels)
        if max(image.size) > LONGEST[format]:
            raise UserError(
                f"{name} has {image.width}×{image.height} pixels, but {format} holds"
                f" {LONGEST[format]} a side: shrink it, or store another format"
            )
        file = io.BytesIO()
        image.save(file, format, quality=self.quality)
        return file.getvalue()


def _header(file: bytes) -> tuple[str | None, int]:
    """Format, if it is one of FORMATS, and short side; 0 if there is no telling."""
    try:
        with Image.open(io.BytesIO(file)) as image:
            return FORMATS.get(image.format), min(image.size)
    except Exception:  # `decode` will say what is wrong
        return None, 0
