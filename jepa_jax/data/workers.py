"""What worker processes share: none outlives the process that it works for."""

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """To be called in a worker: however the parent ends, killed too, the worker ends with it."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
