"""What a compiled program sends between devices."""

import collections
import re
from typing import NamedTuple

from jepa_jax.compilation.hlo import (
    Instruction,
    Program,
    body_of,
    bytes_of,
    called,
    operands,
    trip_count,
)

WITHIN = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
KINDS = (*WITHIN, *(f"{kind} between slices" for kind in WITHIN))

# What leaves a TPU slice goes through the host.
_BETWEEN = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
# A product that XLA weaves with the gather of an operand or the scatter of its result: a loop
# that passes pieces round a ring.
_RING = re.compile(r"windowed_dot_general_body_(ag|rs)")
_RING_KINDS = {"ag": "all-gather", "rs": "reduce-scatter"}


class Traffic(NamedTuple):
    """Of one kind of collective in one run of the program."""

    count: int
    bytes: int  # a chip's: of what goes in or of what comes out, whichever is larger


def collectives(program: Program) -> dict[str, Traffic]:
    """Counts and bytes by kind, for one run of a program on one device.

    The body of a loop counts as often as it runs. A gather or scatter that XLA carries out as a
    ring of permutes inside a matrix product counts as one, with the bytes of all its permutes;
    a permute before or after the ring is listed as what it is.
    """
    types = {i.name: i.result for body in program.computations.values() for i in body}
    found = []  # (kind, how often, bytes in all)
    pieces = {}  # (kind, chain): (how often, bytes each time)

    def visit(name: str, times: int, ring: str | None):
        for instruction in program.computations[name]:
            kind = instruction.operation.removesuffix("-start")
            if kind in WITHIN:
                size = _size(instruction, types)
                if kind == "all-reduce" and "all-reduce-scatter" in name:
                    kind = "reduce-scatter"
                chain = re.search(r'chain_id="(\d+)"', instruction.rest)
                if ring:
                    found.append((ring, 0, times * size))
                elif chain:
                    # One that other work overlaps appears again in each fusion with a part of
                    # that work, also inside loops.
                    fewest, _ = pieces.get((kind, chain[1]), (times, size))
                    pieces[kind, chain[1]] = min(times, fewest), size
                else:
                    found.append((kind, times, times * size))
            elif kind == "send" and (between := _BETWEEN.search(instruction.rest)):
                kind = f"{between[1].lower().replace('_', '-')} between slices"
                found.append((kind, times, times * _size(instruction, types)))
            elif instruction.operation == "while":
                body = body_of(instruction)
                woven = _RING.search(body)
                if woven:
                    found.append((_RING_KINDS[woven[1]], times, 0))
                turns = times * trip_count(instruction, program)
                visit(body, turns, _RING_KINDS[woven[1]] if woven else ring)
            else:
                for callee in called(instruction):
                    visit(callee, times, ring)

    visit(program.entry, 1, None)
    found += [(kind, times, times * size) for (kind, _), (times, size) in pieces.items()]
    total = collections.defaultdict(lambda: Traffic(0, 0))
    for kind, times, size in found:
        total[kind] = Traffic(total[kind].count + times, total[kind].bytes + size)
    return {kind: total[kind] for kind in KINDS if kind in total}


def _size(instruction: Instruction, types: dict[str, str]) -> int:
    inward = sum(bytes_of(types.get(name, "")) for name in operands(instruction))
    outward = bytes_of(instruction.result)
    if instruction.operation.endswith("-start"):  # its result names the operands once more
        outward -= inward
    return max(inward, outward)
