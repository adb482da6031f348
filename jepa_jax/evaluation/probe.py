"""The quick look at frozen features: k-NN and a linear probe on held-out images."""

import math
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jepa_jax import ijepa
from jepa_jax.data.loader import evaluation_batches
from jepa_jax.data.sources import Source, no_labels, open_source
from jepa_jax.data.subset import subset
from jepa_jax.errors import UserError
from jepa_jax.evaluation.checks import check_probe_labels
from jepa_jax.evaluation.features import pixel_features, pooled_features
from jepa_jax.evaluation.knn import knn_accuracy
from jepa_jax.evaluation.linear import linear_probe_accuracy
from jepa_jax.parallel.processes import from_first
from jepa_jax.parallel.sharding import batch_parts, process_share

BATCH = 256  # images, or a few more where devices must share them; features do not depend on it


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
        parts = batch_parts(mesh)
        self._batch_size = parts * math.ceil(BATCH / parts)
        self._data = config.data
        self._neighbours = config.probe.neighbours
        self._splits = []
        self._classes = None
        test = open_source(config.data, config.data.test_split)
        for source, split, count in (
            (train, config.data.train_split, config.probe.train_images),
            (test, config.data.test_split, config.probe.test_images),
        ):
            if not source.labelled:
                reason = no_labels(config.data, split)
                raise UserError(f'{reason}; set data.test_split="" to train without probes')
            index = subset(len(source), count, config.seed)
            self._splits.append((source, index, self._labels(source, split, index)))
        check_probe_labels(self._splits[0][2])

    def _labels(self, source: Source, split: str, index: np.ndarray) -> np.ndarray:
        """Labels as the first split numbers its classes: each source numbers its own."""
        labels = source.labels(index)
        if self._classes is None:
            self._classes = source.classes
        if source.classes is None or source.classes == self._classes:
            return labels
        if unknown := sorted(set(source.classes) - set(self._classes or ())):
            raise UserError(
                f"split {split!r} has classes that {self._data.train_split!r} lacks:"
                f" {', '.join(unknown[:5])}; give both the same class folders"
            )
        number = {name: label for label, name in enumerate(self._classes)}
        return np.array([number[name] for name in source.classes], np.int32)[labels]

    def scores(self, model: ijepa.IJEPA, params: Any) -> dict[str, float]:
        """Accuracies {knn, linear} (0..1) of an encoder's pooled features."""
        return self._scores(lambda batches: pooled_features(model, params, batches, self._mesh))

    def pixel_scores(self) -> dict[str, float]:
        """The same of raw pixels."""
        return self._scores(lambda batches: pixel_features(batches, self._mesh))

    def _scores(self, features) -> dict[str, float]:
        train, test = (self._look(features, *split) for split in self._splits)
        return from_first(
            {
                "knn": knn_accuracy(*train, *test, neighbours=self._neighbours),
                "linear": linear_probe_accuracy(*train, *test),
            }
        )

    def _look(
        self, features, source: Source, index: np.ndarray, labels: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Features and labels of what can be read."""
        share = process_share(self._mesh)
        found = features(
            evaluation_batches(source, self._data, self._batch_size, index, shard=share)
        )
        sound = found.index == index  # the others are replaced by their neighbours
        return found.values[sound], labels[sound]
