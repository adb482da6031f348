"""Counting objects and telling how near the nearest is: linear probes, as VTAB defines the tasks.

On CLEVR, where TFDS has prepared it, and on our synthetic pictures, which need no download. Images
are seen whole: a crop would cut off what is to be counted.
"""

from dataclasses import dataclass

from ml_collections import ConfigDict

from jepa_jax.data.sources import other_images
from jepa_jax.evaluation import linear
from jepa_jax.evaluation.task import Protocol


@dataclass(frozen=True)
class Clevr(linear.Options):
    """The linear probe's options, and where CLEVR is.

    Attributes:
      folder: where TFDS keeps its data sets; empty: at its usual place.
    """

    folder: str = ""


def synthetic_images(data: ConfigDict, label: str, size: tuple[int, int]) -> ConfigDict:
    """The section `data` for our synthetic pictures."""
    splits = {"train_split": "train", "test_split": "test"}
    return other_images(
        data, source="synthetic", path="", name=label, image_size=size, channels=3, **splits
    )


def _clevr_images(data: ConfigDict, label: str, folder: str) -> ConfigDict:
    splits = {"train_split": "train", "test_split": "validation"}
    return other_images(data, source="clevr", path=folder, name="clevr", label_key=label, **splits)


def _on_synthetic(label: str) -> Protocol:
    return Protocol(
        f"synthetic_{label}",
        linear.Options,
        linear.run,
        images=lambda data, options, size: synthetic_images(data, label, size),
    )


def _on_clevr(label: str) -> Protocol:
    return Protocol(
        f"clevr_{label}",
        Clevr,
        linear.run,
        images=lambda data, options, size: _clevr_images(data, label, options.folder),
    )


LOW_LEVEL = (
    *map(_on_synthetic, ("count", "distance")),
    *map(_on_clevr, ("count", "distance")),
)
