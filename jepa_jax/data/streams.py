"""Random numbers by (seed, purpose, position): the same however the work is cut up."""

import numpy as np

# Purposes: streams that share a seed and nothing else.
ORDER, CROPS = 0, 1


class Stream:
    """One generator that jumps to any position, in a fifth of the time that making one takes.

    Philox computes its numbers from a counter; the positions are 2**192 numbers apart. Not for
    several threads at a time.

    >>> stream = Stream(seed=0, purpose=CROPS)
    >>> first, second = stream.at(7).random(), stream.at(8).random()
    >>> first == Stream(seed=0, purpose=CROPS).at(7).random() != second
    True
    """

    def __init__(self, seed: int, purpose: int):
        key = np.array([seed % 2**64, purpose], np.uint64)
        self._bits = np.random.Philox(key=key)
        self._state = self._bits.state
        self._generator = np.random.Generator(self._bits)

    def at(self, position: int) -> np.random.Generator:
        """The generator, at the start of the numbers of `position`. The next call moves it."""
        self._state["state"]["counter"][3] = position  # the highest of four words
        self._bits.state = self._state
        return self._generator
