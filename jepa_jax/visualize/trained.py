"""All three networks of a run at one of its checkpoints, and what they say of images."""

import dataclasses
import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Float, UInt8
from ml_collections import ConfigDict

from jepa_jax import ijepa
from jepa_jax.data.transforms import EvalView
from jepa_jax.interop.runs import find_checkpoint, read_state
from jepa_jax.masks import Masks
from jepa_jax.models.transformer import EXACT
from jepa_jax.pretrained import Backbone, Pretrained
from jepa_jax.training.setup import build_model, purpose_key


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a checkpoint holds but for the optimizer; computes in float32."""

    folder: epath.Path  # of the checkpoint
    config: ConfigDict
    step: int
    model: ijepa.IJEPA
    params: dict[str, Any]  # {"encoder", "predictor"}
    target: Any  # of the target encoder

    @functools.cached_property
    def encoder(self) -> Pretrained:
        """The target encoder."""
        backbone = Backbone(self.model.encoder, self.model.mean, self.model.std)
        return Pretrained(backbone, self.target, EvalView.of(self.config.data), "target")

    def predictions(
        self, images: UInt8[np.ndarray, "n H W C"], masks: Masks
    ) -> tuple[Float[np.ndarray, "n M P D"], Float[np.ndarray, "n M P D"]]:
        """Predicted and true features of the target blocks, as the loss compares them.

        With `targets="pixels"` the blocks' own pixels: F in place of D.
        """
        batch = ijepa.Batch(jnp.asarray(images), jax.tree.map(jnp.asarray, masks))
        return jax.device_get(_predictions(self.model, self.params, self.target, batch))


def read_trained(path: os.PathLike | str) -> Trained:
    """The newest checkpoint of a run's folder, or the one that the path names.

    Raises:
      UserError: if there is none, or it is damaged.
    """
    checkpoint = find_checkpoint(path)
    return Trained(
        checkpoint.folder,
        checkpoint.config,
        checkpoint.step,
        _float32(checkpoint.config),
        read_state(checkpoint, ("params",)),
        read_state(checkpoint, ("target",)),
    )


def untrained(trained: Trained) -> Trained:
    """What the run started from."""
    data, key = trained.config.data, purpose_key(trained.config.seed, "init")
    shape = (*data.image_size, data.channels)
    start = jax.jit(lambda key: ijepa.init(trained.model, key, shape))(key)
    start = jax.device_get(start)
    return dataclasses.replace(trained, step=0, params=start.params, target=start.target)


def _float32(config: ConfigDict) -> ijepa.IJEPA:
    """The model, exact, and without what only saves memory in training."""
    model = build_model(config, steps_per_epoch=1)  # of which the modules know nothing
    return dataclasses.replace(
        model,
        encoder=model.encoder.clone(**EXACT),
        predictor=model.predictor.clone(**EXACT),
        target_dtype=None,
    )


@functools.partial(jax.jit, static_argnums=0)
def _predictions(model, params, target, batch):
    return ijepa.predict(model, params, batch), ijepa.target_features(model, target, batch)
