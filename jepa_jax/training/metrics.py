"""What a run's features and predictions look like: numbers that tell learning from collapse.

The loss of I-JEPA says little: its targets move, so it may rise while features improve, and falls
to nothing when all features become the same. These numbers are taken every so many steps, from a
part of that step's batch: a forward pass without gradients. `doctor.py` says what they mean.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, Int

from jepa_jax import ijepa, losses
from jepa_jax.masks import Masks
from jepa_jax.models.vit import take_patches

IMAGES = 256  # looked at, at least, where a batch has as many: ranks are bounded by it


class Measures(NamedTuple):
    """Of n images, by the target encoder unless told otherwise; float32 scalars but for `gram`."""

    gram: Array  # (n, n), products of the images' centred average features
    feature_std: Array  # of the normalised patch features over patches and images, mean over D
    image_std: Array  # of the normalised average features over images, mean over D
    image_cosine: Array  # between the average features of two images, mean over pairs
    patch_cosine: Array  # between two patches of an image, mean over pairs and images
    target_scale: Array  # root mean square of the normalised features in the blocks: 1
    over_mean: Array  # the loss, as a share of the loss when always predicting the mean target
    over_place: Array  # the same for the mean at that place of the grid over the other images
    over_copy: Array  # the same for what would be the target of the nearest context patch
    overlap: Array  # share of the target patches that the context encoder sees
    target_gap: Array  # ‖θ - θ̄‖ / ‖θ̄‖
    variance_loss: Array  # VICReg's terms of the context's features: what a regularizer weighs;
    covariance_loss: Array  # 0: each deviates by 1 or more, and no two together


@functools.partial(jax.jit, static_argnums=0)
def measure(model: ijepa.IJEPA, state: ijepa.State, batch: ijepa.Batch) -> Measures:
    """The numbers of a state on some of a step's images, on all devices.

    They go through the networks in pieces no larger than the parts of the step, which may be all
    that there is memory for.
    """
    room = len(batch.images) // model.accumulate
    batch = part_of(batch, model.accumulate)
    if batch.masks.context.ndim > 2:  # several draws for each image: one is enough
        batch = batch._replace(masks=jax.tree.map(lambda x: x[:, 0], batch.masks))
    masks = batch.masks

    def through_networks(batch: ijepa.Batch) -> tuple[Array, Array, Array]:
        context = ijepa.context_features(model, state.params, batch)
        predictions = ijepa.predict(model, state.params, batch, context)
        return ijepa.encode_targets(model, state.target, batch.images), context, predictions

    pieces = math.ceil(len(batch.images) / room)
    features, context, predictions = _in_pieces(through_networks, batch, pieces)  # (n, N, D), …
    normal = losses.normalize_targets(features)
    pixels = model.targets == "pixels"
    of_patch = ijepa.normal_pixels(model, batch.images) if pixels else normal
    targets = take_patches(of_patch, masks.targets)  # (n, M, P, D)
    real = masks.real.astype(jnp.float32)  # (n, M, P)

    def mean(x: Array) -> Array:  # over real target patches; (n, M, P, ...) -> (...)
        return jnp.tensordot(real, x, 3) / real.sum()

    def loss(prediction: Array) -> Array:
        return ijepa.LOSSES[model.loss](prediction, targets, length=masks.target_length)

    others = (of_patch.sum(0, keepdims=True) - of_patch) / max(1, len(of_patch) - 1)
    apart = _distances(masks, model.predictor.grid[1])
    seen = jnp.broadcast_to(masks.context[:, None, None], apart.shape)
    nearest = jnp.take_along_axis(seen, apart.argmin(-1)[..., None], axis=-1)[..., 0]
    reached = loss(predictions)
    pooled = features.mean(1)
    centred = pooled - pooled.mean(0, keepdims=True)
    measures = Measures(
        gram=jnp.matmul(centred, centred.T, precision="highest"),
        feature_std=normal.std((0, 1)).mean(),
        image_std=losses.normalize_targets(pooled).std(0).mean(),
        image_cosine=_mean_cosine(pooled[None])[0],
        patch_cosine=_mean_cosine(features).mean(),
        # Of features also beside pixels, where a flat patch is sound and has less.
        target_scale=jnp.sqrt(mean(jnp.square(take_patches(normal, masks.targets)).mean(-1))),
        over_mean=reached / loss(jnp.broadcast_to(mean(targets), targets.shape)),
        over_place=reached / loss(take_patches(others, masks.targets)),
        over_copy=reached / loss(take_patches(of_patch, nearest)),
        overlap=mean((apart.min(-1) == 0).astype(jnp.float32)),
        target_gap=_gap(state.params["encoder"], state.target),
        variance_loss=losses.variance(context),
        covariance_loss=losses.covariance(context),
    )
    return jax.lax.with_sharding_constraint(measures, P())


def part_of(batch: ijepa.Batch, accumulate: int) -> ijepa.Batch:
    """IMAGES of a batch, or more where they do not divide it, from every device's share of it.

    They are one of the parts in which the step takes the batch, thinned out if it is large, or
    several whole ones.
    """
    size = len(jax.tree.leaves(batch)[0])
    rows = size // accumulate
    rows //= next(by for by in range(max(1, rows // IMAGES), 0, -1) if rows % by == 0)
    parts = size // rows
    taken = min(parts, math.ceil(IMAGES / rows))

    def take(x: Array) -> Array:  # parts that lie apart
        x = x.reshape(rows, parts, *x.shape[1:])[:, :: parts // taken][:, :taken]
        return x.reshape(-1, *x.shape[2:])

    return jax.tree.map(take, batch)


def _in_pieces(function: Callable[[Any], Any], batch: Any, pieces: int) -> Any:
    """function(batch), whose rows are apart, one piece of every device's share after the other."""
    if pieces == 1:
        return function(batch)

    def split(x: Array) -> Array:
        return jnp.moveaxis(x.reshape(-1, pieces, *x.shape[1:]), 1, 0)

    def join(x: Array) -> Array:
        return jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])

    return jax.tree.map(join, jax.lax.map(function, jax.tree.map(split, batch)))


def numbers(measures: Measures) -> dict[str, float | None]:
    """For metrics.jsonl; None for what is not finite.

    Beside the fields of `Measures`, of the spectrum λ of the images' average features:
      rank: the effective rank exp(entropy of σ / Σσ), σ = √λ, by which RankMe (Garrido et al. 2023)
        ranks encoders without labels; here of centred features. At most n - 1 and D.
      participation: (Σλ)² / Σλ².
      alpha: of λ ~ rank^-alpha (α-ReQ, Agrawal et al. 2022), fitted up to half of the spectrum.
    """
    found = {name: float(value) for name, value in measures._asdict().items() if name != "gram"}
    found |= spectrum(measures.gram)
    return {name: value if math.isfinite(value) else None for name, value in found.items()}


def eigenvalues(gram: Float[np.ndarray, "n n"]) -> Float[np.ndarray, " m"]:
    """Those above float32's rounding, the largest first; none if `gram` isn't finite."""
    if not np.isfinite(gram).all():
        return np.zeros(0)
    values = np.linalg.eigvalsh(np.asarray(gram, np.float64))[::-1]
    return values[values > 1e-7 * max(values[0], 0)]


def spectrum(gram: Float[np.ndarray, "n n"]) -> dict[str, float]:
    """rank, participation and alpha, see `numbers`; NaN where all features are the same.

    >>> round(spectrum(np.diag([1.0, 1.0, 1.0, 0.0]))["rank"], 6)
    3.0
    """
    if not np.isfinite(gram).all():
        return dict.fromkeys(("rank", "participation", "alpha"), math.nan)
    values = eigenvalues(gram)
    if not len(values):
        return {"rank": 1.0, "participation": 1.0, "alpha": math.nan}
    share = np.sqrt(values) / np.sqrt(values).sum()
    half = max(2, len(values) // 2)
    alpha = math.nan
    if len(values) > 2:
        place = np.log(np.arange(1, half + 1))
        alpha = -np.polyfit(place, np.log(values[:half]), 1)[0]
    return {
        "rank": float(np.exp(-(share * np.log(share)).sum())),
        "participation": float(values.sum() ** 2 / np.square(values).sum()),
        "alpha": float(alpha),
    }


def _distances(masks: Masks, columns: int) -> Int[Array, "n M P K"]:
    """Squared, in patches, from each target patch to each of the context."""
    target, context = masks.targets[..., None], masks.context[:, None, None]
    rows = target // columns - context // columns
    return jnp.square(rows) + jnp.square(target % columns - context % columns)


def _mean_cosine(x: Float[Array, "g n D"]) -> Float[Array, " g"]:
    """Over the pairs of different rows in each group."""
    unit = x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
    count = x.shape[1]
    # ‖Σ unit‖² sums over all pairs, each row with itself included.
    total = jnp.square(unit.sum(1)).sum(-1) - jnp.square(unit).sum((1, 2))
    return total / max(1, count * (count - 1))


def _gap(online, target) -> Array:
    difference = jax.tree.map(jnp.subtract, online, target)
    return optax.tree.norm(difference) / optax.tree.norm(target)
