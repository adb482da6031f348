"""Slices of TPUs, by the name that launch/compile.py takes, in the words of Cloud TPU and GKE."""

import dataclasses
import math
import re

from jepa_jax.errors import UserError

# Those that Cloud TPU takes for a number of chips.
FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
SMALL = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")
CUBES = (*SMALL, "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16")


@dataclasses.dataclass(frozen=True)
class Generation:
    """A kind of TPU.

    Attributes:
      accelerator: its name at Cloud TPU, without the number.
      cores: that the number counts a chip as.
      image: of its virtual machines.
      label: of its nodes in GKE.
      shapes: of its slices.
      quota, spot_quota: that limit its use in a zone.
    """

    name: str
    accelerator: str
    cores: int
    image: str
    label: str
    shapes: tuple[str, ...]
    quota: str
    spot_quota: str


GENERATIONS = {
    generation.name: generation
    for generation in (
        Generation(
            "v4",
            "v4",
            2,
            "tpu-ubuntu2204-base",
            "tpu-v4-podslice",
            CUBES,
            "TPUV4sPodPerProjectPerZoneForTPUAPI",
            "TPUV4sPreemptiblePodPerProjectPerZoneForTPUAPI",
        ),
        Generation(
            "v5e",
            "v5litepod",
            1,
            "v2-alpha-tpuv5-lite",
            "tpu-v5-lite-podslice",
            FLAT,
            "TPUV5sLitepodPerProjectPerZoneForTPUAPI",
            "TPUV5sPreemptibleLitepodPerProjectPerZoneForTPUAPI",
        ),
        Generation(
            "v5p",
            "v5p",
            2,
            "v2-alpha-tpuv5",
            "tpu-v5p-slice",
            (*CUBES, "16x16x16"),
            "TPUV5PPerProjectPerZoneForTPUAPI",
            "TPUV5PPreemptiblePerProjectPerZoneForTPUAPI",
        ),
        Generation(
            "v6e",
            "v6e",
            1,
            "v2-alpha-tpuv6e",
            "tpu-v6e-slice",
            FLAT,
            "TPUV6EPerProjectPerZoneForTPUAPI",
            "TPUV6EPreemptiblePerProjectPerZoneForTPUAPI",
        ),
    )
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Slices of chips of a generation, each in a shape such as "4x4x8".

    >>> parse("2xv5p:4x4x8").accelerator_type
    'v5p-256'
    """

    generation: Generation
    shape: str
    slices: int = 1

    @property
    def chips(self) -> int:
        """Of a slice."""
        return math.prod(map(int, self.shape.split("x")))

    @property
    def accelerator_type(self) -> str:
        """Of a slice."""
        return f"{self.generation.accelerator}-{self.chips * self.generation.cores}"


def parse(text: str | None) -> Topology:
    """A topology such as "v5e:16x16", or "2xv5e:16x16" for two such slices.

    Raises:
      UserError: if there is none of that name.
    """
    match = re.fullmatch(r"(?:([1-9]\d*)x)?(\w+):(\d+(?:x\d+){1,2})", text or "", re.ASCII)
    if match is None or match[2] not in GENERATIONS:
        raise UserError(
            f"--topology={text or ''} is none: write CHIP:SHAPE, such as v5e:16x16 or v5p:4x4x8, or"
            f" 2xCHIP:SHAPE for two slices, with a chip of {', '.join(GENERATIONS)}"
        )
    generation, shape = GENERATIONS[match[2]], match[3]
    if shape not in generation.shapes:
        raise UserError(
            f"--topology={text} is not offered: {generation.name} comes as"
            f" {', '.join(generation.shapes)}"
        )
    return Topology(generation, shape, int(match[1] or 1))
