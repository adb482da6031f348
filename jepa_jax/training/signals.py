"""SIGTERM and SIGINT as a wish that the loop fulfils at the end of a step."""

import signal
import sys


class StopWish:
    """True once the process was asked to stop; a second signal ends it at once. A context.

    Args:
      answer: what the user is told at the first signal.
    """

    def __init__(self, answer: str = "stopping after this step, to save; again to stop at once"):
        self._answer = answer
        self._wished = False
        self._before = {}

    def __enter__(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._wish)
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __bool__(self):
        return self._wished

    def _wish(self, number, frame):
        if self._wished:
            sys.exit(128 + number)
        self._wished = True
        print(self._answer, file=sys.stderr)
