"""What the probes demand of their input and their options."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jepa_jax.errors import UserError


def check_probe_input(
    train_features: Float[np.ndarray, "n D"],
    train_labels: Int[np.ndarray, "n"],
    test_features: Float[np.ndarray, "m D"],
    test_labels: Int[np.ndarray, "m"],
) -> None:
    """Raises UserError unless the four go together and training has two classes or more."""
    for split, features, labels in (
        ("training", train_features, train_labels),
        ("test", test_features, test_labels),
    ):
        if np.ndim(features) != 2:
            raise UserError(
                f"{split} features have shape {np.shape(features)}: give (images, width), "
                "for example by averaging over patches"
            )
        if np.shape(labels) != (len(features),) or len(features) == 0:
            raise UserError(
                f"{split} labels have shape {np.shape(labels)} for {len(features)} images: "
                "give one label for each image, and at least one image"
            )
        if not np.issubdtype(np.asarray(labels).dtype, np.integer):
            raise UserError(f"{split} labels are {np.asarray(labels).dtype}: give integers")
        if not np.isfinite(features).all():
            raise UserError(
                f"{split} features hold NaN or infinity: take a checkpoint from before the "
                "run diverged"
            )
    widths = train_features.shape[1], test_features.shape[1]
    if widths[0] != widths[1]:
        raise UserError(
            f"training features are {widths[0]} wide and test features {widths[1]}: "
            "take both from the same model and layer"
        )
    check_probe_labels(train_labels)


def check_probe_labels(train_labels: Int[np.ndarray, "n"], remedy: str = "") -> None:
    """Raises UserError, whose end is the remedy, unless there are two classes or more."""
    classes = len(np.unique(train_labels))
    if classes < 2:
        raise UserError(
            f"the training labels hold {classes} class: give images of at least two, "
            f"for example by shuffling before taking a part{remedy}"
        )


def check_options(
    options: Any,
    *,
    some: Sequence[str] = (),
    positive: Sequence[str] = (),
    not_negative: Sequence[str] = (),
) -> None:
    """Raises UserError, which begins with the option's name, for values that cannot be.

    Args:
      some: names of tuples that may not be empty.
      positive, not_negative: names of numbers, or of tuples of them.
    """
    for name in some:
        if not getattr(options, name):
            raise UserError(f"{name}: give one at least")
    for names, fits, range_ in (
        (positive, lambda number: number > 0, "above zero"),
        (not_negative, lambda number: number >= 0, "of zero or more"),
    ):
        for name in names:
            value = getattr(options, name)
            for number in value if isinstance(value, tuple) else (value,):
                if not fits(number):
                    raise UserError(f"{name}={number:g}: give a value {range_}")
