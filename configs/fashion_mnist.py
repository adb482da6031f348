"""Fashion-MNIST on two CPU cores."""

from ml_collections import ConfigDict

from jepa_jax.config import defaults


def get_config() -> ConfigDict:
    c = defaults()
    c.data.source = "npz"
    c.data.path = "data/fashion_mnist_{split}.npz"
    c.data.test_split = "test"
    c.data.image_size = (28, 28)
    c.data.channels = 1
    c.data.eval_crop = 1.0
    c.data.mean = (0.286,)
    c.data.std = (0.353,)

    c.model.size = "vit_ti"
    c.model.patch_size = 4
    c.model.depth = 6
    c.model.dtype = "float32"
    c.model.unroll = 6
    c.predictor.width = 96
    c.predictor.depth = 4

    c.optim.learning_rate = 5e-4
    c.optim.start_learning_rate = 1e-4
    c.optim.final_weight_decay = 0.04
    c.train.batch_size = 128
    c.train.epochs = 2.3
    c.train.warmup_epochs = 0.2
    c.train.log_every = 20
    c.probe.every_epochs = 0.5
    c.probe.test_images = 5000
    c.data.threads = 1
    return c
