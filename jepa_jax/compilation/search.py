"""The largest number that still fits, in few tries."""

from collections.abc import Callable

PRECISION = 1 / 16


def largest(fits: Callable[[int], bool], start: int, tried: dict[int, bool]) -> int:
    """The largest number that fits, to a sixteenth of it; 0 if not even 1 does.

    Args:
      fits: true up to some number and false beyond it; each call may take minutes.
      start: where to look first.
      tried: answers that are known already; the others are added.
    """

    def ask(number: int) -> bool:
        if number not in tried:
            tried[number] = fits(number)
        return tried[number]

    low, high = 0, start
    while ask(high):
        low, high = high, 2 * high
    while high - low > max(1, int(low * PRECISION)):
        middle = (low + high) // 2
        low, high = (middle, high) if ask(middle) else (low, middle)
    return low
