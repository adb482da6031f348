"""What a compiled program moves about without computing: large copies, and logits in memory."""

import dataclasses
import re

from jepa_jax.compilation.hlo import ARRAY, Program, body_of, bytes_of, called, trip_count

LEAST = 16 * 2**20  # bytes
# A TPU's fast memory, in layouts such as {1,0:T(8,128)S(1)}.
FAST = "S(1)"


@dataclasses.dataclass(frozen=True)
class Move:
    """Arrays of one kind that are written in one place of the model.

    Attributes:
      what: "copy", "transpose" or "float32 logits".
      result: type and layout.
      times: that it happens in a run.
      bytes: of all times together.
      where: in the model, as JAX names it.
    """

    what: str
    result: str
    times: int
    bytes: int
    where: str

    @property
    def fast(self) -> bool:
        """Whether it stays in the chip's fast memory; of several arrays, the last one."""
        return FAST in self.result.rsplit("[", 1)[-1]


def moves(program: Program, lengths: set[int], least: int = LEAST) -> list[Move]:
    """Those of a program that write so many bytes or more at a time, the most first.

    Copies are those to another layout; what fetches an array ahead into fast memory is none.
    Inside of fusions nothing is written.

    Args:
      lengths: of the sequences that attend: arrays of float32 (…, a, b) are their logits.
    """
    found: dict[tuple[str, str, str], Move] = {}

    def visit(name: str, times: int) -> None:
        for each in program.computations.get(name, ()):
            if each.operation == "while":
                visit(body_of(each), times * trip_count(each, program))
                continue
            if each.operation in ("call", "conditional"):
                for callee in called(each):
                    visit(callee, times)
            what = _what(each.operation, each.result, lengths)
            size = bytes_of(each.result)
            if what and "dynamic-update-slice" in each.name:  # in place, a layer of a stack
                size //= int(re.search(r"\[(\d+)", each.result)[1])
            if what and size >= least:
                where = re.search(r'op_name="([^"]*)"', each.rest)
                place = where[1] if where else ""
                same = what, each.result, place  # of a block that is no part of a scan
                before = found.get(same, Move(what, each.result, 0, 0, place))
                all_times, all_bytes = before.times + times, before.bytes + times * size
                found[same] = Move(what, each.result, all_times, all_bytes, place)

    visit(program.entry, 1)
    return sorted(found.values(), key=lambda move: -move.bytes)


def _what(operation: str, result: str, lengths: set[int]) -> str | None:
    if operation in ("copy", "transpose"):
        return operation
    if operation in ("fusion", "custom-call", "dot", "convolution"):
        for kind, shape in ARRAY.findall(result):
            sizes = [int(size) for size in shape.split(",") if size]
            if kind == "f32" and len(sizes) >= 4 and lengths >= set(sizes[-2:]):
                return "float32 logits"
    return None
