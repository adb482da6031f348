"""The quick look at frozen features: k-NN and a linear probe on held-out images."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jepa_jax import ijepa
from jepa_jax.data.sources import Source
from jepa_jax.evaluation.features import Encode, collect, mesh_batches, pixels_in_a_row, stream
from jepa_jax.evaluation.knn import knn_accuracy
from jepa_jax.evaluation.linear import linear_probe_accuracy
from jepa_jax.evaluation.splits import Split, open_splits
from jepa_jax.parallel.processes import from_first


class Probe:
    """Labelled images of both splits, the same ones every time: what the config asks for.

    Args:
      train: the training split, already open.
      mesh: whose devices share the images.

    Raises:
      UserError: if there is no held-out split, or it has no labels (say `data.test_split=""`).
    """

    def __init__(self, config: ConfigDict, train: Source, mesh: jax.sharding.Mesh):
        self._mesh = mesh
        self._data = config.data
        self._neighbours = config.probe.neighbours
        self._splits = open_splits(
            config.data,
            train=train,
            train_images=config.probe.train_images,
            test_images=config.probe.test_images,
            seed=config.seed,
            remedy='set data.test_split="" to train without probes',
        )

    def scores(self, model: ijepa.IJEPA, params: Any) -> dict[str, float]:
        """Accuracies {knn, linear} (0..1) of an encoder's pooled features."""
        return self._scores(Encode(model), params)

    def pixel_scores(self) -> dict[str, float]:
        """The same of raw pixels."""
        return self._scores(pixels_in_a_row, ())

    def _scores(self, function: Callable, params: Any) -> dict[str, float]:
        train, test = (self._look(function, params, split) for split in self._splits)
        return from_first(
            {
                "knn": knn_accuracy(*train, *test, neighbours=self._neighbours),
                "linear": linear_probe_accuracy(*train, *test),
            }
        )

    def _look(self, function: Callable, params: Any, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """Features and labels of what can be read."""
        batches = mesh_batches(split.source, self._data, split.index, self._mesh)
        found = collect(stream(function, params, batches, self._mesh))
        sound = found.index == split.index  # the others are replaced by their neighbours
        return found.values[sound], split.labels[sound]
