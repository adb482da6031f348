"""Fine-tuning end to end as in MAE (He et al. 2022, appendix A.1), in pure functions.

AdamW whose learning rate falls with depth, warm-up and cosine, mixup or cutmix of each batch, label
smoothing, drop path; a classifier on the average of the patches. RandAugment, which MAE has too, is
not part of it.
"""

import dataclasses
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import Float

from jepa_jax import ijepa
from jepa_jax.errors import UserError
from jepa_jax.evaluation.checks import check_options
from jepa_jax.models.layers import LAYER_NORM_EPS
from jepa_jax.optim import decay_mask
from jepa_jax.pretrained import Backbone

PURPOSES = ("head", "mix", "drop_path")  # of randomness


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to fine-tune: by default with all labels, as MAE does.

    Attributes:
      base_learning_rate: for 256 images; it grows with the batch.
      layer_decay: the learning rate of a block, in shares of the next one's.
      mixup, cutmix: parameters of the Beta distribution that the shares are drawn from; 0: without.
      drop_path: share of images that the last block leaves as they are; earlier ones less, the
        first none.
    """

    epochs: float = 100.0
    warmup_epochs: float = 5.0
    batch_size: int = 1024
    base_learning_rate: float = 1e-3
    layer_decay: float = 0.75
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    mixup: float = 0.8
    cutmix: float = 1.0
    drop_path: float = 0.1

    def __post_init__(self):
        shares = "label_smoothing", "drop_path"
        check_options(
            self,
            positive=("epochs", "batch_size", "base_learning_rate", "layer_decay"),
            not_negative=("warmup_epochs", "weight_decay", "mixup", "cutmix", *shares),
        )
        for name in shares:
            if getattr(self, name) >= 1:
                raise UserError(f"{name}={getattr(self, name):g}: give a share below 1")

    @property
    def learning_rate(self) -> float:
        return self.base_learning_rate * self.batch_size / 256


class AverageHead(nn.Module):
    """A linear classifier on the normalised average of an image's patches."""

    classes: int

    @nn.compact
    def __call__(self, patches: Float[Array, "B N D"]) -> Float[Array, "B C"]:
        x = nn.LayerNorm(epsilon=LAYER_NORM_EPS, name="norm")(patches.mean(axis=1))
        return nn.Dense(self.classes, kernel_init=nn.initializers.normal(2e-5), name="output")(x)


@dataclasses.dataclass(frozen=True)
class Finetuning:
    """What a fine-tuning run is made of and never changes."""

    backbone: Backbone
    recipe: Recipe
    classes: int
    steps_per_epoch: int
    seed: int = 0

    @property
    def head(self) -> AverageHead:
        return AverageHead(self.classes)

    @property
    def steps(self) -> int:
        return max(1, round(self.recipe.epochs * self.steps_per_epoch))

    def learning_rate(self, step: Array) -> Array:
        """Before it is scaled by layer."""
        warmup = min(round(self.recipe.warmup_epochs * self.steps_per_epoch), self.steps - 1)
        schedule = optax.warmup_cosine_decay_schedule(
            0.0, self.recipe.learning_rate, warmup, self.steps, end_value=1e-6
        )
        return schedule(step.astype(jnp.float32))

    def key(self, purpose: str, step: Array | int = 0) -> Array:
        own = jax.random.fold_in(jax.random.key(self.seed), PURPOSES.index(purpose))
        return jax.random.fold_in(own, step)


class State(flax.struct.PyTreeNode):
    step: Array  # () int32, finished steps
    params: dict[str, Any]  # {"encoder", "head"}
    opt_state: optax.OptState


class Batch(NamedTuple):
    images: Array  # (B, Y, X, C) uint8
    labels: Array  # (B,) int32


def init(run: Finetuning, encoder: Any) -> State:
    """Args: encoder: the parameters to begin with."""
    features = jnp.zeros((1, 1, run.backbone.encoder.width), jnp.float32)
    head = run.head.init(run.key("head"), features)["params"]
    params = {"encoder": jax.tree.map(jnp.asarray, encoder), "head": head}
    return State(jnp.int32(0), params, _adam().init(params))


def logits(
    run: Finetuning, params: dict[str, Any], images: Array, keep: Array | None = None
) -> Float[Array, "B C"]:
    """Scores of the classes.

    Args:
      images: uint8, or float if already normalised.
      keep: (depth, 2, B) of `kept_paths`.
    """
    variables = {"params": params["encoder"]}
    if keep is not None:
        variables["drop_path"] = {"transformer": {"blocks": {"keep": keep}}}
    images = ijepa.normalize(run.backbone, images)
    patches = run.backbone.encoder.apply(variables, images)
    return run.head.apply({"params": params["head"]}, patches)


def train_step(run: Finetuning, state: State, batch: Batch) -> tuple[State, Float[Array, ""]]:
    """The new state, and the loss before."""
    recipe = run.recipe
    targets = optax.smooth_labels(jax.nn.one_hot(batch.labels, run.classes), recipe.label_smoothing)
    images = ijepa.normalize(run.backbone, batch.images)
    key = run.key("mix", state.step)
    images, targets = mix(key, images, targets, recipe.mixup, recipe.cutmix)
    depth = run.backbone.encoder.depth
    keep = kept_paths(run.key("drop_path", state.step), depth, len(images), recipe.drop_path)

    def loss(params):
        return optax.softmax_cross_entropy(logits(run, params, images, keep), targets).mean()

    value, grads = jax.value_and_grad(loss)(state.params)
    with jax.numpy_dtype_promotion("standard"):  # optax raises a float to an int32's power
        updates, opt_state = _adam().update(grads, state.opt_state)
    rate = run.learning_rate(state.step)

    def move(param, update, decayed, scale):
        change = update + recipe.weight_decay * param if decayed else update
        return param - rate * jnp.asarray(scale, jnp.float32) * change

    scales = layer_scales(state.params, depth, recipe.layer_decay)
    params = jax.tree.map(move, state.params, updates, decay_mask(state.params), scales)
    return State(state.step + 1, params, opt_state), value


def _adam() -> optax.GradientTransformation:
    return optax.scale_by_adam(b1=0.9, b2=0.999)


def mix(
    key: Array,
    images: Float[Array, "B Y X C"],
    targets: Float[Array, "B K"],
    mixup: float,
    cutmix: float,
) -> tuple[Float[Array, "B Y X C"], Float[Array, "B K"]]:
    """Each image mixed with one of the same batch, the targets likewise.

    The whole batch with mixup (Zhang et al. 2018) or with cutmix (Yun et al. 2019), each half of
    the time, and with one share, as MAE does.

    Args:
      mixup, cutmix: parameters of the Beta distribution of the share; 0: never.
    """
    coin, share, place = jax.random.split(key, 3)
    blended = blend(share, images, targets, mixup) if mixup else (images, targets)
    pasted = paste(share, place, images, targets, cutmix) if cutmix else (images, targets)
    if not mixup or not cutmix:
        return blended if mixup else pasted
    use_blend = jax.random.bernoulli(coin)
    return jax.tree.map(lambda a, b: jnp.where(use_blend, a, b), blended, pasted)


def blend(key: Array, images: Array, targets: Array, alpha: float) -> tuple[Array, Array]:
    """Mixup: share · one + (1 - share) · the other."""
    share = jax.random.beta(key, alpha, alpha)
    return tuple(share * each + (1 - share) * each[::-1] for each in (images, targets))


def paste(
    key: Array, place: Array, images: Array, targets: Array, alpha: float
) -> tuple[Array, Array]:
    """Cutmix: a box of one image in the other; targets by the area that each really has."""
    sides = np.array(images.shape[1:3], np.float32)
    half = jnp.sqrt(1 - jax.random.beta(key, alpha, alpha)) * sides / 2
    centre = jax.random.uniform(place, (2,)) * sides
    low, high = (jnp.round(jnp.clip(centre + sign * half, 0, sides)) for sign in (-1, 1))
    rows, columns = (jnp.arange(side, dtype=jnp.float32) for side in images.shape[1:3])
    inside = (rows >= low[0]) & (rows < high[0])
    inside = inside[:, None] & ((columns >= low[1]) & (columns < high[1]))[None]
    share = jnp.mean(inside, dtype=jnp.float32)
    mixed = jnp.where(inside[None, :, :, None], images[::-1], images)
    return mixed, (1 - share) * targets + share * targets[::-1]


def kept_paths(
    key: Array, depth: int, images: int, rate: float
) -> Float[Array, "depth 2 B"] | None:
    """Drop path (Huang et al. 2016): 0 for what is left out, more than 1 for the rest.

    The expectation is 1. Later blocks are left out more often, up to `rate`. None if rate is 0.
    """
    if not rate:
        return None
    kept = 1 - jnp.linspace(0, rate, depth, dtype=jnp.float32)[:, None, None]
    return jax.random.bernoulli(key, kept, (depth, 2, images)).astype(jnp.float32) / kept


def layer_scales(params: dict[str, Any], depth: int, decay: float) -> Any:
    """What the learning rate of each leaf is multiplied with; a vector for stacked blocks.

    1 for the head and the last norm, `decay` for the last block, decay² for the one before, and so
    on down to the patches' embedding (ELECTRA; Bao et al. 2022).
    """

    def scale(path, leaf):
        names = [entry.key for entry in path]
        if "blocks" in names:
            powers = np.arange(depth, 0, -1).reshape(-1, *[1] * (leaf.ndim - 1))
            return decay ** powers.astype(np.float32)
        below = names[0] == "encoder" and "transformer" not in names
        return np.float32(decay ** (depth + 1) if below else 1.0)

    return jax.tree.map_with_path(scale, params)
