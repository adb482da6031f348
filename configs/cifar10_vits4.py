"""A ViT-S/4 on CIFAR-10, for one GPU.

    python launch/train.py --config=configs/cifar10_vits4.py --workdir=runs/cifar10

Images as class folders in data/cifar10/train and data/cifar10/test; for zip files of them, say
--config.data.path=data/cifar10/{split}.zip. Made once from cifar-10-binary.tar.gz, to be downloaded
from https://www.cs.toronto.edu/~kriz/cifar.html:

    import os, tarfile
    import numpy as np
    from PIL import Image
    names = "airplane automobile bird cat deer dog frog horse ship truck".split()
    with tarfile.open("cifar-10-binary.tar.gz") as tar:
        for part in [file for file in tar if file.name.endswith(".bin")]:
            split = "test" if "test" in part.name else "train"
            records = np.frombuffer(tar.extractfile(part).read(), np.uint8).reshape(-1, 3073)
            for number, record in enumerate(records):
                folder = f"data/cifar10/{split}/{names[record[0]]}"
                os.makedirs(folder, exist_ok=True)
                image = Image.fromarray(record[1:].reshape(3, 32, 32).transpose(1, 2, 0))
                image.save(f"{folder}/{os.path.basename(part.name)}.{number}.png")

Hardware: one GPU of 16 GB. No paper trained this: patches of 4×4 pixels give a grid of 8×8. With
data.validation=0.1, and a learning rate that was lowered once on the way, 110 epochs of 45,000
images reached 65.8 % by k-NN and 68.6 % by a linear probe on 5,000 held-out images, with 10,000
that the probes learned from; on the 10,000 test images, with all 50,000, 70.6 % and 71.9 %. It took
14 minutes of an H200, for nine of which two other runs shared it, with the images as npz files
(--config.data.source=npz), --config.data.workers=8 and --config.data.threads=2. From PNGs the input
is slower.
Without VICReg's terms (`regularizer`) and with crops, 50 epochs reached 50.2 % and 59.8 %: see
docs/studies.md.
"""

from ml_collections import ConfigDict

from jepa_jax.config import defaults


def get_config() -> ConfigDict:
    c = defaults()
    c.data.path = "data/cifar10/{split}"
    c.data.test_split = "test"
    c.data.image_size = (32, 32)
    c.data.eval_crop = 1.0
    c.data.mean = (0.491, 0.482, 0.447)  # of its training images
    c.data.std = (0.247, 0.243, 0.262)
    c.data.flip = True
    c.data.crop_scale = (1.0, 1.0)  # whole images

    c.model.size = "vit_s"
    c.model.patch_size = 4
    c.predictor.width = 192
    c.predictor.depth = 4

    c.regularizer.variance = 0.1
    c.regularizer.covariance = 0.0006
    c.optim.learning_rate = 4e-4
    c.optim.start_learning_rate = 4e-5
    c.optim.final_weight_decay = 0.04
    c.optim.schedule_scale = 1.25
    c.train.batch_size = 256
    c.train.epochs = 110.0
    c.train.warmup_epochs = 15.0
    c.probe.every_epochs = 25.0
    return c
