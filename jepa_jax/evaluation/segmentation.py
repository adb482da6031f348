"""Segmentation as a dense probe: a linear classifier on each patch says what its pixels show.

It learns from the shares that classes have of a patch. To test it, its scores are interpolated
between patches to the size of the image.
"""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, UInt8

from jepa_jax.data.protocol import has_masks
from jepa_jax.errors import UserError
from jepa_jax.evaluation.heads import Examples, Problem, Recipe, train_heads
from jepa_jax.evaluation.lowlevel import synthetic_images
from jepa_jax.evaluation.splits import Split
from jepa_jax.evaluation.task import Protocol, Result, Task
from jepa_jax.models.vit import patchify

UNLABELLED = 255  # in masks: pixels that count for nothing


class PatchHead(nn.Module):
    """A linear classifier of each patch."""

    classes: int

    @nn.compact
    def __call__(self, patches: Float[Array, "B N D"]) -> Float[Array, "B N C"]:
        initial = nn.initializers.normal(0.01)
        return nn.Dense(self.classes, kernel_init=initial, name="output")(patches)


@dataclass(frozen=True)
class Pixels:
    """What patches and pixels have to do with each other.

    Attributes:
      grid: rows and columns of patches.
      side: of a patch, in pixels.
    """

    grid: tuple[int, int]
    side: int
    classes: int

    def shares(self, masks: UInt8[Array, "B H W"]) -> Float[Array, "B N C"]:
        """Of each patch, how much of it is of each class."""
        patches = patchify(masks[..., None], self.side)
        # Class by class: masks of all classes at once would not fit into memory.
        numbers = jnp.arange(self.classes, dtype=masks.dtype)
        found = jax.lax.map(lambda number: (patches == number).mean(-1), numbers)
        return jnp.moveaxis(found, 0, -1)

    def loss(self, logits: Float[Array, "B N C"], masks: UInt8[Array, "B H W"]) -> Array:
        """The average cross entropy of labelled pixels, if all of a patch have its scores."""
        shares = self.shares(masks)
        entropy = -(shares * jax.nn.log_softmax(logits)).sum()
        return entropy / jnp.maximum(shares.sum(), 1e-6)

    def confusion(
        self, logits: Float[Array, "B N C"], masks: UInt8[Array, "B H W"]
    ) -> Int[Array, "C C"]:
        """How many pixels are of the first class and taken for the second."""

        def of_one(image):
            logits, mask = image
            scores = logits.reshape(*self.grid, self.classes)
            scores = jax.image.resize(scores, (*mask.shape, self.classes), "linear")
            place = mask.astype(jnp.int32) * self.classes + scores.argmax(-1)
            counts = jnp.zeros(self.classes**2, jnp.int32)
            # Pixels without a label lie beyond the end.
            return counts.at[place.ravel()].add(jnp.int32(1), mode="drop")

        counts = jax.lax.map(of_one, (logits, masks)).sum(0)
        return counts.reshape(self.classes, self.classes)


def class_iou(confusion: Int[np.ndarray, "C C"]) -> Float[np.ndarray, " C"]:
    """Intersection over union of each class; NaN of one that is neither there nor predicted."""
    both = np.diag(confusion)
    either = confusion.sum(0) + confusion.sum(1) - both
    return np.where(either > 0, both / np.maximum(either, 1), np.nan)


def mean_iou(confusion: Int[np.ndarray, "C C"]) -> float:
    return float(np.nanmean(class_iou(confusion)))


@dataclass(frozen=True)
class Options(Recipe):
    """A linear head bears higher rates, and an image gives many patches to a batch."""

    learning_rates: tuple[float, ...] = (3e-3, 1e-2, 3e-2, 1e-1)
    epochs: int = 10
    batch_size: int = 64


def run(task: Task, options: Options) -> Result:
    """Mean IoU and pixel accuracy, the IoU of each class, and what the commonest class gets.

    Raises:
      UserError: if the images have no masks, or no pixel with a class, or there are no features of
        patches.
    """
    train, test = (_examples(task, split, options.layers) for split in (task.train, task.test))
    classes = _classes(train.targets)
    if len(task.train) < len(task.train.source):  # the other images may show more
        classes = max(classes, _classes(test.targets))
    names = getattr(task.train.source, "mask_classes", None) or tuple(map(str, range(classes)))
    if _classes(test.targets) > len(names):
        raise UserError(
            f"masks of split {task.test.name!r} have class {_classes(test.targets) - 1}, which"
            f" {task.train.name!r} lacks"
        )
    grid, side = _grid(task.train.name, train)
    pixels = Pixels(grid, side, len(names))
    problem = Problem(PatchHead(len(names)), pixels.loss, pixels.confusion, mean_iou)
    found = train_heads(problem, train, test, options, seed=task.seed)
    confusion = found.tally
    share = confusion.sum(1) / confusion.sum()
    common = int(np.argmax(share))
    present = int((share > 0).sum())
    rows = {
        f"all, learning rate {found.chosen:g}": {
            "mean IoU": mean_iou(confusion),
            "pixel accuracy": float(np.trace(confusion) / confusion.sum()),
        },
        f"always {names[common]!r}": {
            "mean IoU": float(share[common] / present),
            "pixel accuracy": float(share[common]),
        },
    }
    for name, iou in zip(names, class_iou(confusion), strict=True):
        if np.isfinite(iou):
            rows[f"only {name!r}"] = {"mean IoU": float(iou)}
    details = {
        "curve": [point._asdict() for point in found.curve],
        "confusion": confusion.tolist(),
        "held_out": {f"{rate:g}": score for rate, score in found.held_out.items()},
    }
    return Result(mean_iou(confusion), rows, "mean IoU", details)


def _examples(task: Task, split: Split, layers: int) -> Examples:
    """Features of patches, and masks as the encoder sees their images."""
    if not has_masks(split.source) or task.view is None:
        raise UserError(
            f"the images of split {split.name!r} have no masks, or not all of them: give npz files"
            " with an array 'masks', or take the protocol synthetic_segmentation"
        )
    found = task.extract(split, layers, True)
    sound = task.sound(split, found.index)
    values = found.values if sound.all() else found.values[sound]
    masks = np.stack([task.view.of_mask(split.source.mask(int(i))) for i in split.index[sound]])
    if (masks == UNLABELLED).all():
        raise UserError(
            f"the masks of split {split.name!r} have no pixel with a class, but {UNLABELLED}"
            " everywhere: take images whose classes are known"
        )
    return Examples(values, masks)


def _classes(masks: UInt8[np.ndarray, "n H W"]) -> int:
    return int(np.max(masks, where=masks != UNLABELLED, initial=0)) + 1


def _grid(name: str, examples: Examples) -> tuple[tuple[int, int], int]:
    """Rows and columns of square patches, and their side."""
    height, width = examples.targets.shape[1:]
    count = examples.features.shape[1]
    side = round((height * width / count) ** 0.5)
    grid = height // side, width // side
    if (grid[0] * side, grid[1] * side, grid[0] * grid[1]) != (height, width, count):
        raise UserError(
            f"{count} features of an image of {name!r} are no square patches of {height}×{width}"
            " pixels: segmentation needs one feature a patch"
        )
    return grid, side


SEGMENTATION = Protocol("segmentation", Options, run, needs="masks")
SYNTHETIC_SEGMENTATION = Protocol(
    "synthetic_segmentation",
    Options,
    run,
    needs="masks",
    images=lambda data, options, size: synthetic_images(data, "count", size),
)
