"""The method: I-JEPA as in figure 3 of Assran et al. 2023, in pure functions.

context encoder f_θ    sees the context patches                  -> s_x
target encoder  f_θ̄   sees the whole image; its blocks are s_y
predictor       g_φ    from s_x and a block's positions          -> ŝ_y
loss                   distance between ŝ_y and s_y
θ, φ by gradient descent; θ̄ follows θ as a moving average
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array

from jepa_jax import losses
from jepa_jax.masks import Masks
from jepa_jax.models.predictor import Predictor
from jepa_jax.models.vit import Encoder, patchify, take_patches
from jepa_jax.optim import AdamW, Schedules, moving_average
from jepa_jax.parallel.replicas import mean_over_replicas

SETTLED = 100  # updates after which the gradient norm has a usual size
MEMORY = 0.99  # of the moving average that says which

TARGETS = ("features", "pixels")
LOSSES = {"smooth_l1": losses.smooth_l1, "l2": losses.l2, "l1": losses.l1}


@dataclasses.dataclass(frozen=True)
class IJEPA:
    """What a run is made of and never changes: two modules and how they are trained."""

    encoder: Encoder
    predictor: Predictor
    optimizer: AdamW
    schedules: Schedules
    targets: str = "features"
    target_dtype: Any = None  # of the target encoder's products, if another than the encoder's
    loss: str = "smooth_l1"
    variance_weight: float = 0.0  # of VICReg's terms beside the loss; 0: without, the method
    covariance_weight: float = 0.0
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # of the pixels in 0..1, by channel
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    accumulate: int = 1  # parts in which a batch goes through
    spike: float | None = None  # times the usual gradient norm, beyond which nothing is changed

    def __post_init__(self):
        for name, value, choices in (
            ("targets", self.targets, TARGETS),
            ("loss", self.loss, LOSSES),
        ):
            if value not in choices:
                raise ValueError(f"{name} {value!r}: take one of {', '.join(choices)}")


class Guard(NamedTuple):
    """What is remembered to tell a sound gradient from one to leave out."""

    usual_norm: Array  # () float32, moving average of the gradient norm
    in_a_row: Array  # () int32, updates left out in a row


def new_guard() -> Guard:
    return Guard(jnp.float32(0), jnp.int32(0))


class State(flax.struct.PyTreeNode):
    """What a run changes. float32, but for the first moment if the config says so."""

    step: Array  # () int32, finished steps
    params: dict[str, Any]  # {"encoder": θ, "predictor": φ}
    target: Any  # θ̄, a tree like params["encoder"]
    opt_state: optax.OptState
    guard: Guard = flax.struct.field(default_factory=new_guard)


class Batch(NamedTuple):
    images: Array  # (B, Y, X, C) uint8, or float if already normalised
    masks: Masks  # of arrays (B, ...), or (B, R, ...) with R draws for each image; of their grid


class Metrics(NamedTuple):
    """Of one step; float32 scalars, counts int32."""

    loss: Array
    learning_rate: Array
    weight_decay: Array
    momentum: Array
    gradient_norm: Array
    encoder_gradient: Array  # norm of its part of the gradient
    predictor_gradient: Array
    encoder_update: Array  # norm of what the step adds to its parameters, if it is sound
    predictor_update: Array
    skipped: Array  # updates left out since the run began
    skipped_in_a_row: Array  # up to this step; 0 if its update was made


def init(model: IJEPA, key: Array, image_shape: tuple[int, int, int]) -> State:
    """Parameters as the reference draws them; the target encoder starts as a copy.

    Args:
      key: a typed random key.
      image_shape: height, width, channels of the images to come.

    Raises:
      ValueError: if the predictor's grid is not that of the images' patches.
    """
    height, width, _ = image_shape
    patch_size = model.encoder.patch_size
    if (grid := (height // patch_size, width // patch_size)) != tuple(model.predictor.grid):
        raise ValueError(
            f"images have a grid of {grid} patches, the predictor of {model.predictor.grid}"
        )
    encoder_key, predictor_key = jax.random.split(key)
    image = jnp.zeros((1, *image_shape), jnp.float32)
    patch = jnp.zeros((1, 1), jnp.int32)
    encoder = model.encoder.init(encoder_key, image, patch)["params"]
    features = jnp.zeros((1, 1, model.encoder.width), jnp.float32)
    predictor = model.predictor.init(
        predictor_key, features, patch, patch[None], jnp.ones((1, 1), jnp.int32)
    )["params"]
    params = {"encoder": encoder, "predictor": predictor}
    return State(
        step=jnp.int32(0),
        params=params,
        target=jax.tree.map(jnp.copy, encoder),  # buffers of its own: the state is donated
        opt_state=model.optimizer.init(params),
    )


def normalize(model: IJEPA, images: Array) -> Array:
    """uint8 pixels -> float32 with the data's mean and deviation; floats pass as they are."""
    if not jnp.issubdtype(images.dtype, jnp.integer):
        return images
    mean, std = (
        jnp.asarray(value, jnp.float32)[None, None, None] for value in (model.mean, model.std)
    )
    return (images.astype(jnp.float32) / 255.0 - mean) / std


def encode(
    model: IJEPA, params: Any, images: Array, patches: Array | None = None, layers: int = 1
) -> Array:
    """Features (B, K, D) of the images' patches: all of them, or (B, K) chosen ones.

    Of R choices for each image, (B, R, K), they are (B, R, K, D). With several layers
    (B, K, layers · D): the last ones, as `Encoder` gives them.
    """
    return model.encoder.apply({"params": params}, normalize(model, images), patches, layers)


def encode_targets(model: IJEPA, target: Any, images: Array) -> Array:
    """Features (B, N, D) of all patches by θ̄, in the precision of the targets of the loss."""
    if model.target_dtype is not None:
        model = dataclasses.replace(model, encoder=model.encoder.clone(dtype=model.target_dtype))
    return encode(model, target, images)


def target_features(model: IJEPA, target: Any, batch: Batch) -> Array:
    """s_y (B, M, P, D): the target encoder sees the whole image, then its blocks are cut out.

    (B, R, M, P, D) for R draws of masks, which share what the target encoder says of their image.
    With `targets="pixels"` they are the blocks' own pixels, (B, [R,] M, P, F).
    """
    if model.targets == "pixels":
        patches = normal_pixels(model, batch.images)
    else:
        patches = losses.normalize_targets(encode_targets(model, target, batch.images))
    return jax.lax.stop_gradient(take_patches(patches, batch.masks.targets))


def normal_pixels(model: IJEPA, images: Array) -> Array:
    """(B, N, F): each patch's own pixels, normalised as MAE's targets are.

    What the paper compares predicted features with ("Predicting in representation space").
    """
    return losses.normalize_targets(patchify(normalize(model, images), model.encoder.patch_size))


def context_features(model: IJEPA, params: dict[str, Any], batch: Batch) -> Array:
    """s_x (B, [R,] K, D): what the context encoder says of the patches it sees."""
    return encode(model, params["encoder"], batch.images, batch.masks.context)


def predict(
    model: IJEPA, params: dict[str, Any], batch: Batch, context: Array | None = None
) -> Array:
    """ŝ_y (B, [R,] M, P, D), with pixels (…, F): what the predictor says of the blocks from s_x.

    Args:
      context: s_x, where it is known already.
    """
    masks = batch.masks
    context = context_features(model, params, batch) if context is None else context
    return model.predictor.apply(
        {"params": params["predictor"]},
        context,
        masks.context,
        masks.targets,
        masks.target_length,
    )


def loss(model: IJEPA, params: dict[str, Any], target: Any, batch: Batch) -> Array:
    """Distance between predicted and true features of the target blocks: a float32 scalar."""
    return objective(model, params, target, batch)[1]


def objective(
    model: IJEPA, params: dict[str, Any], target: Any, batch: Batch
) -> tuple[Array, Array]:
    """What is minimised, and the loss, which is the same unless VICReg's terms have weights.

    The terms keep features from collapsing to a few dimensions: variance and covariance of s_x over
    all patches of all images (Bardes et al. 2022, arXiv 2105.04906; Mo & Tong 2024, arXiv
    2410.19560, join VICReg, and its invariance as well, to I-JEPA). What they do not prevent:
    features that tell places apart and not images, and, of one term alone, the final norm's scale
    that meets it.
    """
    context = context_features(model, params, batch)
    distance = LOSSES[model.loss](
        predict(model, params, batch, context),
        target_features(model, target, batch),
        length=batch.masks.target_length,
    )
    total = distance
    if model.variance_weight:
        total += model.variance_weight * losses.variance(context)
    if model.covariance_weight:
        total += model.covariance_weight * losses.covariance(context)
    return total, distance


def loss_and_gradient(model: IJEPA, state: State, batch: Batch) -> tuple[Array, Any]:
    """The loss, and the gradient of what is minimised, over the whole batch.

    The batch goes through in `model.accumulate` parts, one after the other. VICReg's terms are of
    each part.
    """

    def gradient(params, target, batch):
        minimised = functools.partial(objective, model)
        (_, value), slope = jax.value_and_grad(minimised, has_aux=True)(params, target, batch)
        return value, slope

    if model.accumulate == 1:
        return gradient(state.params, state.target, batch)

    def split(x):  # every part takes from every device's share of the batch
        return jnp.moveaxis(x.reshape(-1, model.accumulate, *x.shape[1:]), 1, 0)

    def in_parts(networks, batch):
        def add(total, part):
            return jax.tree.map(jnp.add, total, gradient(*networks, part)), None

        zero = (jnp.float32(0), jax.tree.map(jnp.zeros_like, networks[0]))
        total, _ = jax.lax.scan(add, zero, jax.tree.map(split, batch))
        return jax.tree.map(lambda x: x / model.accumulate, total)

    networks = state.params, state.target
    # VICReg's terms are no means over rows: replicas see each part together, and exchange as often.
    if model.variance_weight or model.covariance_weight:
        return in_parts(networks, batch)
    return mean_over_replicas(in_parts, networks, batch)


def train_step(model: IJEPA, state: State, batch: Batch) -> tuple[State, Metrics]:
    """One step: gradient, AdamW on θ and φ, then the moving average θ̄.

    After an unsound gradient all of them stay as they were, and only the step counts on.
    """
    schedule = model.schedules(state.step)
    value, gradient = loss_and_gradient(model, state, batch)
    params, opt_state = model.optimizer.update(gradient, state.opt_state, state.params, schedule)
    target = moving_average(state.target, params["encoder"], schedule.momentum)

    gradients = norm_by_part(gradient)
    updates = norm_by_part(jax.tree.map(jnp.subtract, params, state.params))
    norm = jnp.hypot(*gradients)
    sound = is_sound(model, state, value, norm)
    new = State(state.step, params, target, opt_state, _remember(state, norm))
    old = state.replace(guard=state.guard._replace(in_a_row=state.guard.in_a_row + 1))
    state = jax.tree.map(lambda new, old: jnp.where(sound, new, old), new, old)
    state = state.replace(step=state.step + 1)
    skipped = state.step - state.opt_state.count  # Adam counts the updates that were made
    in_a_row = state.guard.in_a_row
    return state, Metrics(value, *schedule, norm, *gradients, *updates, skipped, in_a_row)


def norm_by_part(networks: dict[str, Any]) -> tuple[Array, Array]:
    """Of a tree like the parameters: of the encoder's leaves, and of the predictor's."""
    return optax.tree.norm(networks["encoder"]), optax.tree.norm(networks["predictor"])


def is_sound(model: IJEPA, state: State, value: Array, norm: Array) -> Array:
    """Whether an update may be made: loss and gradient are finite, and no spike."""
    finite = jnp.isfinite(value) & jnp.isfinite(norm)
    if model.spike is None:
        return finite
    settled = state.opt_state.count >= SETTLED
    return finite & (~settled | (norm <= model.spike * state.guard.usual_norm))


def _remember(state: State, norm: Array) -> Guard:
    """The guard after an update that is made."""
    average = MEMORY * state.guard.usual_norm + (1 - MEMORY) * norm
    usual = jnp.where(state.opt_state.count == 0, norm, average)
    return Guard(usual, jnp.zeros_like(state.guard.in_a_row))
