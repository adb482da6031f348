"""A trained encoder, wherever it comes from, and features of images."""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from jepa_jax.data.protocol import Example
from jepa_jax.data.transforms import EvalView
from jepa_jax.errors import UserError
from jepa_jax.evaluation.features import Encode
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

    def read(self, *paths: str | os.PathLike) -> UInt8[np.ndarray, "B H W C"]:
        """Image files as an evaluation shows them to the encoder: what `view` sees of each.

        Raises:
          UserError: if one can't be read; names it.
        """
        return np.stack([self.view(_example(path)) for path in paths])

    def features(
        self, images: UInt8[np.ndarray, "B Y X C"] | Float[np.ndarray, "B Y X C"], layers: int = 1
    ) -> Float[np.ndarray, "B layers*D"]:
        """A vector for each image: the average over its patches.

        Args:
          images: uint8 pixels, or floats that are normalised with `backbone.mean` and `.std`.
            Height and width are multiples of the patch size, and need not be those of the
            training: positions are computed anew, or interpolated where they were learned.
          layers: so many of the last ones side by side, the last one at the end, each after the
            final norm.

        Raises:
          UserError: if the images do not fit.
        """
        return self._encode(self.function(layers), images)

    def patch_features(
        self, images: UInt8[np.ndarray, "B Y X C"] | Float[np.ndarray, "B Y X C"], layers: int = 1
    ) -> Float[np.ndarray, "B N layers*D"]:
        """A vector for each patch, in raster order; as `features`."""
        return self._encode(self.function(layers, patches=True), images)

    def function(self, layers: int = 1, patches: bool = False) -> Encode:
        """What `features` or `patch_features` compute: (params, images) -> features, in JAX.

        Raises:
          UserError: if there are not so many layers.
        """
        depth = self.backbone.encoder.depth
        if not 1 <= layers <= depth:
            raise UserError(f"layers={layers}, but the encoder has {depth}: take 1 to {depth}")
        return Encode(self.backbone, layers, patches)

    def resized(self, size: tuple[int, int]) -> "Pretrained":
        """The same encoder for images of another height and width, as `features` takes them.

        Raises:
          UserError: if they do not divide into patches.
        """
        self._check_size(size)
        view = dataclasses.replace(self.view, size=size)
        return dataclasses.replace(self, params=self._params(self.params, size), view=view)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches that were trained on."""
        return self._grid(self.view.size)

    def _encode(self, function: Encode, images: np.ndarray) -> np.ndarray:
        images = np.asarray(images)
        self._check(images)
        params = self._params(self._on_device, images.shape[1:3])
        found = [
            np.asarray(_jitted(function, params, batch))[:count]
            for batch, count in _batches(images)
        ]
        return np.concatenate(found)

    def _params(self, params: Any, size: tuple[int, int]) -> Any:
        if self.backbone.encoder.positions != "learned":
            return params
        table = interpolate(self.params["positions"], self.grid, self._grid(size))
        return {**params, "positions": table}

    @functools.cached_property
    def _on_device(self) -> Any:
        return jax.device_put(self.params)

    def _grid(self, size: tuple[int, int]) -> tuple[int, int]:
        return tuple(side // self.backbone.encoder.patch_size for side in size)

    def _check(self, images: np.ndarray):
        channels = self.view.channels
        if images.ndim != 4 or images.shape[3] != channels or not len(images):
            raise UserError(
                f"images have the shape {images.shape}: give (images, height, width, {channels})"
            )
        if images.dtype != np.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
            raise UserError(f"images are {images.dtype}: give uint8, or normalised floats")
        self._check_size(images.shape[1:3])

    def _check_size(self, size: tuple[int, int]):
        patch = self.backbone.encoder.patch_size
        for side in size:
            if side % patch or not side:
                lower, upper = side // patch * patch, (side // patch + 1) * patch
                nearest = f"{lower} or {upper}" if lower else f"{upper}"
                raise UserError(
                    f"images of {size[0]}×{size[1]} pixels do not divide into"
                    f" patches of {patch}: take {nearest} instead of {side}"
                )


def _example(path: str | os.PathLike) -> Example:
    try:
        return Example(pathlib.Path(path).expanduser().read_bytes(), None, os.fspath(path))
    except OSError as error:
        raise UserError(f"{os.fspath(path)} can't be read: {error.strerror}") from error


@functools.partial(jax.jit, static_argnums=0)
def _jitted(function, params, images):
    return function(params, images)


def _batches(images: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """All of the same size, so that one program serves them, and how many images are real."""
    size = min(BATCH, len(images))
    if images.dtype != np.uint8:
        images = images.astype(np.float32)
    for start in range(0, len(images), size):
        part = images[start : start + size]
        filling = np.zeros((size - len(part), *images.shape[1:]), images.dtype)
        yield np.concatenate([part, filling]), len(part)
