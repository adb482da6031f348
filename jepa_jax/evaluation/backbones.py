"""What gives features of images: encoders, alone or side by side, or the pixels themselves."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import jax
from jax import Array
from ml_collections import ConfigDict

from jepa_jax import ijepa
from jepa_jax.data.transforms import EvalView
from jepa_jax.errors import UserError
from jepa_jax.evaluation.features import Encode, Rows, pixels_in_a_row, stream
from jepa_jax.models.transformer import EXACT
from jepa_jax.parallel.sharding import tree_sharding
from jepa_jax.pretrained import Backbone as Encoder
from jepa_jax.pretrained import Pretrained
from jepa_jax.training.checksums import checksums
from jepa_jax.training.setup import build_model, purpose_key


class Backbone(Protocol):
    """Turns images into features.

    Attributes:
      name: for tables.
      identity: a digest; where it is the same, so are the features.
      view: what becomes of an image first.
      model: the encoder, if it is one of ours, and only one.
    """

    name: str
    identity: str
    view: EvalView
    model: Pretrained | None

    def stream(
        self, batches: Iterable[dict], mesh: jax.sharding.Mesh, layers: int, patches: bool
    ) -> Iterator[Rows]:
        """Features of batches of `mesh_batches`.

        Args:
          layers: so many of the last ones side by side.
          patches: whether to give a vector of each patch, or their average.

        Raises:
          UserError: if it has no such features.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Encoders:
    """Encoders of ours: the features of several are put side by side, layer by layer."""

    name: str
    models: tuple[Pretrained, ...]

    @property
    def model(self) -> Pretrained | None:
        return self.models[0] if len(self.models) == 1 else None

    @property
    def view(self) -> EvalView:
        return self.models[0].view

    @functools.cached_property
    def identity(self) -> str:
        parts = [(repr(each.backbone), checksums(each.params)) for each in self.models]
        return digest(parts if len(parts) == 1 else ["layer by layer", *parts])

    def stream(
        self, batches: Iterable[dict], mesh: jax.sharding.Mesh, layers: int, patches: bool
    ) -> Iterator[Rows]:
        function = _SideBySide(tuple(each.function(layers, patches) for each in self.models))
        params = tuple(
            jax.device_put(each.params, tree_sharding(each.params, mesh)) for each in self.models
        )
        return stream(function, params, batches, mesh)


@dataclasses.dataclass(frozen=True)
class _SideBySide:
    """Of each layer what all parts say of it: whoever takes the last layer gets all of them."""

    parts: tuple[Encode, ...]

    def __call__(self, params: tuple[Any, ...], images: Array) -> Array:
        found = [part(each, images) for part, each in zip(self.parts, params, strict=True)]
        *shape, _ = found[0].shape
        layers = [each.reshape(*shape, self.parts[0].layers, -1) for each in found]
        return jax.numpy.concatenate(layers, axis=-1).reshape(*shape, -1)


@dataclasses.dataclass(frozen=True)
class Pixels:
    """The pixels themselves, what any encoder should be better than."""

    view: EvalView
    name: str = "raw pixels"
    identity: str = "pixels"
    model: None = None

    def stream(
        self, batches: Iterable[dict], mesh: jax.sharding.Mesh, layers: int, patches: bool
    ) -> Iterator[Rows]:
        only_pooled(self.name, layers, patches)
        return stream(pixels_in_a_row, (), batches, mesh)


def untrained(config: ConfigDict) -> Encoders:
    """The encoder that a run of this config starts from."""
    model = build_model(config, steps_per_epoch=1)  # of which the encoder knows nothing
    view = EvalView.of(config.data)
    shape = (*view.size, view.channels)
    start = jax.jit(lambda key: ijepa.init(model, key, shape).target)
    params = jax.device_get(start(purpose_key(config.seed, "init")))
    encoder = model.encoder.clone(**EXACT)
    pretrained = Pretrained(Encoder(encoder, model.mean, model.std), params, view)
    return Encoders("untrained encoder", (pretrained,))


def only_pooled(name: str, layers: int, patches: bool) -> None:
    """Raises UserError unless it is one vector for each image that is asked for."""
    if layers != 1 or patches:
        raise UserError(f"{name}: there is one vector for each image, and no layers or patches")


def digest(content: Any) -> str:
    """16 hexadecimal digits for what can be written as JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
