"""TPU chips that are only said to be there, as far as a mesh is made of them."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    id: int
    slice_index: int
    process_index: int
    coords: tuple[int, int, int]
    platform: str = "tpu"
    device_kind: str = "TPU v5 lite"
    core_on_chip: int = 0


def slices(number: int) -> list[Chip]:
    """Slices of 4×4 chips, whose hosts have 2×2 of them each."""
    return [
        Chip(
            id=16 * part + 4 * y + x,
            slice_index=part,
            process_index=4 * part + y // 2 * 2 + x // 2,
            coords=(x, y, 0),
        )
        for part in range(number)
        for y in range(4)
        for x in range(4)
    ]
