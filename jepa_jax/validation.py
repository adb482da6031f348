"""Checks a config as a whole: a typo or an impossible value stops the run at once.

Each message is one line that names the key and the nearest value that would do.
"""

import difflib
import functools
import math
from collections.abc import Iterable

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from jepa_jax.config import architecture, defaults, mask_spec, mesh_shape
from jepa_jax.data import mixture
from jepa_jax.data.resizing import FILTERS, RESIZERS, fast_package
from jepa_jax.data.sources import SOURCES
from jepa_jax.data.splits import check_splits
from jepa_jax.errors import UserError
from jepa_jax.ijepa import LOSSES, TARGETS
from jepa_jax.masks import CONTEXT_CHOICES, STYLES
from jepa_jax.models import attention
from jepa_jax.models.transformer import REMAT_POLICIES
from jepa_jax.models.vit import SIZES
from jepa_jax.training.loggers import LOGGERS, check_loggers, logger_names

CHOICES = {
    "data.source": SOURCES,
    "data.interpolation": tuple(FILTERS),
    "data.resizer": tuple(RESIZERS),
    "model.size": tuple(SIZES),
    "model.dtype": ("float32", "bfloat16"),
    "model.residual": ("float32", "bfloat16"),
    "model.target_dtype": (None, "float8_e4m3fn"),
    "model.attention": attention.CHOICES,
    "model.remat": ("none", *REMAT_POLICIES),
    "masks.style": tuple(STYLES),
    "masks.context_choice": (None, *CONTEXT_CHOICES),
    "targets": TARGETS,
    "loss": tuple(LOSSES),
    "optim.first_moment_dtype": ("float32", "bfloat16"),
    "doctor.action": ("warn", "stop", "roll_back"),
    "train.checkpoint_best": ("", "knn", "linear", "loss"),
}


# key: how many numbers it has (None: it is one), and what they must lie between.
INFINITY = float("inf")
RANGES = {
    "seed": (None, 0, 2**31 - 1),
    "data.validation": (None, 0, 0.9),
    "data.image_size": (2, 1, INFINITY),
    "data.channels": (None, 1, INFINITY),
    "data.crop_scale": (2, 1e-6, 1),
    "data.crop_aspect": (2, 1e-6, INFINITY),
    "data.colour_jitter": (None, 0, 2.5),  # beyond it hues go round more than the whole circle
    "data.greyscale": (None, 0, 1),
    "data.blur": (None, 0, 1),
    "data.eval_crop": (None, 1e-6, 1),
    "data.threads": (None, 1, INFINITY),
    "data.workers": (None, 0, INFINITY),
    "data.broken_share": (None, 0, 1),
    "model.patch_size": (None, 1, INFINITY),
    "model.width": (None, 4, INFINITY),
    "model.depth": (None, 1, INFINITY),
    "model.heads": (None, 1, INFINITY),
    "model.mlp_ratio": (None, 1e-6, INFINITY),
    "model.unroll": (None, 0, INFINITY),
    "predictor.width": (None, 4, INFINITY),
    "predictor.depth": (None, 1, INFINITY),
    "predictor.heads": (None, 1, INFINITY),
    "regularizer.variance": (None, 0, INFINITY),
    "regularizer.covariance": (None, 0, INFINITY),
    "optim.learning_rate": (None, 0, INFINITY),
    "optim.start_learning_rate": (None, 0, INFINITY),
    "optim.final_learning_rate": (None, 0, INFINITY),
    "optim.weight_decay": (None, 0, INFINITY),
    "optim.final_weight_decay": (None, 0, INFINITY),
    "optim.ema": (2, 0, 1),
    "optim.schedule_scale": (None, 1e-6, INFINITY),
    "optim.b1": (None, 0, 1 - 1e-6),  # float32 has no digits for nearer to 1
    "optim.b2": (None, 0, 1 - 1e-6),
    "optim.eps": (None, 1e-16, INFINITY),  # squares of smaller gradients are 0 in float32
    "optim.clip_norm": (None, 1e-12, INFINITY),
    "train.batch_size": (None, 1, INFINITY),
    "train.epochs": (None, 1e-6, INFINITY),
    "train.warmup_epochs": (None, 0, INFINITY),
    "train.draws": (None, 1, INFINITY),
    "train.accumulate": (None, 1, INFINITY),
    "train.log_every": (None, 1, INFINITY),
    "train.checkpoint_every": (None, 1, INFINITY),
    "train.checkpoint_minutes": (None, 0, INFINITY),
    "train.checkpoint_max_age_minutes": (None, 0, INFINITY),
    "train.checkpoints_kept": (None, 1, INFINITY),
    "train.checkpoint_keep_every": (None, 0, INFINITY),
    "guard.spike": (None, 1, INFINITY),
    "guard.in_a_row": (None, 1, INFINITY),
    "guard.roll_backs": (None, 0, INFINITY),
    "guard.hang_minutes": (None, 0, INFINITY),
    "doctor.every": (None, 0, INFINITY),
    "probe.every_epochs": (None, 0, INFINITY),
    "probe.train_images": (None, 1, INFINITY),
    "probe.test_images": (None, 1, INFINITY),
    "probe.neighbours": (None, 1, INFINITY),
}


def validate(config: ConfigDict, devices: int = 1) -> None:
    """Checks every key, type and relation that can be known before the data is read.

    Args:
      devices: how many the run will have.

    Raises:
      UserError: for the first that is wrong; it names the key and the nearest value that would do.
    """
    _check_tree(config, defaults())
    for key, choices in CHOICES.items():
        _check_choice(key, _get(config, key), choices)
    for key, (length, low, high) in RANGES.items():
        _check_range(key, _get(config, key), length, low, high)
    for name in logger_names(config):
        _check_choice("logging.to", name, tuple(LOGGERS))
    check_loggers(logger_names(config))
    _check_sources(config.data)
    _check_images(config)
    _check_model(config)
    _check_devices(config, devices)
    _check_schedules(config)
    _check_checkpoints(config)
    mask_spec(config)


def unknown_key(key: str) -> str | None:
    """What is wrong with a dotted key, or None: for overrides on a command line."""
    known = list(flatten_dict(defaults().to_dict(), sep="."))
    if key in known or any(name.startswith(f"{key}.") for name in known):
        return None
    return f"config has no key {key!r}{_hint(key, known)}"


def _check_choice(key: str, value, choices: tuple[str, ...]):
    if value not in choices:
        choices = [choice for choice in choices if choice is not None]
        raise UserError(f"{key}={value!r} is none of {', '.join(choices)}{_hint(value, choices)}")


def _check_range(key: str, value, length: int | None, low: float, high: float):
    if value is None:
        return
    values = (value,) if length is None else value
    wanted = f"from {low} to {high}" if high < INFINITY else f"{low} or more, and finite"
    if length is not None and len(values) != length:
        raise UserError(f"{key}={value} must have {length} numbers")
    if not all(low <= number <= high and number < INFINITY for number in values):
        raise UserError(f"{key}={value} must be {wanted}")


def _check_sources(data: ConfigDict):
    if data.validation and not data.test_split:
        raise UserError(
            f"data.validation={data.validation:g} takes the place of data.test_split, which is"
            " empty: name it, as in data.test_split='val', or set data.validation=0"
        )
    if data.source != "mixture":
        if data.mixture:
            raise UserError(
                f"data.mixture is not used by data.source={data.source!r}: set"
                " data.source='mixture', or data.mixture=()"
            )
    else:
        for i, part in enumerate(mixture.parts(data)):
            _check_choice(f"data.mixture[{i}].source", part.data.source, SOURCES)
    remedy = "hold some out (data.validation=0.1), or set test_split='' there for no probes"
    check_splits(data, (data.train_split, data.test_split), remedy)


def _check_images(config: ConfigDict):
    data, patch = config.data, config.model.patch_size
    if not all(_is(side, int) for side in data.image_size):
        raise UserError(f"data.image_size={tuple(data.image_size)} must be whole numbers")
    for side in data.image_size:
        if side % patch:
            lower, upper = side // patch * patch, (side // patch + 1) * patch
            nearest = f"{lower} or {upper}" if lower else f"{upper}"
            raise UserError(
                f"data.image_size={tuple(data.image_size)} does not divide into patches of"
                f" model.patch_size={patch}: take {nearest} instead of {side}"
            )
    for key in ("mean", "std"):
        if len(data[key]) != data.channels:
            raise UserError(
                f"data.{key} has {len(data[key])} values, but data.channels={data.channels}:"
                " give one for each channel"
            )
    _check_range("data.mean", data.mean, data.channels, 0, 1)
    _check_range("data.std", data.std, data.channels, 1e-6, INFINITY)
    if data.greyscale and data.channels != 3:
        raise UserError(
            f"data.greyscale={data.greyscale} is for RGB images, but"
            f" data.channels={data.channels}: set it to 0"
        )
    if data.resizer == "fast":
        check_fast_resizer(data.interpolation)
    for key in ("crop_scale", "crop_aspect"):
        if data[key][0] > data[key][1]:
            raise UserError(f"data.{key}={tuple(data[key])} must be (low, high)")


def check_fast_resizer(interpolation: str) -> None:
    """Raises UserError if data.resizer="fast" can't be had, or not with this filter."""
    if interpolation != "bilinear":
        raise UserError(
            f'data.resizer="fast" is for data.interpolation="bilinear", not'
            f' "{interpolation}": set it to "exact"'
        )
    fast_package()


def _check_model(config: ConfigDict):
    encoder = architecture(config)
    parts = {
        "model": (encoder["width"], encoder["heads"]),
        "predictor": (config.predictor.width, config.predictor.heads or encoder["heads"]),
    }
    for part, (width, heads) in parts.items():
        if width % 4:
            raise UserError(
                f"{part}.width={width} must be a multiple of 4 for sine-cosine positions:"
                f" take {width // 4 * 4} or {width // 4 * 4 + 4}"
            )
        if width % heads:
            fitting = [number for number in range(1, width + 1) if width % number == 0]
            raise UserError(
                f"{part}.width={width} does not divide into {part}.heads={heads}:"
                f" take {min(fitting, key=lambda number: abs(number - heads))} heads"
            )
    if round(encoder["width"] * encoder["mlp_ratio"]) < 1:
        raise UserError(
            f"model.mlp_ratio={encoder['mlp_ratio']:g} leaves no hidden unit of"
            f" model.width={encoder['width']}: take {1 / encoder['width']:.2g} or more"
        )
    if config.model.target_dtype and config.targets == "pixels":
        raise UserError(
            f"model.target_dtype={config.model.target_dtype!r} is of the target encoder, which"
            " targets='pixels' does without: leave one out"
        )


def _check_devices(config: ConfigDict, devices: int):
    sizes = mesh_shape(config, devices)
    ways = sizes[0] * sizes[1]
    batch, parts = config.train.batch_size, config.train.accumulate
    if batch % (ways * parts):
        unit = ways * parts
        raise UserError(
            f"train.batch_size={batch} does not divide over {ways} devices in"
            f" train.accumulate={parts} parts: take {max(1, round(batch / unit)) * unit}"
        )


def _check_schedules(config: ConfigDict):
    start, peak = config.optim.start_learning_rate, config.optim.learning_rate
    warmup, scale = config.train.warmup_epochs, config.optim.schedule_scale
    if warmup > config.train.epochs * min(1, scale):
        shorter = f" and optim.schedule_scale={scale:g} allow" if scale < 1 else ""
        raise UserError(
            f"train.warmup_epochs={warmup:g} is longer than"
            f" train.epochs={config.train.epochs:g}{shorter}"
        )
    if warmup and start > peak:
        raise UserError(
            f"optim.start_learning_rate={start:g} is above optim.learning_rate={peak:g}, to which"
            f" the warm-up rises: lower it too, such as to {peak / 5:g}"
        )


def _check_checkpoints(config: ConfigDict):
    every, kept = config.train.checkpoint_every, config.train.checkpoint_keep_every
    if kept % every:
        raise UserError(
            f"train.checkpoint_keep_every={kept} is no multiple of train.checkpoint_every={every},"
            f" so not all of those steps are saved: take {math.ceil(kept / every) * every}"
        )
    best, probed = config.train.checkpoint_best, config.data.test_split
    if best in ("knn", "linear") and not (probed and config.probe.every_epochs):
        key = "probe.every_epochs" if probed else "data.test_split and probe.every_epochs"
        raise UserError(
            f"train.checkpoint_best={best!r} needs probes while the run trains: set {key}, or"
            " train.checkpoint_best='loss'"
        )
    if best in ("knn", "linear") and config.probe.every_epochs >= config.train.epochs:
        raise UserError(
            f"train.checkpoint_best={best!r} needs probes before the end of the run: set"
            f" probe.every_epochs={config.probe.every_epochs:g} below"
            f" train.epochs={config.train.epochs:g}, or train.checkpoint_best='loss'"
        )


# Keys and types.

KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def _check_tree(config: ConfigDict, template: ConfigDict, prefix: str = ""):
    for name in config:
        if name not in template:
            raise UserError(unknown_key(prefix + name))
    for name in template:
        key = prefix + name
        if name not in config:
            raise UserError(f"config lacks the key {key!r}: start the recipe from defaults()")
        value, kind = config[name], template.get_type(name)
        if isinstance(template[name], ConfigDict):
            _check_tree(value, template[name], f"{key}.")
        elif value is None and template[name] is None:
            continue
        elif key == "data.mixture" and isinstance(value, tuple | list):
            continue  # not of numbers: its parts are checked apart
        elif kind is tuple:
            if not isinstance(value, tuple | list) or not all(_is(v, float) for v in value):
                raise UserError(f"{key}={value!r} must be numbers in parentheses, such as (1, 2)")
        elif not _is(value, kind):
            raise UserError(f"{key}={value!r} must be {KINDS[kind]}")


def _is(value, kind: type) -> bool:
    if kind in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if kind is float else kind)


def _get(config: ConfigDict, key: str):
    return functools.reduce(lambda part, name: part[name], key.split("."), config)


def _hint(word, known: Iterable[str]) -> str:
    """The nearest of the known words, as the end of a message."""
    known = list(known)
    near = difflib.get_close_matches(str(word), known, n=1, cutoff=0.0)
    last = {name.rsplit(".", 1)[-1]: name for name in known}
    by_last = difflib.get_close_matches(str(word).rsplit(".", 1)[-1], last, n=1, cutoff=0.8)
    return f"; the nearest is {last[by_last[0]] if by_last else near[0]!r}" if near else ""
