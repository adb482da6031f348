"""The pictures of a checkpoint: what `launch/visualize.py` draws."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from jepa_jax import ijepa, losses, masks
from jepa_jax.config import grid, mask_spec
from jepa_jax.console import new_console, say
from jepa_jax.data.loader import evaluation_images
from jepa_jax.data.sources import Source, open_source
from jepa_jax.data.subset import spread, subset
from jepa_jax.errors import UserError, did_you_mean
from jepa_jax.interop.runs import read_run
from jepa_jax.visualize.attention import attention_overview, attention_weights
from jepa_jax.visualize.map import NoMap, feature_map, tsne
from jepa_jax.visualize.masks import mask_overlay
from jepa_jax.visualize.pca import pca_overview, pca_steps
from jepa_jax.visualize.prediction import block_agreement, prediction_overview
from jepa_jax.visualize.retrieval import retrieval_overview
from jepa_jax.visualize.similarity import centred, salient, similarity_overview
from jepa_jax.visualize.trained import Trained, read_trained

QUERIES = 4  # patches whose likes are shown


@dataclasses.dataclass(frozen=True)
class Scene:
    """What the pictures are of: a trained model, a few images to show, and many to compare with."""

    trained: Trained
    source: Source
    shown: np.ndarray  # examples of the source
    others: np.ndarray  # none of those

    @functools.cached_property
    def images(self) -> np.ndarray:
        """(n, H, W, C) uint8"""
        return self._read(self.shown)

    @functools.cached_property
    def features(self) -> np.ndarray:
        """(n, N, D) of the target encoder."""
        return self.trained.encoder.patch_features(self.images)

    @functools.cached_property
    def bank_images(self) -> np.ndarray:
        """(m, H, W, C) uint8"""
        return self._read(self.others)

    @functools.cached_property
    def bank(self) -> np.ndarray:
        """(m, N, D) of the target encoder."""
        return self.trained.encoder.patch_features(self.bank_images)

    @functools.cached_property
    def bank_targets(self) -> np.ndarray:
        """(m, N, D) of the bank's patches, as the loss has its targets."""
        model = self.trained.model
        if model.targets == "pixels":
            return np.asarray(ijepa.normal_pixels(model, jnp.asarray(self.bank_images)))
        return np.asarray(losses.normalize_targets(jnp.asarray(self.bank)))

    @functools.cached_property
    def masks(self) -> masks.Masks:
        config = self.trained.config
        return masks.sample(jax.random.key(config.seed), mask_spec(config), len(self.images))

    @functools.cached_property
    def predictions(self) -> tuple[np.ndarray, np.ndarray]:
        """(n, M, P, D) predicted and true."""
        return self.trained.predictions(self.images, self.masks)

    @property
    def grid(self) -> tuple[int, int]:
        return grid(self.trained.config)

    def _read(self, index: np.ndarray) -> np.ndarray:
        return evaluation_images(self.source, self.trained.config.data, index)


def _masks(scene: Scene, path: epath.Path) -> None:
    mask_overlay(scene.images, scene.masks, scene.grid, path)


def _features(scene: Scene, path: epath.Path) -> None:
    pca_overview(scene.images, scene.features, scene.grid, path)


def _attention(scene: Scene, path: epath.Path) -> None:
    encoder = scene.trained.encoder
    weights = attention_weights(encoder.backbone, encoder.params, jnp.asarray(scene.images))
    queries = salient(centred(scene.features, scene.bank))
    attention_overview(scene.images, np.asarray(weights), queries, scene.grid, path)


def _similarity(scene: Scene, path: epath.Path) -> None:
    features = centred(scene.features, scene.bank)
    queries = list(enumerate(salient(features)))[:QUERIES]
    similarity_overview(scene.images, features, queries, scene.grid, path)


def _predictions(scene: Scene, path: epath.Path) -> None:
    usual = scene.bank_targets.mean(0)
    agreement = block_agreement(*scene.predictions, scene.masks, usual)
    prediction_overview(scene.images, scene.masks, agreement, scene.grid, path)


def _retrieval(scene: Scene, path: epath.Path) -> None:
    bank = scene.bank_images, scene.bank_targets
    retrieval_overview(scene.images, scene.masks, *scene.predictions, *bank, scene.grid, path)


def _map(scene: Scene, path: epath.Path) -> None:
    labels = scene.source.labels(scene.others) if scene.source.labelled else None
    places = tsne(scene.bank.mean(1), scene.trained.config.seed)
    feature_map(scene.bank_images, places, path, labels, scene.source.classes)


PICTURES: dict[str, Callable[[Scene, epath.Path], None]] = {
    "masks": _masks,
    "features": _features,
    "attention": _attention,
    "similarity": _similarity,
    "predictions": _predictions,
    "retrieval": _retrieval,
    "map": _map,
}
STEPS = "steps"  # of all checkpoints of a run, which the others know one of


def visualize(
    path: epath.PathLike,
    what: Sequence[str] = (),
    out: epath.PathLike | None = None,
    *,
    images: int = 8,
    bank: int = 512,
    data: dict[str, Any] | None = None,
) -> list[epath.Path]:
    """Draws pictures of a run's checkpoint; what each shows is told by the function it is drawn by.

    Args:
      path: the run's folder, or one of its checkpoints; else it is the newest.
      what: keys of PICTURES, or "steps": PCA maps at all checkpoints that are kept. None: all,
        but for a map where none can be made.
      out: the folder to write into; None: `pictures` in the run's.
      images: to show; at most half of them all.
      bank: other images to compare with.
      data: what differs from the data section of the run's config, such as {"path": …}.

    Returns:
      The files.

    Raises:
      UserError: for unknown pictures, and if the checkpoint or the images cannot be read.
    """
    known = (*PICTURES, STEPS)
    for name in what:
        if name not in known:
            raise UserError(
                f"--what={name} is none of {', '.join(known)}{did_you_mean(name, known)}"
            )
    trained = read_trained(path)
    out = epath.Path(out).expanduser() if out else trained.folder.parent.parent / "pictures"
    with trained.config.unlocked():
        trained.config.data.update(data or {})
    config = trained.config.data
    source = open_source(config, config.test_split or config.train_split)
    if len(source) < 2:
        raise UserError("a single image has none to compare it with: name more in data.path")
    shown = spread(len(source), min(images, len(source) // 2))  # others are compared with them
    others = np.setdiff1d(subset(len(source), bank + len(shown), trained.config.seed), shown)
    scene = Scene(trained, source, shown, others[:bank])
    console, files = new_console(), []
    for name in what or known:
        file = out / f"{name}.png"
        try:
            if name == STEPS:
                _steps(scene, file)
            else:
                PICTURES[name](scene, file)
        except NoMap as problem:
            if what:
                raise
            say(console, f"{name} is left out: {problem}")
            continue
        files.append(file)
        say(console, f"{name}: {file}")
    return files


def _steps(scene: Scene, path: epath.Path) -> None:
    folder, features = scene.trained.folder.parent, {}
    for step in sorted(ocp.utils.checkpoint_steps(folder)):
        encoder = read_run(folder / str(step), "target")
        features[step] = encoder.patch_features(scene.images)
    pca_steps(scene.images, features, scene.grid, path)
