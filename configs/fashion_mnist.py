"""Fashion-MNIST: a first recipe that learns from real images on a CPU.

    python launch/train.py --config=configs/fashion_mnist.py --workdir=runs/fashion_mnist

The images as data/fashion_mnist_train.npz and data/fashion_mnist_test.npz (or say
--config.data.path='WHERE/fashion_mnist_{split}.npz'), each with `images` uint8 (n, 28, 28) and
`labels`. Made once with scikit-learn, which downloads 30 MB:

    import os
    import numpy as np
    from sklearn.datasets import fetch_openml
    data = fetch_openml("Fashion-MNIST", version=1, as_frame=False, parser="liac-arff")
    images, labels = data.data.reshape(-1, 28, 28).astype(np.uint8), data.target.astype(int)
    os.makedirs("data", exist_ok=True)
    np.savez("data/fashion_mnist_train.npz", images=images[:60000], labels=labels[:60000])
    np.savez("data/fashion_mnist_test.npz", images=images[60000:], labels=labels[60000:])

Hardware: one CPU core, 47 minutes while the other is busy. To expect (10,000 training and 10,000
test images): k-NN 81.3 % and linear probe 83.5 % with the trained target encoder, 47.5 % and 65.7 %
with the untrained one, 80.0 % and 82.5 % with raw pixels.

Numbers: a small ViT on a 7×7 grid of which a quarter (K = 12) is seen, found one factor at a time
(configs/studies/small_images.py, docs/studies.md). What mattered most in runs of an epoch are
features that vary, and not together (the regularizer: 76.7 and 81.4 % instead of 66.1 and 74.5 on
held-out images), and many small steps: batches of 32, a quarter of the published learning rate, and
a target encoder whose half-life is 11,000 images at first. Without the regularizer, and with L2,
ten epochs end 3.7 and 2.2 points below this. Crops are whole. The schedules are stretched beyond
the end: near their own end, rate and target encoder hardly move, for a fifth of so short a run.
"""

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
    c.data.mean = (0.286,)  # of its pixels
    c.data.std = (0.353,)
    c.data.crop_scale = (1.0, 1.0)
    c.data.threads = 1

    c.model.patch_size = 4
    c.model.width = 96
    c.model.depth = 4
    c.model.heads = 4
    c.model.dtype = "float32"
    c.model.unroll = 4
    c.predictor.width = 64
    c.predictor.depth = 2
    c.regularizer.variance = 0.1
    c.regularizer.covariance = 0.01

    c.optim.learning_rate = 2.5e-4
    c.optim.start_learning_rate = 1e-4
    c.optim.final_weight_decay = 0.04
    c.optim.ema = (0.998, 1.0)
    c.optim.schedule_scale = 1.25
    c.train.batch_size = 32
    c.train.epochs = 10.0
    c.train.warmup_epochs = 0.2
    c.probe.every_epochs = 1.0
    return c
