"""The usual PyTorch input: Pillow and tensors in a DataLoader. A peer to measure against.

    python torch_data.py FOLDER WORKERS SECONDS SIZE BATCH [uint8]

Random resized crop, mirrored by half, as torchvision does it on Pillow images; then, as training
scripts do, a normalised float tensor, or with `uint8` the pixels as they are.
"""

import itertools
import json
import math
import pathlib
import random
import sys

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from jepa_jax.benchmark.data import measure

MEAN = torch.tensor((0.485, 0.456, 0.406))[:, None, None]
STD = torch.tensor((0.229, 0.224, 0.225))[:, None, None]


class Photos(Dataset):
    def __init__(self, folder: str, size: int, as_float: bool):
        self.paths = sorted(pathlib.Path(folder).glob("*.jpg"))
        self.size, self.as_float = size, as_float

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        with open(self.paths[index], "rb") as file:
            image = Image.open(file).convert("RGB")
        left, top, width, height = random_box(*image.size)
        image = image.crop((left, top, left + width, top + height))
        image = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        return (pixels.float().div(255) - MEAN) / STD if self.as_float else pixels


def random_box(width: int, height: int) -> tuple[int, int, int, int]:
    for _ in range(10):
        area = width * height * random.uniform(0.3, 1.0)
        aspect = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return random.randint(0, width - w), random.randint(0, height - h), w, h
    side = min(width, height)
    return (width - side) // 2, (height - side) // 2, side, side


def main(folder: str, workers: int, seconds: float, size: int, batch: int, as_float: bool):
    photos = Photos(folder, size, as_float)
    loader = DataLoader(
        photos,
        batch,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        persistent_workers=workers > 0,
    )
    endless = itertools.chain.from_iterable(itertools.repeat(loader))
    print(json.dumps(measure(endless, lambda batch: tuple(batch.shape), seconds)))


if __name__ == "__main__":
    folder, *numbers = sys.argv[1:6]
    workers, size, batch = int(numbers[0]), int(numbers[2]), int(numbers[3])
    main(folder, workers, float(numbers[1]), size, batch, "uint8" not in sys.argv)
