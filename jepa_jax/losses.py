"""The losses of I-JEPA: distances between predicted and true features of target blocks.

A public API that needs nothing but jax. Each distance takes

    prediction, target   (..., M, P, D)  M blocks of at most P patches, D features
    length               (..., M)        how many of a block's P patches are real, or
    mask                 (..., M, P)     True where a patch is real

and gives a float32 scalar: the mean over all images, each of which counts the same however large
its blocks are. So the loss of a batch is the mean of the losses of its parts. What stands in
padded places has no effect, not even a NaN.

`variance` and `covariance` are of features alone, and keep them from collapsing. They are of a
batch as a whole, not the mean of those of its parts.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec as P


def normalize_targets(features: Array, *, eps: float = 1e-5) -> Array:
    """Layer norm of the target encoder's output over its features, without scale or bias.

    Args:
      features: (..., D), any float type.
      eps: added to the variance; 1e-5 in the published code, unlike the models' 1e-6.

    Returns:
      (..., D) float32.

    >>> import jax.numpy as jnp
    >>> normalize_targets(jnp.array([1.0, 3.0])).round(3).tolist()
    [-1.0, 1.0]
    """
    features = features.astype(jnp.float32)
    centred = features - features.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + eps)


def smooth_l1(
    prediction: Array,
    target: Array,
    *,
    length: Array | None = None,
    mask: Array | None = None,
    beta: float = 1.0,
) -> Array:
    """Mean over an image's real patches and features: what the published code trains.

    Quadratic for differences below `beta`, linear above (at beta=1, Huber's loss). Shapes as in
    the module's docstring.

    >>> import jax.numpy as jnp
    >>> prediction = jnp.array([[[0.5], [3.0], [9.0]]])  # one block of three patches, one feature
    >>> smooth_l1(prediction, jnp.zeros((1, 3, 1)), length=jnp.array([2])).item()
    1.3125
    """
    if beta <= 0:
        raise ValueError(f"beta={beta} must be above 0; l1 is the limit")
    difference, valid = _compare(prediction, target, length, mask)
    distance = jnp.abs(difference)
    loss = jnp.where(distance < beta, 0.5 * jnp.square(distance) / beta, distance - 0.5 * beta)
    return _mean_over_patches(loss.mean(-1), valid)


def l1(
    prediction: Array, target: Array, *, length: Array | None = None, mask: Array | None = None
) -> Array:
    """Absolute difference, mean over an image's real patches and features (as in V-JEPA).

    >>> import jax.numpy as jnp
    >>> l1(jnp.array([[[0.5], [3.0]]]), jnp.zeros((1, 2, 1))).item()
    1.75
    """
    difference, valid = _compare(prediction, target, length, mask)
    return _mean_over_patches(jnp.abs(difference).mean(-1), valid)


def l2(
    prediction: Array, target: Array, *, length: Array | None = None, mask: Array | None = None
) -> Array:
    """The paper's loss: (1/M) Σ_i Σ_{j∈B_i} ‖ŝ_j − s_j‖² (section 3, "Loss").

    Squared distances are summed over features and over a block's patches, and averaged over blocks
    and images: about P·D times as large as a mean over everything.

    >>> import jax.numpy as jnp
    >>> prediction = jnp.array([[[0.5, 0.5], [3.0, 1.0]], [[1.0, 0.0], [7.0, 7.0]]])
    >>> l2(prediction, jnp.zeros((2, 2, 2)), length=jnp.array([2, 1])).item()  # (10.5 + 1) / 2
    5.75
    """
    difference, _ = _compare(prediction, target, length, mask)
    return jnp.square(difference).sum((-2, -1)).mean()


def variance(features: Array, *, minimum: float = 1.0, eps: float = 1e-4) -> Array:
    """How far standard deviations are below `minimum`, mean over features (VICReg, equation 1).

    Args:
      features: (..., D); they vary over all axes but the last, such as images and patches.
      eps: added to the variance, whose root has an endless slope at 0.

    Returns:
      A float32 scalar.

    >>> import jax.numpy as jnp
    >>> round(variance(jnp.array([[0.0, 4.0], [0.0, 8.0]])).item(), 3)  # .01 and √8
    0.495
    """
    centred, others, rows = _centred(features)
    deviation = jnp.sqrt(jnp.square(centred).sum(rows) / others + eps)
    return jnp.maximum(minimum - deviation, 0.0).mean()


def covariance(features: Array) -> Array:
    """Squared covariances of any two different features, over D (VICReg, equation 4).

    Args:
      features: (..., D); they vary over all axes but the last, such as images and patches.

    Returns:
      A float32 scalar.

    >>> import jax.numpy as jnp
    >>> covariance(jnp.array([[1.0, 1.0], [-1.0, -1.0]])).item()  # 2², in either order, over D = 2
    4.0
    """
    centred, others, rows = _centred(features)
    # On a mesh of explicit axes it has to be said that each device has the whole product.
    whole = P() if jax.sharding.get_abstract_mesh().explicit_axes else None
    products = jax.lax.dot_general(centred, centred, ((rows, rows), ((), ())), out_sharding=whole)
    covariances = products / others
    different = ~jnp.eye(len(covariances), dtype=bool)
    return jnp.square(jnp.where(different, covariances, 0.0)).sum() / len(covariances)


def _centred(features: Array) -> tuple[Array, int, tuple[int, ...]]:
    """float32 (..., D), each feature with a mean of 0; by what to divide; axes of what varies."""
    features = features.astype(jnp.float32)
    rows = tuple(range(features.ndim - 1))  # not made one: on a mesh, they may lie on several
    others = max(1, features.size // features.shape[-1] - 1)
    return features - features.mean(rows, keepdims=True), others, rows


def _compare(
    prediction: Array, target: Array, length: Array | None, mask: Array | None
) -> tuple[Array, Array]:
    """Differences in float32, zero in padded places, and which places are real: (..., M, P)."""
    if prediction.shape != target.shape or prediction.ndim < 3:
        raise ValueError(
            "prediction and target must both be (..., M, P, D),"
            f" not {prediction.shape} and {target.shape}"
        )
    valid = _valid(prediction.shape[:-1], length, mask)
    # Before the subtraction: a NaN that is left out later would still spoil the gradient.
    prediction, target = (
        jnp.where(valid[..., None], features.astype(jnp.float32), 0.0)
        for features in (prediction, target)
    )
    return prediction - target, valid


def _valid(shape: tuple[int, ...], length: Array | None, mask: Array | None) -> Array:
    """Bool of this shape, from whichever of the two is given."""
    if length is not None and mask is not None:
        raise ValueError("give length or mask, not both")
    if length is not None:
        length = jnp.asarray(length, jnp.int32)
        if length.shape != shape[:-1]:
            raise ValueError(f"length must be (..., M) {shape[:-1]}, not {length.shape}")
        return jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1) < length[..., None]
    if mask is not None:
        mask = jnp.asarray(mask)
        if mask.shape != shape or mask.dtype != bool:
            raise ValueError(f"mask must be bool {shape}, not {mask.dtype} {mask.shape}")
        return mask
    return jnp.ones(shape, bool)


def _mean_over_patches(loss: Array, valid: Array) -> Array:
    """(..., M, P) -> (): over an image's real patches, then over images."""
    count = jnp.maximum(valid.sum((-2, -1)), 1).astype(jnp.float32)
    return (loss.sum((-2, -1)) / count).mean()
