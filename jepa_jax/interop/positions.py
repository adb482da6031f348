"""Tables of positions in files: whose grid they are of, and for other grids."""

import numpy as np
from jaxtyping import Float

from jepa_jax.interop.layout import TOLERANCE
from jepa_jax.models.positions import sincos_2d

Table = Float[np.ndarray, "N D"]


def sincos_grid(table: Table) -> tuple[int, int] | None:
    """Rows and columns of the grid whose sine-cosine positions these are; None if they are none."""
    patches, width = table.shape
    if width % 4:
        return None
    for rows in range(1, patches + 1):
        if patches % rows == 0:
            ours = sincos_2d(width, rows, patches // rows)
            if np.allclose(table, ours, rtol=0, atol=TOLERANCE):
                return rows, patches // rows
    return None


def interpolate(table: Table, old: tuple[int, int], new: tuple[int, int]) -> Table:
    """A table for another grid, as Hugging Face does it: bicubic, without anti-aliasing."""
    rows, columns = (_bicubic(*sides) for sides in zip(old, new, strict=True))
    image = np.asarray(table, np.float64).reshape(*old, -1)
    image = np.einsum("rR,cC,RCd->rcd", rows, columns, image, optimize=True)
    return image.reshape(new[0] * new[1], -1).astype(np.float32)


def _bicubic(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """The weights of old points in new ones: PyTorch's bicubic (a = -3/4, edges repeated)."""
    place = (np.arange(new) + 0.5) * old / new - 0.5
    weights = np.zeros((new, old))
    for offset in (-1, 0, 1, 2):
        point = np.floor(place) + offset
        index = np.clip(point, 0, old - 1).astype(int)
        np.add.at(weights, (np.arange(new), index), _cubic(np.abs(place - point)))
    return weights


def _cubic(x: np.ndarray, a: float = -0.75) -> np.ndarray:
    """Keys' cubic convolution kernel (1981) for distances 0 to 2."""
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, far)
