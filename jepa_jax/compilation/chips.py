"""TPU topologies, described to the compiler without a TPU at hand."""

import dataclasses
import importlib.util
import os
import re

import jax
from jax.experimental import topologies

from jepa_jax.benchmark.peaks import sheet_peak
from jepa_jax.errors import UserError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """A kind of accelerator, by its published figures.

    Attributes:
      memory: bytes; None if not known.
      peak: FLOP/s of bfloat16 matrix products; None if not known.
      accelerator: what Cloud TPU calls a slice of it, without the number.
      options: with which the compiler sees one device a chip.
    """

    name: str
    memory: int | None = None
    peak: float | None = None
    accelerator: str = ""
    options: tuple[tuple[str, str], ...] = ()


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 32 * GIB, sheet_peak("TPU v4"), "v4", (("chip_config_name", "megacore"),)),
        Chip("v5e", 16 * GIB, sheet_peak("TPU v5e"), "v5litepod"),
        Chip("v5p", 95 * GIB, sheet_peak("TPU v5p"), "v5p"),
        Chip("v6e", 32 * GIB, sheet_peak("TPU v6e"), "v6e"),
    )
}


def topology_devices(name: str) -> tuple[list, Chip]:
    """The devices of a topology such as "v5e:16x16", which can be compiled for but not used.

    "2xv5e:16x16" is two such slices, with a slower network between them.

    Raises:
      UserError: if there is no such topology, or no compiler for it.
    """
    match = re.fullmatch(r"(?:([1-9]\d*)x)?((\w+):\d+(?:x\d+){1,2})", name, re.ASCII)
    if match is None or match[3] not in CHIPS:
        raise UserError(
            f"--topology={name} is none: write CHIP:SHAPE, such as v5e:16x16 or v5p:4x4x8, or"
            f" 2xCHIP:SHAPE for two slices, with a chip of {', '.join(CHIPS)}"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "--topology needs the TPU compiler, which runs on any machine: pip install 'jax[tpu]'"
        )
    slices, shape, chip = int(match[1] or 1), match[2], CHIPS[match[3]]
    options = dict(chip.options) | ({"num_slices": slices} if slices > 1 else {})
    # Nothing runs here: chips and GPUs that other processes use are left alone.
    jax.config.update("jax_platforms", "cpu")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    # Otherwise libtpu asks a cloud's metadata server what it runs on, and waits.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", f"{chip.accelerator}-8")
    try:
        described = topologies.get_topology_desc(shape, "tpu", **options)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0].removeprefix("INVALID_ARGUMENT: ")
        raise UserError(f"--topology={name} cannot be compiled for: {reason}") from error
    return list(described.devices), chip


def local_devices() -> tuple[list, Chip]:
    """This machine's devices, whose memory the backend tells if it knows."""
    devices = jax.devices()
    memory = (devices[0].memory_stats() or {}).get("bytes_limit")
    kind = devices[0].device_kind
    return devices, Chip(kind, memory, sheet_peak(kind))
