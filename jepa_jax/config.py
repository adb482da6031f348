"""Every setting and its default, in one place, and what follows from them.

A recipe starts from `defaults()` and states only what makes it that recipe; `validation.validate`
stops an impossible one.
"""

import math
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from jepa_jax.errors import UserError
from jepa_jax.masks import MaskSpec
from jepa_jax.models.vit import SIZES


def defaults() -> ConfigDict:
    """The setting that all recipes share: the paper's, for ImageNet at 224×224.

    The numbers are those of the released recipes where they differ from the paper's text.
    """
    c = ConfigDict()
    c.seed = 0

    c.data = ConfigDict()
    # digits | npz | folder | tfds | array_record | clevr | synthetic | mixture
    c.data.source = "folder"
    c.data.path = "data/imagenet/{split}"  # {split} is filled in; globs may name several
    # tfds: its data_dir is path ("" for its own), and a split may be as "train[:90%]"
    c.data.name = placeholder(
        str
    )  # of a TFDS data set, such as "imagenet2012:5.1.0"; synthetic: count | distance
    c.data.image_key = placeholder(str)  # which entry of a record; needed if it has several
    c.data.label_key = placeholder(str)
    # mixture: ({"source": "folder", "path": "photos/{split}", "weight": 2.0}, …), where a part
    # says what differs from the keys above and below, and its share of the images
    c.data.mixture = ()
    c.data.train_split = "train"
    c.data.test_split = "val"  # held-out images for the probes; "" for none
    c.data.validation = 0.0  # share of the training images held out, in place of test_split's
    c.data.image_size = (224, 224)  # height, width in pixels
    c.data.channels = 3
    c.data.crop_scale = (0.3, 1.0)  # share of the image's area that a training crop keeps
    c.data.crop_aspect = (3 / 4, 4 / 3)  # width / height of a training crop
    c.data.interpolation = "bilinear"  # bilinear | bicubic, both anti-aliased
    c.data.resizer = "exact"  # exact: Pillow's pixels | fast: within 2 of 255 (jepa_jax[fast])
    c.data.flip = False  # mirror half of the training crops
    c.data.colour_jitter = 0.0  # strength; 0 is none, 2.5 the strongest
    c.data.greyscale = 0.0  # share of the training crops
    c.data.blur = 0.0  # share of the training crops
    c.data.eval_crop = 0.875  # share of the short side that the centre crop keeps
    c.data.mean = (0.485, 0.456, 0.406)  # of pixels in 0..1, a value for each channel
    c.data.std = (0.229, 0.224, 0.225)
    c.data.threads = 8  # that read and decode images, in each process that does
    c.data.workers = 0  # processes that do; 0: this one, which suits few cores or small images
    c.data.broken_share = 0.01  # of the images that may be unreadable before the run stops

    c.model = ConfigDict()
    c.model.size = "vit_b"  # vit_ti | vit_s | vit_b | vit_l | vit_h | vit_g
    c.model.patch_size = 16  # pixels
    c.model.width = placeholder(int)  # the four below override what the size says
    c.model.depth = placeholder(int)
    c.model.heads = placeholder(int)
    c.model.mlp_ratio = placeholder(float)
    c.model.dtype = "bfloat16"  # of the matrix products; parameters are float32
    c.model.residual = "float32"  # of what the blocks add up; bfloat16: less memory and time
    # Of the target encoder's products, if another: float8_e4m3fn, for GPUs that multiply it (Hopper
    # and later)
    c.model.target_dtype = placeholder(str)
    # auto | xla: written out, for XLA to fuse | fused: the kernel of a GPU (cuDNN) or TPU (splash),
    # which auto takes on a GPU from 33 tokens on, and on a TPU from 512; elsewhere xla
    c.model.attention = "auto"
    # Blocks in one turn of a scan; the depth: without a scan; 0: without on GPUs, 1 elsewhere.
    c.model.unroll = 0
    c.model.remat = "none"  # none | dots | full: what the backward pass computes again

    c.predictor = ConfigDict()
    c.predictor.width = 384
    c.predictor.depth = 6
    c.predictor.heads = placeholder(int)  # as many as the encoder
    # False, the method: once for each block | True: all blocks at once. Then the context's tokens,
    # which no longer see a block's, are computed once
    c.predictor.one_pass = False

    c.masks = ConfigDict()
    c.masks.style = "paper"  # paper | reference | block | random | rasterized
    c.masks.num_targets = placeholder(int)  # what is not given here is the style's own
    c.masks.target_scale = placeholder(tuple)  # share of the grid's patches
    c.masks.target_aspect = (0.75, 1.5)  # height / width
    c.masks.context_scale = placeholder(tuple)
    c.masks.num_context = placeholder(int)  # K, context patches that the encoder sees
    c.masks.context_choice = placeholder(str)  # which K of those left: random | raster | block

    c.targets = "features"  # what is predicted: features, the method | pixels, as MAE does
    c.loss = "smooth_l1"  # smooth_l1 | l2 | l1
    # Weights of VICReg's terms of the context's features, for smooth_l1 and l1; l2 is some thousand
    # times as large. 0: none, the method
    c.regularizer = ConfigDict()
    c.regularizer.variance = 0.0  # the deviation of each feature should reach 1
    c.regularizer.covariance = 0.0  # no two features should say the same

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
    c.optim.first_moment_dtype = "float32"  # or bfloat16: 2 bytes less for each parameter
    c.optim.clip_norm = placeholder(float)  # of the gradient, over all parameters

    c.train = ConfigDict()
    c.train.batch_size = 2048  # images a step, over all devices
    c.train.epochs = 300.0
    c.train.warmup_epochs = 40.0
    c.train.draws = 1  # masks of each image, which share one pass of the target encoder
    c.train.accumulate = 1  # the batch goes through in so many parts
    c.train.log_every = 50  # steps
    c.train.checkpoint_every = 1000  # steps
    c.train.checkpoint_minutes = 30.0  # also save after so long; 0: never
    c.train.checkpoint_max_age_minutes = (
        120.0  # stop when the last is older as saving fails; 0: never
    )
    c.train.checkpoints_kept = 3  # the last ones
    c.train.checkpoint_keep_every = 0  # steps whose multiples are kept for ever; 0: none
    c.train.checkpoint_best = ""  # knn | linear | loss: keep the step that is best in it; "": none

    c.guard = ConfigDict()  # an update of which loss or gradient is not finite is left out
    c.guard.spike = placeholder(float)  # so is one of so many times the usual gradient norm
    c.guard.in_a_row = 10  # such steps after which the run goes back to the last checkpoint
    c.guard.roll_backs = 3  # after so many the run stops
    c.guard.hang_minutes = 15.0  # without a step, after which the run ends itself (0: never);
    # compilation, saves and probes may each take six times as long

    c.doctor = ConfigDict()  # looks for collapse: see training/doctor.py
    c.doctor.every = 100  # steps; 0: never
    c.doctor.action = "warn"  # warn | stop | roll_back: when the run is ill

    c.probe = ConfigDict()
    c.probe.every_epochs = 0.0  # 0: only at the end
    c.probe.train_images = 10_000  # at most; drawn at random
    c.probe.test_images = 10_000
    c.probe.neighbours = 20
    c.probe.compare = True  # at the end also the untrained encoder and raw pixels

    c.logging = ConfigDict()
    c.logging.to = ""  # tensorboard,wandb,mlflow: any of them, beside metrics.jsonl
    c.logging.project = "jepa_jax"  # of wandb, or experiment of mlflow

    c.mesh = ConfigDict()
    c.mesh.replica = -1  # devices; -1 takes those that the others leave
    c.mesh.fsdp = 1
    c.mesh.tensor = 1
    return c.lock()


def changed(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    """A copy with other values of some keys, such as "train.epochs"; nothing is validated."""
    own = config.copy_and_resolve_references()
    with own.ignore_type():
        own.update_from_flattened_dict(changes)
    return own


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
        return MaskSpec(grid(config), **config.masks)
    except ValueError as error:
        raise UserError(f"masks: {error}") from error


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
