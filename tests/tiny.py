"""The smallest recipe: for tests that train."""

from ml_collections import ConfigDict

from jepa_jax.config import defaults


def tiny() -> ConfigDict:
    """Digits in patches of 2×2 pixels, a block of width 16, 22 batches an epoch."""
    c = defaults()
    c.data.source = "digits"
    c.data.test_split = "test"
    c.data.image_size = (8, 8)
    c.data.channels = 1
    c.data.eval_crop = 1.0
    c.data.mean, c.data.std = (0.3,), (0.4,)
    c.data.threads = 1
    c.model.patch_size = 2
    c.model.width, c.model.depth, c.model.heads = 16, 1, 2
    c.model.dtype = "float32"
    c.predictor.width, c.predictor.depth = 8, 1
    c.doctor.every = 0  # it would cost every test that trains a compilation
    c.train.batch_size = 64
    c.train.warmup_epochs = 0.1
    return c
