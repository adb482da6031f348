"""CIFAR-10 on one CPU core: real colour images, in half an hour.

    python launch/train.py --config=configs/cifar10_cpu.py --workdir=runs/cifar10_cpu

Images as configs/cifar10_vits4.py says how to make them.

Hardware: one CPU core, 30 minutes while the other is busy, of which 25 of training. To expect on
the 10,000 test images, with all 50,000 to learn from: k-NN 55.4 %, linear probe 52.9 %, of all four
blocks' features 56.8 % (raw pixels 39.0 % by k-NN, the untrained encoder 27.7 %), by

    python launch/evaluate.py --checkpoint=runs/cifar10_cpu --protocol=knn,linear \\
        --set=linear.layers=1,4

The table at the end of the run learns from 10,000 images, and is lower. With labels from scratch
the same network comes to 58.4 % in as many epochs, of 5,000 held-out images.

Numbers: images of 24×24 make a 6×6 grid, of which a quarter (K = 9) is seen; for 32×32 see
configs/cifar10_vits4.py. Found one factor at a time (docs/studies.md): what counts most is VICReg's
terms (`regularizer`), then a target encoder that is quick at first, and little covariance in a run
of ten epochs. Crops are as good as whole images here, and masks hardly count.
"""

from ml_collections import ConfigDict

from jepa_jax.config import defaults


def get_config() -> ConfigDict:
    c = defaults()
    c.data.path = "data/cifar10/{split}"
    c.data.test_split = "test"
    c.data.image_size = (24, 24)
    c.data.eval_crop = 1.0
    c.data.mean = (0.491, 0.482, 0.447)  # of its training images
    c.data.std = (0.247, 0.243, 0.262)
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
    c.regularizer.covariance = 0.0025

    c.optim.learning_rate = 5e-4
    c.optim.start_learning_rate = 1e-4
    c.optim.final_weight_decay = 0.04
    c.optim.ema = (0.996, 1.0)
    c.optim.schedule_scale = 1.25
    c.train.batch_size = 32
    c.train.epochs = 10.0
    c.train.warmup_epochs = 0.2
    c.probe.every_epochs = 2.0
    return c
