"""What is stored of an image: its own bytes, or those of a smaller or newly encoded one."""

import dataclasses
import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jepa_jax.data.sources import Example
from jepa_jax.data.transforms import decode
from jepa_jax.errors import UserError

FORMATS = ("jpeg", "png", "webp")
OWN = {"JPEG": "jpeg", "MPO": "jpeg", "PNG": "png", "WEBP": "webp"}  # what Pillow calls them


@dataclasses.dataclass(frozen=True)
class Encoding:
    """What becomes of each image.

    Attributes:
      short_side: pixels that the short side has at most; 0: as many as it has.
      format: one of FORMATS; None: each keeps its own, or png where that is none of them.
      quality: of jpeg and webp, from 1 to 100.
      check: files that keep their bytes are decoded too, to know that training can.
    """

    short_side: int = 0
    format: str | None = None
    quality: int = 90
    check: bool = True

    def __call__(self, example: Example) -> bytes:
        """The bytes to store. A file that is as it shall be keeps its own, to the last one.

        Raises UserError, which names the example, for what training couldn't read either.
        """
        if isinstance(example.image, np.ndarray):
            if example.image.shape[2] not in (1, 3):
                channels = example.image.shape[2]
                raise UserError(f"{example.name} has {channels} channels: image files have 1 or 3")
            return self._encode(example.image, self.format or "png")
        own, side = _header(example.image) if self.short_side or self.format else ("", 0)
        if side <= (self.short_side or side) and self.format in (None, own):
            if self.check:
                decode(example, channels=3)
            return example.image
        return self._encode(decode(example, channels=3), self.format or own)

    def _encode(self, pixels: UInt8[np.ndarray, "H W C"], format: str) -> bytes:
        if (pixels == pixels[..., :1]).all():  # grey: one channel tells it all
            pixels = pixels[..., 0]
        image = Image.fromarray(pixels)
        if (scale := self.short_side / min(image.size)) and scale < 1:
            size = [round(scale * side) for side in image.size]
            image = image.resize(size, Image.Resampling.BICUBIC)  # which is antialiased
        file = io.BytesIO()
        image.save(file, format, quality=self.quality)
        return file.getvalue()


def _header(file: bytes) -> tuple[str, int]:
    """Format and short side of an image file; a side of 0 if there is no telling."""
    try:
        with Image.open(io.BytesIO(file)) as image:
            return OWN.get(image.format, "png"), min(image.size)
    except Exception:  # `decode` says what is wrong with it
        return "png", 0
