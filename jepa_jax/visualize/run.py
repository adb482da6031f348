"""The pictures that a finished run leaves in its folder."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from jepa_jax import ijepa, masks
from jepa_jax.config import grid, mask_spec
from jepa_jax.data.loader import evaluation_images
from jepa_jax.data.sources import open_source
from jepa_jax.data.subset import spread
from jepa_jax.evaluation.features import Encode, collect, mesh_batches, stream
from jepa_jax.parallel.processes import is_first
from jepa_jax.visualize.curves import loss_curve
from jepa_jax.visualize.masks import mask_overlay
from jepa_jax.visualize.pca import pca_overview

IMAGES = 8


def draw_run(
    config: ConfigDict,
    model: ijepa.IJEPA,
    target: Any,
    metrics: Sequence[Mapping[str, float]],
    folder: epath.Path,
    mesh: jax.sharding.Mesh,
) -> None:
    """Writes loss.png, masks.png and features.png: the loss, what was asked, what was learned.

    All processes must call it, since they share the features' computation; the first one draws.
    """
    split = config.data.test_split or config.data.train_split
    source = open_source(config.data, split)
    index = spread(len(source), IMAGES)
    batches = mesh_batches(source, config.data, index, mesh, size=len(index))
    features = collect(stream(Encode(model, patches=True), target, batches, mesh))
    if not is_first():
        return
    images = evaluation_images(source, config.data, index)
    drawn = masks.sample(jax.random.key(config.seed), mask_spec(config), len(index))

    loss_curve(metrics, folder / "loss.png")
    mask_overlay(images, drawn, grid(config), folder / "masks.png")
    pca_overview(images, features.values, grid(config), folder / "features.png")
