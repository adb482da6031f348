"""Files that are open at a time: every process may have so many and no more."""

import errno
import os
import resource

from jepa_jax.errors import UserError

SPARE = 256  # open files beside those of the images
MOST = 10_240  # where there is no limit: what macOS takes, whatever it says
EXHAUSTED = os.strerror(errno.EMFILE)  # as ArrayRecord says it


class TooManyFiles(UserError):
    """The limit was reached: it isn't the fault of the image that was asked for."""


def allow(files: int) -> None:
    """Lets this process, and those that it starts, have as many files open as the system grants.

    Raises:
      TooManyFiles: if that isn't enough for so many files of images.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST if hard == resource.RLIM_INFINITY else hard
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if max(soft, most) < files + SPARE:
        raise too_many_files()


def too_many_files() -> TooManyFiles:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return TooManyFiles(
        f"a process may have {limit:,} files open here, too few for these images: raise the limit"
        " (`ulimit -n`), or put the images into fewer files"
    )
