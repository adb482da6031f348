"""A compiled program, read from its HLO text."""

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

# Of an array's type: kind and sizes.
ARRAY = re.compile(r"\b(pred|bf16|[a-z]\d+)(?:e\w+)?\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][a-z0-9-]*)\((.*)$")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Instruction:
    name: str
    result: str  # its type
    operation: str
    rest: str  # operands and attributes


class Program(NamedTuple):
    computations: dict[str, list[Instruction]]
    entry: str  # the name of the one that runs


def parse(hlo: str) -> Program:
    computations, entry, body = {}, "", []
    for line in hlo.splitlines():
        if head := _COMPUTATION.match(line):
            body = computations[head[1]] = []
            entry = head[1] if line.startswith("ENTRY") else entry
        elif part := _INSTRUCTION.match(line):
            body.append(Instruction(*part.groups()))
    return Program(computations, entry)


def called(instruction: Instruction) -> Iterator[str]:
    """Names of the computations that it runs."""
    if instruction.operation in ("reduce", "all-reduce", "sort", "scatter", "reduce-window"):
        return  # what they apply to scalars sends nothing
    yield from _CALLED.findall(instruction.rest)
    for branches in _BRANCHES.findall(instruction.rest):
        yield from re.findall(r"[\w.-]+", branches)


def body_of(loop: Instruction) -> str:
    """The name of what a while runs in each turn."""
    return re.search(r"body=%?([\w.-]+)", loop.rest)[1]


def trip_count(loop: Instruction, program: Program) -> int:
    """As XLA notes it, or else read from the loop's counter, which starts at 0."""
    if known := re.search(r'known_trip_count[\\":{]+n[\\":]+(\d+)', loop.rest):
        return int(known[1])
    condition, body = (
        {i.name: i for i in program.computations[re.search(rf"{part}=%?([\w.-]+)", loop.rest)[1]]}
        for part in ("condition", "body")
    )
    bound = max((_constant(i) for i in condition.values()), default=1)
    place = next(i for i in condition.values() if i.operation == "get-tuple-element")
    index = int(re.search(r"index=(\d+)", place.rest)[1])
    *_, root = body.values()
    counter = body[operands(root)[index]]
    while counter.operation in ("copy", "bitcast"):
        counter = body[operands(counter)[0]]
    step = max(_constant(body[name]) for name in operands(counter))
    return -(-bound // max(step, 1))  # unrolled loops count by more than one


def _constant(instruction: Instruction) -> int:
    value = re.match(r"(\d+)\)", instruction.rest)
    return int(value[1]) if instruction.operation == "constant" and value else 0


def operands(instruction: Instruction) -> list[str]:
    return re.findall(r"%([\w.-]+)", instruction.rest.split(")", 1)[0])


def bytes_of(types: str) -> int:
    return sum(
        max(1, int(re.sub(r"\D", "", kind) or 8) // 8) * math.prod(map(int, filter(None, dims)))
        for kind, shape in ARRAY.findall(types)
        if (dims := shape.split(",")) != [""]  # scalars are the bookkeeping of -start
    )
