"""First steps: handwritten digits that come with scikit-learn, on a laptop, no download.

    python launch/train.py --config=configs/digits.py --workdir=runs/digits

1,797 real images of 8×8 pixels, every fifth held out.
"""

from ml_collections import ConfigDict

from jepa_jax.config import defaults


def get_config() -> ConfigDict:
    c = defaults()
    c.data.source = "digits"
    c.data.test_split = "test"
    c.data.image_size = (16, 16)
    c.data.channels = 1
    c.data.crop_scale = (0.6, 1.0)
    c.data.threads = 1
    c.data.eval_crop = 1.0
    c.data.mean = (0.305,)
    c.data.std = (0.376,)

    c.model.size = "vit_ti"
    c.model.patch_size = 2
    c.model.width = 96
    c.model.depth = 4
    c.model.heads = 3
    c.model.dtype = "float32"
    c.model.unroll = 4
    c.predictor.width = 48
    c.predictor.depth = 2

    c.optim.learning_rate = 1e-3
    c.optim.start_learning_rate = 1e-4
    c.optim.final_weight_decay = 0.04
    c.train.batch_size = 128
    c.train.epochs = 40.0
    c.train.warmup_epochs = 4.0
    c.train.log_every = 10
    c.probe.every_epochs = 10.0
    return c
