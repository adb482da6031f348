"""Every setting, its default and its check: the one place where they live.

A recipe starts from `defaults()` and states only what makes it that recipe. `validate` stops an
impossible one before anything is built, in one line that names the key and what would do.
"""

import difflib
import functools
import math
from collections.abc import Iterable, Iterator

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from jepa_jax.errors import UserError
from jepa_jax.ijepa import LOSSES
from jepa_jax.masks import STYLES, MaskSpec
from jepa_jax.models.transformer import REMAT_POLICIES
from jepa_jax.models.vit import SIZES

CHOICES = {
    "data.source": ("digits", "npz", "folder"),
    "model.size": tuple(SIZES),
    "model.dtype": ("float32", "bfloat16"),
    "model.remat": ("none", *REMAT_POLICIES),
    "masks.style": tuple(STYLES),
    "loss": tuple(LOSSES),
}


def defaults() -> ConfigDict:
    """The setting that all recipes share: the paper's, for ImageNet at 224×224.

    The numbers are those of the released recipes where they differ from the paper's text.
    """
    c = ConfigDict()
    c.seed = 0

    c.data = ConfigDict()
    c.data.source = "folder"  # digits | npz | folder
    c.data.path = "data/imagenet/{split}"  # {split} is filled in; globs may name several
    c.data.train_split = "train"
    c.data.test_split = "val"  # held-out images for the probes; "" for none
    c.data.image_size = (224, 224)  # height, width in pixels
    c.data.channels = 3
    c.data.crop_scale = (0.3, 1.0)  # share of the image's area that a training crop keeps
    c.data.crop_aspect = (3 / 4, 4 / 3)  # width / height of a training crop
    c.data.flip = False  # mirror half of the training crops
    c.data.eval_crop = 0.875  # share of the short side that the centre crop keeps
    c.data.mean = (0.485, 0.456, 0.406)  # of pixels in 0..1, a value for each channel
    c.data.std = (0.229, 0.224, 0.225)
    c.data.threads = 8  # that read and decode images

    c.model = ConfigDict()
    c.model.size = "vit_b"  # vit_ti | vit_s | vit_b | vit_l | vit_h | vit_g
    c.model.patch_size = 16  # pixels
    c.model.width = placeholder(int)  # the four below override what the size says
    c.model.depth = placeholder(int)
    c.model.heads = placeholder(int)
    c.model.mlp_ratio = placeholder(float)
    c.model.dtype = "bfloat16"  # of the matrix products; parameters are float32
    c.model.remat = "none"  # none | dots | full: what the backward pass computes again

    c.predictor = ConfigDict()
    c.predictor.width = 384
    c.predictor.depth = 6
    c.predictor.heads = placeholder(int)  # as many as the encoder

    c.masks = ConfigDict()
    c.masks.style = "paper"  # paper | reference | block | random
    c.masks.num_targets = placeholder(int)  # what is not given here is the style's own
    c.masks.target_scale = placeholder(tuple)  # share of the grid's patches
    c.masks.target_aspect = (0.75, 1.5)  # height / width
    c.masks.context_scale = placeholder(tuple)
    c.masks.num_context = placeholder(int)  # K, context patches that the encoder sees

    c.loss = "smooth_l1"  # smooth_l1 | l2 | l1

    c.optim = ConfigDict()
    c.optim.learning_rate = 1e-3
    c.optim.start_learning_rate = 2e-4
    c.optim.final_learning_rate = 1e-6
    c.optim.weight_decay = 0.04
    c.optim.final_weight_decay = 0.4
    c.optim.ema = (0.996, 1.0)  # momentum of the target encoder, first and last step
    c.optim.schedule_scale = 1.0  # stretches the three schedules beyond the run's end
    c.optim.b1 = 0.9
    c.optim.b2 = 0.999
    c.optim.eps = 1e-8
    c.optim.clip_norm = placeholder(float)  # of the gradient, over all parameters

    c.train = ConfigDict()
    c.train.batch_size = 2048  # images a step, over all devices
    c.train.epochs = 300.0
    c.train.warmup_epochs = 40.0
    c.train.accumulate = 1  # the batch goes through in so many parts
    c.train.log_every = 50  # steps
    c.train.checkpoint_every = 1000  # steps
    c.train.checkpoints_kept = 3

    c.probe = ConfigDict()
    c.probe.every_epochs = 0.0  # 0: only at the end
    c.probe.train_images = 10_000  # at most; drawn at random
    c.probe.test_images = 10_000
    c.probe.neighbours = 20

    c.mesh = ConfigDict()
    c.mesh.replica = -1  # devices; -1 takes those that the others leave
    c.mesh.fsdp = 1
    c.mesh.tensor = 1
    return c.lock()


def validate(config: ConfigDict, devices: int = 1) -> None:
    """Checks every key, type and relation that can be known before the data is read.

    Args:
      devices: how many the run will have.

    Raises:
      UserError: for the first that is wrong; it names the key and the nearest value that would do.
    """
    _check_tree(config, defaults())
    for key, choices in CHOICES.items():
        value = _get(config, key)
        if value not in choices:
            raise UserError(f"{key}={value!r} is none of {', '.join(choices)}{_hint(value, choices)}")
    for key, (length, low, high) in RANGES.items():
        _check_range(key, _get(config, key), length, low, high)
    _check_images(config)
    _check_model(config)
    _check_devices(config, devices)
    mask_spec(config)


def unknown_key(key: str) -> str | None:
    """What is wrong with a dotted key, or None: for overrides on a command line."""
    known = list(_flat(defaults()))
    if key in known or any(name.startswith(f"{key}.") for name in known):
        return None
    return f"config has no key {key!r}{_hint(key, known)}"


def architecture(config: ConfigDict) -> dict[str, int | float]:
    """Width, depth, heads and MLP ratio of the encoder: of its size, unless they are given."""
    names = ("width", "depth", "heads", "mlp_ratio")
    size = dict(zip(names, SIZES[config.model.size], strict=True))
    given = {name: config.model[name] for name in names if config.model[name] is not None}
    return size | given


def grid(config: ConfigDict) -> tuple[int, int]:
    """Rows and columns of patches."""
    height, width = config.data.image_size
    return height // config.model.patch_size, width // config.model.patch_size


def mask_spec(config: ConfigDict) -> MaskSpec:
    """The mask setting.

    Raises:
      UserError: if it is impossible on this grid; names the largest K.
    """
    try:
        setting = {key: tuple(v) if isinstance(v, list) else v for key, v in config.masks.items()}
        return MaskSpec(grid(config), **setting)
    except ValueError as error:
        raise UserError(f"masks: {error}") from error


# What a number, or each of `length` numbers, must lie between; None is allowed where the default is.
INFINITY = float("inf")
RANGES = {
    "seed": (None, 0, 2**31 - 1),
    "data.image_size": (2, 1, INFINITY),
    "data.channels": (None, 1, INFINITY),
    "data.crop_scale": (2, 1e-6, 1),
    "data.crop_aspect": (2, 1e-6, INFINITY),
    "data.eval_crop": (None, 1e-6, 1),
    "data.threads": (None, 1, INFINITY),
    "model.patch_size": (None, 1, INFINITY),
    "model.width": (None, 4, INFINITY),
    "model.depth": (None, 1, INFINITY),
    "model.heads": (None, 1, INFINITY),
    "model.mlp_ratio": (None, 1e-6, INFINITY),
    "predictor.width": (None, 4, INFINITY),
    "predictor.depth": (None, 1, INFINITY),
    "predictor.heads": (None, 1, INFINITY),
    "optim.learning_rate": (None, 0, INFINITY),
    "optim.start_learning_rate": (None, 0, INFINITY),
    "optim.final_learning_rate": (None, 0, INFINITY),
    "optim.weight_decay": (None, 0, INFINITY),
    "optim.final_weight_decay": (None, 0, INFINITY),
    "optim.ema": (2, 0, 1),
    "optim.schedule_scale": (None, 1e-6, INFINITY),
    "optim.b1": (None, 0, 1 - 1e-9),
    "optim.b2": (None, 0, 1 - 1e-9),
    "optim.eps": (None, 0, INFINITY),
    "optim.clip_norm": (None, 1e-12, INFINITY),
    "train.batch_size": (None, 1, INFINITY),
    "train.epochs": (None, 1e-6, INFINITY),
    "train.warmup_epochs": (None, 0, INFINITY),
    "train.accumulate": (None, 1, INFINITY),
    "train.log_every": (None, 1, INFINITY),
    "train.checkpoint_every": (None, 1, INFINITY),
    "train.checkpoints_kept": (None, 1, INFINITY),
    "probe.every_epochs": (None, 0, INFINITY),
    "probe.train_images": (None, 0, INFINITY),
    "probe.test_images": (None, 0, INFINITY),
    "probe.neighbours": (None, 1, INFINITY),
}


def _check_range(key: str, value, length: int | None, low: float, high: float):
    if value is None:
        return
    values = (value,) if length is None else value
    wanted = f"a number from {low:g} to {high:g}" if high < INFINITY else f"{low:g} or more"
    if length is not None and len(values) != length:
        raise UserError(f"{key}={value} must have {length} numbers")
    if not all(low <= number <= high for number in values):
        raise UserError(f"{key}={value} must be {wanted}")


def _check_images(config: ConfigDict):
    data, patch = config.data, config.model.patch_size
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
    if min(data.std) <= 0:
        raise UserError(f"data.std={tuple(data.std)} must be above 0")
    for key in ("crop_scale", "crop_aspect"):
        if data[key][0] > data[key][1]:
            raise UserError(f"data.{key}={tuple(data[key])} must be (low, high)")


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
            nearest = min((h for h in range(1, width + 1) if width % h == 0), key=lambda h: abs(h - heads))
            raise UserError(
                f"{part}.width={width} does not divide into {part}.heads={heads}:"
                f" take {nearest} heads or a width of {max(1, width // heads) * heads}"
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
    if config.train.warmup_epochs > config.train.epochs * config.optim.schedule_scale:
        raise UserError(
            f"train.warmup_epochs={config.train.warmup_epochs:g} is longer than"
            f" train.epochs={config.train.epochs:g}"
        )


def mesh_shape(config: ConfigDict, devices: int) -> tuple[int, int, int]:
    """Devices along replica, fsdp and tensor, with -1 filled in.

    Raises:
      UserError: if the three do not multiply to the number of devices.
    """
    sizes = [config.mesh.replica, config.mesh.fsdp, config.mesh.tensor]
    if sizes.count(-1) > 1 or any(size != -1 and size < 1 for size in sizes):
        raise UserError(f"mesh={tuple(sizes)}: sizes must be positive, and one at most may be -1")
    known = math.prod(size for size in sizes if size != -1)
    filled = tuple(devices // known if size == -1 else size for size in sizes)
    if math.prod(filled) != devices:
        raise UserError(
            f"mesh (replica, fsdp, tensor)={tuple(sizes)} does not make {devices} devices:"
            " the sizes must multiply to it; -1 fills one in"
        )
    return filled


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
        elif kind is tuple:
            if not isinstance(value, tuple | list) or not all(_is(v, float) for v in value):
                raise UserError(f"{key}={value!r} must be numbers in parentheses, such as (1, 2)")
        elif not _is(value, kind):
            raise UserError(f"{key}={value!r} must be {KINDS[kind]}")


def _is(value, kind: type) -> bool:
    if kind in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if kind is float else kind)


def _flat(config: ConfigDict, prefix: str = "") -> Iterator[str]:
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def _get(config: ConfigDict, key: str):
    return functools.reduce(lambda part, name: part[name], key.split("."), config)


def _hint(word, known: Iterable[str]) -> str:
    """The nearest of the known words, as the end of a message."""
    known = list(known)
    near = difflib.get_close_matches(str(word), known, n=1, cutoff=0.0)
    last = {name.rsplit(".", 1)[-1]: name for name in known}
    by_last = difflib.get_close_matches(str(word).rsplit(".", 1)[-1], last, n=1, cutoff=0.8)
    return f"; the nearest is {last[by_last[0]] if by_last else near[0]!r}" if near else ""
