"""Draws the pictures of these pages, with the code that draws those of a run.

python docs/figures.py                # masks, coverage
python docs/figures.py runs/digits    # and what the recipe `digits` has learned
"""

import pathlib
import sys
import tempfile

import jax
import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

from jepa_jax import masks
from jepa_jax.visualize import audit
from jepa_jax.visualize.masks import mask_overlay

FOLDER = pathlib.Path(__file__).parent / "figures"
GRID = (14, 14)
WIDTH = 1200  # pixels, of a picture at most
OF_A_RUN = ("loss",)


def photos() -> np.ndarray:
    """The two photographs that come with scikit-learn, their middle at 224×224."""
    whole = [Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    middle = [(each.width - each.height) // 2 for each in whole]
    boxes = [
        (left, 0, left + each.height, each.height) for left, each in zip(middle, whole, strict=True)
    ]
    pairs = zip(whole, boxes, strict=True)
    return np.stack([each.resize((224, 224), box=box) for each, box in pairs])


def draw(folder: pathlib.Path) -> None:
    """The pictures that need no run."""
    drawn = masks.sample(jax.random.key(0), masks.MaskSpec(GRID), batch_size=2)
    mask_overlay(photos(), drawn, GRID, folder / "masks.png")
    for style in ("paper", "reference"):
        found = audit.audit(masks.MaskSpec(GRID, style))
        audit.draw_audit(found, folder / f"coverage_{style}.png")


def shrink(picture: pathlib.Path, to: pathlib.Path) -> None:
    """A PNG of at most WIDTH pixels and 256 colours."""
    image = Image.open(picture).convert("RGB")
    image.thumbnail((WIDTH, WIDTH), Image.Resampling.LANCZOS)
    image.quantize(256, dither=Image.Dither.NONE).save(to, optimize=True)


def main(runs: list[str]) -> None:
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        draw(pathlib.Path(name))
        for picture in pathlib.Path(name).glob("*.png"):
            shrink(picture, FOLDER / picture.name)
    for run in runs:
        for picture in OF_A_RUN:
            shrink(pathlib.Path(run) / f"{picture}.png", FOLDER / f"digits_{picture}.png")


if __name__ == "__main__":
    main(sys.argv[1:])
