"""SIGTERM and SIGINT as a wish that the loop fulfils at the end of a step."""

import os
import signal
import socket
import sys
import threading
import time

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Seconds in which more of them are the same wish: `timeout`, for one, signals a process and then
# its group, in which it is. Counted when they are read, which Python may delay.
TOGETHER = 0.2
SHOW_CURSOR = b"\x1b[?25h"


class StopWish:
    """True once the process was asked to stop; asked again later, it ends at once. A context.

    "At once" is also while the main thread is in a compilation, a save or anything else that does
    not come back to Python: there its handlers don't run, but the number of a signal is written to
    a socket, which a thread reads. The process then exits with 128 + the signal's number, as shells
    say it, and without any clean-up, which might hang.

    Args:
      answer: what the user is told at the first signal.
    """

    def __init__(self, answer: str = "stopping after this step, to save; again to stop at once"):
        self._answer = answer
        self._wished = False

    def __enter__(self):
        self._handlers = {number: signal.signal(number, self._wish) for number in SIGNALS}
        self._read, self._written = socket.socketpair()
        self._written.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._written.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._written.close()
        self._thread.join()
        self._read.close()

    def __bool__(self):
        return self._wished

    def _wish(self, number, frame):
        self._wished = True

    def _listen(self) -> None:
        first = None
        while received := self._read.recv(1):
            if received[0] not in SIGNALS:
                continue
            if first is None:
                first = time.monotonic()
                print(self._answer, file=sys.stderr, flush=True)
            elif time.monotonic() - first > TOGETHER:
                exit_now(128 + received[0])


def exit_now(code: int) -> None:
    """Ends the process without any clean-up but that of the terminal."""
    if os.isatty(1):
        os.write(1, SHOW_CURSOR)  # a progress bar hides it; not by print, which may be locked
    os._exit(code)
