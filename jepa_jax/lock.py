"""A file's lock, for what only one process may do at a time."""

import fcntl
import time
from typing import IO

from absl import logging

from jepa_jax.errors import UserError


def take(lock: IO, doing: str, patience: float = 0.0) -> None:
    """Holds the lock until the file is closed or the process ends; some network drives have none.

    Args:
      doing: such as "training in runs/digits".
      patience: seconds to wait for another process.

    Raises:
      UserError: if another process has it and does not end in that time.
    """
    end, told = time.monotonic() + patience, False
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= end:
                raise UserError(f"another process is {doing}: let it finish, or stop it") from error
        except OSError:
            return None
        if not told:
            logging.warning("another process is %s: waiting up to %g seconds", doing, patience)
            told = True
        time.sleep(min(1, patience / 10))
