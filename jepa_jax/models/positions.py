"""Fixed two-dimensional sine-cosine positions, as the reference computes them."""

import functools

import numpy as np
from jaxtyping import Float32


@functools.cache
def sincos_2d(width: int, rows: int, columns: int) -> Float32[np.ndarray, "N D"]:
    """Positions of a grid's patches in raster order: (rows·columns, width).

    The first half of the features encodes the column, the second half the row; each half is
    width/4 sines followed by as many cosines, of frequencies 10000^(-i/(width/4)).

    Raises:
      ValueError: if the width is no multiple of 4.
    """
    if width % 4:
        raise ValueError(f"width {width} is no multiple of 4, which sine-cosine positions need")
    frequency = 10_000.0 ** (-np.arange(width // 4) / (width / 4))
    row, column = np.divmod(np.arange(rows * columns), columns)
    angles = [place[:, None] * frequency for place in (column, row)]
    waves = [wave(angle) for angle in angles for wave in (np.sin, np.cos)]
    return np.concatenate(waves, axis=1).astype(np.float32)
