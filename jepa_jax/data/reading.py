"""Images on storage that may fail for a while, for which no image is to blame."""

import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from jepa_jax.data.descriptors import TooManyFiles, too_many_files
from jepa_jax.errors import StorageError, UserError
from jepa_jax.outage import WAITS, is_outage

T = TypeVar("T")

BLAMELESS = (StorageError, TooManyFiles)  # the image that was asked for may be sound
OF_ONE_FILE = (errno.EACCES, errno.EPERM)


def read_patiently(read: Callable[[], T], what: Path | str) -> T:
    """What `read` gives; while storage fails it is done again, ever later, for half a minute.

    Raises:
      StorageError: if storage does not stop failing.
      UserError: for what else the operating system says.
    """
    for wait in (*WAITS, None):
        try:
            return read()
        except OSError as error:
            refused = refusal(error, what)
            if wait is None or not isinstance(refused, StorageError):
                raise refused from error
        time.sleep(wait)


def refusal(error: OSError, what: Path | str) -> UserError:
    """What to say of a file that can't be read, or of storage that fails (a StorageError)."""
    if error.errno == errno.EMFILE:
        return too_many_files()
    told = f"{error.filename or what} can't be read: {error.strerror}"
    if is_outage(error) and error.errno not in OF_ONE_FILE:
        return StorageError(
            f"{told}; the same command goes on when it can be, or without the file if it alone is"
            " damaged"
        )
    return UserError(told)
