"""From a file or an array to the pixels that the model sees: decode, crop, resize."""

import io
import math

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from jepa_jax.data.sources import Example
from jepa_jax.errors import UserError

MODES = {1: "L", 3: "RGB"}  # channels -> what Pillow calls it

Pixels = UInt8[np.ndarray, "height width C"]


def decode(example: Example, channels: int) -> Pixels:
    """The pixels of one example, uint8 (H, W, channels), as a viewer would show them.

    Files are turned as their EXIF orientation says, transparent ones laid over white, 16-bit
    ones scaled down to 8; of an animation the first picture counts. Grey and RGB become each
    other as `channels` (1 or 3) asks; an array with other channels must have as many already.

    Raises UserError, which names the example, for what can't be read or has other channels.
    """
    image, name = example.image, example.name
    if isinstance(image, np.ndarray):
        if image.shape[2] == channels:
            return image
        if image.shape[2] not in MODES or channels not in MODES:
            message = f"{name} has {image.shape[2]} channels: set data.channels, now {channels}"
            raise UserError(message)
        return _pixels(_to_pillow(image).convert(MODES[channels]))
    if channels not in MODES:
        raise UserError(f"{name} is a file: data.channels must be 1 or 3, not {channels}")
    try:
        with Image.open(io.BytesIO(image)) as opened:
            if opened.mode in ("I", "F"):
                raise UserError(f"{name} has 32-bit pixels: save it with 8 bits a channel")
            return _pixels(_as_seen(opened).convert(MODES[channels]))
    except UserError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"{name} has too many pixels: shrink it or remove it") from error
    except Exception as error:  # Pillow raises all kinds of them on a broken file
        raise UserError(f"{name} can't be read as an image: remove or replace it") from error


def crop_box(
    rng: np.random.Generator,
    height: int,
    width: int,
    scale: tuple[float, float],
    aspect: tuple[float, float],
) -> tuple[int, int, int, int]:
    """A random box (top, left, height, width) inside an image, in pixels.

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
            return int(u_top * (height - h + 1)), int(u_left * (width - w + 1)), h, w
    h = min(height, max(1, round(width / aspect[0])))
    w = min(width, max(1, round(height * aspect[1])))
    return (height - h) // 2, (width - w) // 2, h, w


def random_resized_crop(
    image: Pixels | Image.Image,
    rng: np.random.Generator,
    size: tuple[int, int],
    scale: tuple[float, float],
    aspect: tuple[float, float],
    flip: bool = False,
) -> Pixels:
    """A random box of the image (see `crop_box`), resized to `size` (height, width).

    `flip` mirrors half of them. The same state of `rng` gives the same pixels, which may share
    the image's memory.
    """
    image = _pixels(image)
    top, left, h, w = crop_box(rng, *image.shape[:2], scale, aspect)
    crop = _resize(image[top : top + h, left : left + w], size, (0, 0, w, h))
    return crop[:, ::-1] if flip and rng.random() < 0.5 else crop


def centre_crop(image: Pixels | Image.Image, size: tuple[int, int], share: float) -> Pixels:
    """The centre of the image at `size` (height, width), with its own proportions.

    The crop spans `share` of the side that limits it, the short one when `size` is square: 224
    with 0.875 is the usual "resize to 256, crop 224". With a share of 1, an image of that size
    comes back as it is.
    """
    image = _pixels(image)
    height, width = image.shape[:2]
    pixel = share * min(height / size[0], width / size[1])  # side of a new pixel, in old ones
    h, w = min(height, pixel * size[0]), min(width, pixel * size[1])
    top, left = (height - h) / 2, (width - w) / 2
    # Resizing the box alone equals resizing everything and cropping then, and an image of
    # 1×10000 pixels doesn't become one of 256×2560000 on the way.
    return _resize(image, size, (left, top, left + w, top + h))


def _as_seen(image: Image.Image) -> Image.Image:
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I;16"):
        return Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image


def _resize(image: Pixels, size: tuple[int, int], box: tuple[float, ...]) -> Pixels:
    """The box (left, top, right, bottom) of the image at `size`: bilinear, antialiased."""
    height, width, channels = image.shape
    if (height, width) == size and box == (0, 0, width, height):
        return image
    if channels not in MODES:
        each = np.split(image, channels, axis=2)
        return np.concatenate([_resize(one, size, box) for one in each], axis=2)
    resized = _to_pillow(image).resize(size[::-1], Image.Resampling.BILINEAR, box)
    return _pixels(resized)


def _to_pillow(image: Pixels) -> Image.Image:
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


def _pixels(image: Pixels | Image.Image) -> Pixels:
    pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]
