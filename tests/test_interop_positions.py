"""Tables of positions in files."""

import numpy as np
import pytest

from jepa_jax.interop.positions import interpolate, sincos_grid
from jepa_jax.models.positions import sincos_2d


@pytest.mark.parametrize("grid", [(3, 5), (5, 3), (4, 4), (1, 8)])
def test_the_grid_of_sine_cosine_positions_is_found(grid):
    table = sincos_2d(16, *grid)
    assert sincos_grid(table) == grid
    assert sincos_grid(table + np.float32(0.001)) is None


def test_a_table_for_its_own_grid_is_bitwise_the_same():
    table = np.random.default_rng(0).normal(size=(12, 8)).astype(np.float32)
    np.testing.assert_array_equal(interpolate(table, (3, 4), (3, 4)), table)


def test_interpolation_equals_pytorch_s():
    torch = pytest.importorskip("torch", reason="needs jepa_jax[interop]")
    table = np.random.default_rng(0).normal(size=(12, 8)).astype(np.float32)
    image = torch.tensor(table, dtype=torch.float64).reshape(1, 3, 4, 8).permute(0, 3, 1, 2)
    for new in ((7, 9), (2, 3), (1, 4)):
        theirs = torch.nn.functional.interpolate(image, new, mode="bicubic", align_corners=False)
        theirs = theirs.permute(0, 2, 3, 1).reshape(-1, 8)
        np.testing.assert_allclose(interpolate(table, (3, 4), new), theirs, atol=1e-6)
