"""What a compiled program sends between devices, read from its HLO text."""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

WITHIN = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")
KINDS = (*WITHIN, *(f"{kind} between slices" for kind in WITHIN))

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][a-z0-9-]*)\((.*)$")
_ARRAY = re.compile(r"\b(pred|bf16|[a-z]\d+)(?:e\w+)?\[([\d,]*)\]")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.-]+)"
)
# What leaves a TPU slice goes through the host.
_BETWEEN = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
# A product that XLA weaves with the gather of an operand or the scatter of its result: a loop
# that passes pieces round a ring.
_RING = re.compile(r"windowed_dot_general_body_(ag|rs)")
_RING_KINDS = {"ag": "all-gather", "rs": "reduce-scatter"}


class Traffic(NamedTuple):
    """Of one kind of collective in one run of the program."""

    count: int
    bytes: int  # a chip's: of what goes in or of what comes out, whichever is larger


@dataclasses.dataclass(frozen=True)
class Instruction:
    name: str
    result: str  # its type
    operation: str
    rest: str  # operands and attributes


def collectives(hlo: str) -> dict[str, Traffic]:
    """Counts and bytes by kind, for one run of a compiled module on one device.

    The body of a loop counts as often as it runs. A gather or scatter that XLA carries out as a
    ring of permutes inside a matrix product counts as one, with the bytes of all its permutes;
    a permute before or after the ring is listed as what it is.
    """
    computations, entry = _parse(hlo)
    types = {i.name: i.result for body in computations.values() for i in body}
    found = []  # (kind, how often, bytes in all)
    pieces = {}  # (kind, chain): (how often, bytes each time)

    def visit(name: str, times: int, ring: str | None):
        for instruction in computations[name]:
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
                body = re.search(r"body=%?([\w.-]+)", instruction.rest)[1]
                woven = _RING.search(body)
                if woven:
                    found.append((_RING_KINDS[woven[1]], times, 0))
                turns = times * _trip_count(instruction, computations)
                visit(body, turns, _RING_KINDS[woven[1]] if woven else ring)
            else:
                for called in _called(instruction):
                    visit(called, times, ring)

    visit(entry, 1, None)
    found += [(kind, times, times * size) for (kind, _), (times, size) in pieces.items()]
    total = collections.defaultdict(lambda: Traffic(0, 0))
    for kind, times, size in found:
        total[kind] = Traffic(total[kind].count + times, total[kind].bytes + size)
    return {kind: total[kind] for kind in KINDS if kind in total}


def _parse(hlo: str) -> tuple[dict[str, list[Instruction]], str]:
    computations, entry, body = {}, "", []
    for line in hlo.splitlines():
        if head := _COMPUTATION.match(line):
            body = computations[head[1]] = []
            entry = head[1] if line.startswith("ENTRY") else entry
        elif part := _INSTRUCTION.match(line):
            body.append(Instruction(*part.groups()))
    return computations, entry


def _called(instruction: Instruction) -> Iterator[str]:
    if instruction.operation in ("reduce", "all-reduce", "sort", "scatter", "reduce-window"):
        return  # what they apply to scalars sends nothing
    yield from _CALLED.findall(instruction.rest)
    for branches in _BRANCHES.findall(instruction.rest):
        yield from re.findall(r"[\w.-]+", branches)


def _trip_count(loop: Instruction, computations: dict[str, list[Instruction]]) -> int:
    """As XLA notes it, or else read from the loop's counter, which starts at 0."""
    if known := re.search(r'known_trip_count[\\":{]+n[\\":]+(\d+)', loop.rest):
        return int(known[1])
    condition, body = (
        {i.name: i for i in computations[re.search(rf"{part}=%?([\w.-]+)", loop.rest)[1]]}
        for part in ("condition", "body")
    )
    bound = max((_constant(i) for i in condition.values()), default=1)
    place = next(i for i in condition.values() if i.operation == "get-tuple-element")
    index = int(re.search(r"index=(\d+)", place.rest)[1])
    *_, root = body.values()
    counter = body[_operands(root)[index]]
    while counter.operation in ("copy", "bitcast"):
        counter = body[_operands(counter)[0]]
    step = max(_constant(body[name]) for name in _operands(counter))
    return -(-bound // max(step, 1))  # unrolled loops count by more than one


def _constant(instruction: Instruction) -> int:
    value = re.match(r"(\d+)\)", instruction.rest)
    return int(value[1]) if instruction.operation == "constant" and value else 0


def _operands(instruction: Instruction) -> list[str]:
    return re.findall(r"%([\w.-]+)", instruction.rest.split(")", 1)[0])


def _size(instruction: Instruction, types: dict[str, str]) -> int:
    inward = sum(_bytes(types.get(name, "")) for name in _operands(instruction))
    outward = _bytes(instruction.result)
    if instruction.operation.endswith("-start"):  # its result names the operands once more
        outward -= inward
    return max(inward, outward)


def _bytes(types: str) -> int:
    return sum(
        max(1, int(re.sub(r"\D", "", kind) or 8) // 8) * math.prod(map(int, filter(None, dims)))
        for kind, shape in _ARRAY.findall(types)
        if (dims := shape.split(",")) != [""]  # scalars are the bookkeeping of -start
    )
