"""Storage that fails, as an operating system says it: told from what it holds being damaged."""

import errno

WAITS = (1, 2, 4, 8, 16)  # seconds between tries to read

# What a damaged or missing file may lead to, among the errors of an operating system.
OF_DAMAGE = (
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ENAMETOOLONG, errno.ELOOP),
    *(errno.EBADMSG, errno.EOVERFLOW, errno.EFBIG),
)


def is_outage(error: OSError) -> bool:
    """Whether storage could not be reached or refused, so that nothing is known of what it holds.

    Not so for what is missing: on storage that can be reached, that is damage.
    """
    return not isinstance(error, FileNotFoundError) and error.errno not in OF_DAMAGE
