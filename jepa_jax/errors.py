"""The one kind of error that a user can mend: shown as one line, without a traceback."""

import difflib
from collections.abc import Iterable

from jepa_jax.exits import STORAGE, WRONG_INPUT


class UserError(ValueError):
    """Wrong input. The message is one line that names the input and says what to do.

    Attributes:
      code: with which a command exits.
    """

    code = WRONG_INPUT


class StorageError(UserError):
    """Files cannot be read or written, for want of room, permission or a connection."""

    code = STORAGE


class RunFailed(UserError):
    """Training led nowhere and was stopped: what was asked for can be done, but does not learn."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word; empty if nothing is like it.

    >>> did_you_mean("trian", ["train", "test"])
    "; did you mean 'train'?"
    """
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
