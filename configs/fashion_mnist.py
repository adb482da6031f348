"""Fashion-MNIST: a first recipe that learns from real images on two CPU cores.

    python launch/train.py --config=configs/fashion_mnist.py --workdir=runs/fashion_mnist

The images as data/fashion_mnist_train.npz and data/fashion_mnist_test.npz (or say
--config.data.path='WHERE/fashion_mnist_{split}.npz'), each with `images` uint8 (n, 28, 28) and
`labels`. Made once with scikit-learn, which downloads 30 MB:

    import numpy as np
    from sklearn.datasets import fetch_openml
    data = fetch_openml("Fashion-MNIST", version=1, as_frame=False)
    images, labels = data.data.reshape(-1, 28, 28).astype(np.uint8), data.target.astype(int)
    np.savez("data/fashion_mnist_train.npz", images=images[:60000], labels=labels[:60000])
    np.savez("data/fashion_mnist_test.npz", images=images[60000:], labels=labels[60000:])

Hardware: two CPU cores, 26 minutes at 228 images/s. To expect (10,000 training and 10,000 test
images): k-NN 73.6 % and linear probe 79.8 % with the trained target encoder, 51.4 % and 74.1 % with
the untrained one, and both still rising at the end.

Numbers: the encoder is a ViT-Ti cut to six blocks, on a 7×7 grid of which a quarter (K = 12) is
seen. Learning rate and final weight decay are half and a tenth of the published ones. The schedules
are stretched beyond the end: near their own end, rate and target encoder hardly move, for a fifth
of so short a run. A batch of 64, learning rate 3e-4 or 1e-3, a slower (.998) or faster (.99)
target encoder, the L1 loss, K = 16, gentler or harder crops (from 60 % or 15 % of the area on), a
predictor of two blocks and enlarged images with patches of 8 or 16 pixels were no better at the
same number of images.
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
    c.data.threads = 1

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
    c.optim.schedule_scale = 1.25
    c.train.batch_size = 128
    c.train.epochs = 6.0
    c.train.warmup_epochs = 0.2
    c.train.log_every = 20
    c.probe.every_epochs = 0.5
    return c
