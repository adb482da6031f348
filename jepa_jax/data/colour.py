"""Other colours for training images: the published code's options, which I-JEPA leaves off.

Its colour distortion of strength s is `data.colour_jitter=s` with `data.greyscale=0.2`; its
Gaussian blur is `data.blur=0.5`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from jepa_jax.data.resizing import Pixels, through_pillow

JITTERED = 0.8  # share of the images that are jittered at all
RADIUS = (0.1, 2.0)  # of the blur: the Gaussian's standard deviation in pixels


@dataclass(frozen=True)
class Colours:
    """Jitter of a given strength, then greyscale and blur of a given probability.

    Jitter multiplies brightness, contrast and saturation by a factor within 1 ± 0.8 × strength
    and turns the hue within ± 0.2 × strength of the colour circle, in a random order. Images that
    aren't RGB have neither saturation nor hue; their contrast is that of each channel.

    uint8 (H, W, C) in and out; an image that nothing is done to comes back as it is.
    """

    jitter: float = 0.0
    greyscale: float = 0.0
    blur: float = 0.0

    def __call__(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        # Always as many numbers, so that no option changes what the others do.
        changes = self._changes(rng.random(12).tolist())

        def change(image: Image.Image) -> Image.Image:
            for what, amount in changes:
                image = what(image, amount)
            return image

        return through_pillow(pixels, change) if changes else pixels

    def _changes(self, u: list[float]) -> list[tuple[Callable, float]]:
        changes = []
        if self.jitter and u[0] < JITTERED:
            spread, turn = 0.8 * self.jitter, 0.2 * self.jitter
            factor = (max(0.0, 1 - spread), 1 + spread)
            jitter = [
                (brightness, _between(*factor, u[1])),
                (contrast, _between(*factor, u[2])),
                (saturation, _between(*factor, u[3])),
                (hue, _between(-turn, turn, u[4])),
            ]
            changes += [jitter[i] for i in np.argsort(u[5:9])]
        if u[9] < self.greyscale:
            changes.append((saturation, 0.0))
        if u[10] < self.blur:
            changes.append((blur, _between(*RADIUS, u[11])))
        return changes


def brightness(image: Image.Image, factor: float) -> Image.Image:
    """0 is black, 1 the image as it is."""
    return ImageEnhance.Brightness(image).enhance(factor)


def contrast(image: Image.Image, factor: float) -> Image.Image:
    """0 is the mean grey, 1 the image as it is."""
    return ImageEnhance.Contrast(image).enhance(factor)


def saturation(image: Image.Image, factor: float) -> Image.Image:
    """0 is greyscale, 1 the image as it is."""
    return ImageEnhance.Color(image).enhance(factor)


def hue(image: Image.Image, turn: float) -> Image.Image:
    """Turns the colour circle; 0 and 1 leave the image as it is, but for rounding."""
    if image.mode != "RGB":
        return image
    shift = int(turn * 255)
    hue, *rest = image.convert("HSV").split()
    turned = hue.point([(value + shift) % 256 for value in range(256)])
    return Image.merge("HSV", (turned, *rest)).convert("RGB")


def blur(image: Image.Image, radius: float) -> Image.Image:
    """Gaussian blur."""
    return image.filter(ImageFilter.GaussianBlur(radius))


def _between(low: float, high: float, u: float) -> float:
    return low + (high - low) * u
