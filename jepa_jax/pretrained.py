"""A trained encoder, wherever it comes from, and features of images."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8

from jepa_jax import ijepa
from jepa_jax.data.transforms import EvalView
from jepa_jax.errors import UserError
from jepa_jax.interop.positions import interpolate
from jepa_jax.models.vit import Encoder

BATCH = 64  # images that go through at once; features do not depend on it


@dataclasses.dataclass(frozen=True)
class Backbone:
    """What turns images into features, but for the parameters."""

    encoder: Encoder
    mean: tuple[float, ...]  # of the pixels in 0..1, by channel
    std: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A trained encoder. `jepa_jax.load` makes it.

    Attributes:
      params: of the encoder, a tree of arrays.
      view: what becomes of an image before it is encoded; its size is what was trained on.
      part: "target" or "context" encoder; "" where the file does not tell.
      about: what is known of its training: "source", "step", "config" and "results", if any.
    """

    backbone: Backbone
    params: Any
    view: EvalView
    part: str = ""
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def features(
        self, images: UInt8[np.ndarray, "B Y X C"] | Float[np.ndarray, "B Y X C"]
    ) -> Float[np.ndarray, "B D"]:
        """A vector for each image: the average over its patches.

        Args:
          images: uint8 pixels, or floats that are normalised with `backbone.mean` and `.std`.
            Height and width are multiples of the patch size, and need not be those of the
            training: positions are computed anew, or interpolated where they were learned.

        Raises:
          UserError: if the images do not fit.
        """
        return self._encode(_pooled, images)

    def patch_features(
        self, images: UInt8[np.ndarray, "B Y X C"] | Float[np.ndarray, "B Y X C"]
    ) -> Float[np.ndarray, "B N D"]:
        """A vector for each patch, in raster order; as `features`."""
        return self._encode(_patches, images)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches that were trained on."""
        return self._grid(self.view.size)

    def _encode(self, function: Callable, images: np.ndarray) -> np.ndarray:
        images = np.asarray(images)
        self._check(images)
        params = self._on_device
        if self.backbone.encoder.positions == "learned":
            table = interpolate(self.params["positions"], self.grid, self._grid(images.shape[1:3]))
            params = {**params, "positions": table}
        found = [
            np.asarray(function(self.backbone, params, batch))[:count]
            for batch, count in _batches(images)
        ]
        return np.concatenate(found)

    @functools.cached_property
    def _on_device(self) -> Any:
        return jax.device_put(self.params)

    def _grid(self, size: tuple[int, int]) -> tuple[int, int]:
        return tuple(side // self.backbone.encoder.patch_size for side in size)

    def _check(self, images: np.ndarray):
        patch, channels = self.backbone.encoder.patch_size, self.view.channels
        if images.ndim != 4 or images.shape[3] != channels or not len(images):
            raise UserError(
                f"images have the shape {images.shape}: give (images, height, width, {channels})"
            )
        if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
            raise UserError(f"images are {images.dtype}: give uint8, or normalised floats")
        for side in images.shape[1:3]:
            if side % patch or not side:
                lower, upper = side // patch * patch, (side // patch + 1) * patch
                nearest = f"{lower} or {upper}" if lower else f"{upper}"
                raise UserError(
                    f"images of {images.shape[1]}×{images.shape[2]} pixels do not divide into"
                    f" patches of {patch}: take {nearest} instead of {side}"
                )


@functools.partial(jax.jit, static_argnums=0)
def _patches(backbone, params, images):
    return ijepa.encode(backbone, params, images)


@functools.partial(jax.jit, static_argnums=0)
def _pooled(backbone, params, images):
    return ijepa.encode(backbone, params, images).mean(axis=1)


def _batches(images: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """All of the same size, so that one program serves them, and how many images are real."""
    size = min(BATCH, len(images))
    if images.dtype != np.uint8:
        images = images.astype(np.float32)
    for start in range(0, len(images), size):
        part = images[start : start + size]
        filling = np.zeros((size - len(part), *images.shape[1:]), images.dtype)
        yield np.concatenate([part, filling]), len(part)
