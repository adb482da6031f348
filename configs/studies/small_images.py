"""Small images: which choices of a recipe matter.

    python launch/study.py --config=configs/studies/small_images.py --out=runs/study
    python launch/study.py --config=configs/studies/small_images.py:cifar10 --out=runs/cifar10
    python launch/study.py --config=configs/studies/small_images.py:imagenette --out=runs/nette

The first is Fashion-MNIST for a CPU: a ViT of width 96 and depth 4, one epoch, or as many as
--config.train.epochs=4 says. `cifar10_cpu` (24×24 pixels, one epoch) and `imagenette_cpu` (64×64,
100 epochs) train the same network. The others are for a GPU: a ViT-S, 50 epochs of CIFAR-10 or 400
of Imagenette. Accuracies are those of a tenth of the training images, held out, or with
--config.data.validation=0 of the test images. Images lie where configs/fashion_mnist.py and
configs/cifar10_vits4.py want them, Imagenette's in data/imagenette. Findings: docs/studies.md.
"""

from ml_collections import ConfigDict

from jepa_jax.config import architecture, defaults, mask_spec
from jepa_jax.rescale import rescaling


def get_config(which: str = "fashion_mnist") -> ConfigDict:
    c = defaults()
    c.data.test_split = "test"
    c.data.validation = 0.1
    c.data.eval_crop = 1.0
    c.optim.final_weight_decay = 0.04
    c.optim.schedule_scale = 1.25
    c.train.checkpoints_kept = 1
    c.probe.train_images = 10_000
    c.probe.test_images = 5_000
    DATA[which](c)
    return c


def _cifar10_images(c: ConfigDict) -> None:
    c.data.path = "data/cifar10/{split}"
    c.data.mean = (0.491, 0.482, 0.447)  # of its training images
    c.data.std = (0.247, 0.243, 0.262)
    c.model.patch_size = 4


def _cifar10(c: ConfigDict) -> None:
    _cifar10_images(c)
    c.data.image_size = (32, 32)
    c.data.flip = True
    c.model.size = "vit_s"
    c.predictor.width, c.predictor.depth = 192, 4
    c.optim.learning_rate, c.optim.start_learning_rate = 4e-4, 4e-5
    c.train.batch_size = 256
    c.train.epochs, c.train.warmup_epochs = 50.0, 5.0
    c.probe.every_epochs = 10.0


def _imagenette_images(c: ConfigDict) -> None:
    c.data.path = "data/imagenette/{split}"
    c.data.test_split = "val"


def _imagenette(c: ConfigDict) -> None:
    _imagenette_images(c)
    c.data.image_size = (128, 128)
    c.model.size, c.model.patch_size = "vit_s", 8
    c.predictor.width, c.predictor.depth = 192, 4
    c.optim.learning_rate, c.optim.start_learning_rate = 2e-4, 2e-5  # CIFAR-10's, rescaled: untried
    c.train.batch_size = 64
    c.train.epochs, c.train.warmup_epochs = 400.0, 20.0
    c.probe.every_epochs = 40.0


def _cifar10_cpu(c: ConfigDict) -> None:
    _cifar10_images(c)
    c.data.image_size = (24, 24)
    _for_a_cpu(c)


def _imagenette_cpu(c: ConfigDict) -> None:
    _imagenette_images(c)
    c.data.image_size = (64, 64)
    c.model.patch_size = 8
    _for_a_cpu(c)
    c.train.epochs, c.train.warmup_epochs = 100.0, 3.0
    c.probe.every_epochs = 10.0


def _fashion_mnist(c: ConfigDict) -> None:
    c.data.source = "npz"
    c.data.path = "data/fashion_mnist_{split}.npz"
    c.data.image_size = (28, 28)
    c.data.channels = 1
    c.data.mean, c.data.std = (0.286,), (0.353,)
    c.model.patch_size = 4
    _for_a_cpu(c)


def _for_a_cpu(c: ConfigDict) -> None:
    c.optim.learning_rate, c.optim.start_learning_rate = 2.5e-4, 1e-4
    c.optim.ema = (0.998, 1.0)
    c.train.batch_size = 32  # a run so short needs the steps
    c.model.width, c.model.depth, c.model.heads = 96, 4, 4
    c.model.dtype, c.model.unroll = "float32", 4
    c.predictor.width, c.predictor.depth = 64, 2
    c.data.threads = 1
    c.train.epochs, c.train.warmup_epochs = 1.0, 0.2
    c.train.log_every = 10
    c.train.checkpoint_every = 100_000
    c.probe.every_epochs = 0.5


DATA = {
    "fashion_mnist": _fashion_mnist,
    "cifar10_cpu": _cifar10_cpu,
    "imagenette_cpu": _imagenette_cpu,
    "cifar10": _cifar10,
    "imagenette": _imagenette,
}

REGULARIZERS = {  # weights of variance and covariance
    "none": (0.0, 0.0),
    "variance and covariance": (0.1, 0.01),
    "twice as much": (0.2, 0.02),
    "more covariance": (0.1, 0.04),
    "less covariance": (0.1, 0.0025),
    "far less covariance": (0.1, 0.0006),
    "variance alone": (0.1, 0.0),
    "covariance alone": (0.0, 0.01),
}


def get_factors(c: ConfigDict) -> dict:
    rate, batch, momentum = c.optim.learning_rate, c.train.batch_size, c.optim.ema[0]
    width, depth = c.predictor.width, c.predictor.depth
    size = architecture(c)
    kept = mask_spec(c).num_context  # K
    side, patch = c.data.image_size[0], c.model.patch_size
    smaller = next(p for p in range(patch - 1, 0, -1) if side % p == 0)
    larger = next(p for p in range(patch + 1, side + 1) if side % p == 0)
    return {
        "masks": {
            "reference": {"masks.style": "reference"},
            "block": {"masks.style": "block"},
            "random": {"masks.style": "random"},
            "rasterized": {"masks.style": "rasterized"},
        },
        "targets": {
            "pixels": {"targets": "pixels"},
            "1 block": {"masks.num_targets": 1},
            "2 blocks": {"masks.num_targets": 2},
            "smaller": {"masks.target_scale": (0.1, 0.15)},
            "larger": {"masks.target_scale": (0.2, 0.3), "masks.num_context": kept * 3 // 4},
        },
        "context": {
            "half as many": {"masks.num_context": kept // 2},
            "one and a half times": {"masks.num_context": kept * 3 // 2},
            "the first in raster order": {"masks.context_choice": "raster"},
            "a compact block": {"masks.context_choice": "block"},
        },
        "half-life of the target": {  # at the start; at the end it is endless
            "a quarter": {"optim.ema": (momentum**4, 1.0)},
            "half": {"optim.ema": (momentum**2, 1.0)},
            "double": {"optim.ema": (momentum**0.5, 1.0)},
            "the same to the end": {"optim.ema": (momentum, momentum)},
        },
        "learning rate": {
            "half": {"optim.learning_rate": rate / 2},
            "double": {"optim.learning_rate": 2 * rate},
            "fourfold": {"optim.learning_rate": 4 * rate},
        },
        "weight decay": {
            "none": {"optim.weight_decay": 0.0, "optim.final_weight_decay": 0.0},
            ".04 to .4": {"optim.final_weight_decay": 0.4},
        },
        "predictor": {
            "half as deep": {"predictor.depth": max(1, depth // 2)},
            "twice as deep": {"predictor.depth": 2 * depth},
            "half as wide": {"predictor.width": width // 2},
            "one pass": {"predictor.one_pass": True},
        },
        "images": {
            "crops from 10 %": {"data.crop_scale": (0.1, 1.0)},
            "crops from 60 %": {"data.crop_scale": (0.6, 1.0)},
            "whole": {"data.crop_scale": (1.0, 1.0)},
            "never mirrored" if c.data.flip else "mirrored": {"data.flip": not c.data.flip},
            "two draws of half the images": {"train.draws": 2, "train.batch_size": batch // 2},
        },
        "batch": {
            "a quarter and nothing else": {"train.batch_size": batch // 4},
            "a quarter rescaled": rescaling(c, batch // 4),
            "4 times and nothing else": {"train.batch_size": 4 * batch},
            "4 times rescaled": rescaling(c, 4 * batch),
        },
        "loss": {"L1": {"loss": "l1"}, "L2": {"loss": "l2"}},
        "regularizer": {
            name: {"regularizer.variance": variance, "regularizer.covariance": covariance}
            for name, (variance, covariance) in REGULARIZERS.items()
            if (variance, covariance) != (c.regularizer.variance, c.regularizer.covariance)
        },
        "network": {
            "larger patches": {"model.patch_size": larger},
            "smaller patches": {"model.patch_size": smaller},
            "twice as deep": {"model.depth": 2 * size["depth"]},
            "twice as wide": {"model.width": 2 * size["width"]},
        },
    }
