"""How fast a device can be: what its data sheet says, and what a product of matrices reaches."""

import time

import jax

# FLOP/s of dense bfloat16 matrix products by the makers' data sheets, for what `device_kind`
# begins with; the longest beginning counts.
SHEETS = {
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H200": 989e12,
    "NVIDIA H200 NVL": 835e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,  # JAX knows both names
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
}
SIDE = {"cpu": 2048}  # rows and columns of the matrices
LARGE_SIDE = 8192  # of accelerators
TRIES = 3


def sheet_peak(kind: str, dtype: str = "bfloat16") -> float | None:
    """FLOP/s of a device by its data sheet; None where it is not known for this precision."""
    known = [name for name in SHEETS if kind.startswith(name)]
    return SHEETS[max(known, key=len)] if known and dtype == "bfloat16" else None


def measured_peak(dtype: str) -> float:
    """FLOP/s that a product of two large square matrices reaches on a device, best of three."""
    side = SIDE.get(jax.default_backend(), LARGE_SIDE)
    # Not ones: with those an H100 needs less power, and is a tenth faster.
    matrix = jax.random.normal(jax.random.key(0), (side, side), dtype)
    repeats = max(1, side // 1024)
    _product(matrix).block_until_ready()
    seconds = []
    for _ in range(TRIES):
        begin = time.perf_counter()
        for _ in range(repeats):
            product = _product(matrix)
        product.block_until_ready()
        seconds.append((time.perf_counter() - begin) / repeats)
    return 2 * side**3 / min(seconds)


@jax.jit
def _product(matrix: jax.Array) -> jax.Array:
    return matrix @ matrix
