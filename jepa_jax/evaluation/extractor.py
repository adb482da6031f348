"""Features of splits by a backbone, from the cache where they are there."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from jepa_jax.console import new_console, progress_bar
from jepa_jax.data.transforms import EvalView
from jepa_jax.evaluation.backbones import Backbone, digest
from jepa_jax.evaluation.cache import cached_features
from jepa_jax.evaluation.features import Features, Rows, mesh_batches
from jepa_jax.evaluation.splits import Split
from jepa_jax.training.about import data_identity

SHARD, DENSE_SHARD = 1024, 64  # images of a part of the cache; of one with features of each patch


@dataclasses.dataclass(frozen=True)
class Extractor:
    """What `Task.extract` is, for images.

    Attributes:
      data: where the images come from.
      folder: of the cache.
      whole: whether to see the whole image, whatever the backbone would.
    """

    backbone: Backbone
    data: ConfigDict
    mesh: jax.sharding.Mesh
    folder: pathlib.Path
    console: Console = dataclasses.field(default_factory=lambda: new_console(quiet=True))
    whole: bool = False
    _found: dict[str, Features] = dataclasses.field(default_factory=dict)

    @property
    def view(self) -> EvalView:
        """What is seen of an image."""
        view = self.backbone.view
        return dataclasses.replace(view, whole=True) if self.whole else view

    def __call__(self, split: Split, layers: int = 1, patches: bool = False) -> Features:
        """See `Task.features`, but with what replaces images that cannot be read.

        Raises:
          UserError: if the backbone has no such features, or too many images in a row cannot be
            read.
        """
        about = {
            "backbone": self.backbone.identity,
            "view": dataclasses.asdict(self.view),
            "images": images_identity(split),
            "layers": layers,
            "patches": patches,
        }
        name = digest(about)
        if name not in self._found:  # its checksums are looked at once
            shard = DENSE_SHARD if patches else SHARD

            def compute(rows: np.ndarray) -> Iterator[Rows]:
                return self._compute(split, rows, layers, patches)

            self._found[name] = cached_features(self.folder / name, split.index, compute, shard)
        return self._found[name]

    def _compute(
        self, split: Split, rows: np.ndarray, layers: int, patches: bool
    ) -> Iterator[Rows]:
        batches = mesh_batches(
            split.source, self.data, split.index[rows], self.mesh, view=self.view
        )
        with progress_bar(self.console, f"features of {split.name}") as bar:
            task = bar.add_task("", total=len(split), completed=len(split) - len(rows), values="")
            for found in self.backbone.stream(batches, self.mesh, layers, patches):
                bar.advance(task, len(found.place))
                yield found


def images_identity(split: Split) -> dict[str, Any]:
    """Which images a split has, as far as a sample of them tells."""
    index = hashlib.sha256(np.asarray(split.index, np.int64).tobytes()).hexdigest()[:16]
    return data_identity(split.source) | {"index": index}
