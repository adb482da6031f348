"""Variables that may pass, by name; their values are never printed nor put on a command line."""

import os
import re
import shlex
from collections.abc import Iterable, Mapping

from jepa_jax.errors import UserError
from jepa_jax.submission.training import refuse_control_characters

HIDDEN = "(hidden)"


def allowed(names: Iterable[str], source: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables of those names.

    Raises:
      UserError: for a name that is none, or that is not set.
    """
    found = {}
    for name in names:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise UserError(
                f"--env takes names of variables, whose values it reads itself: {name!r} is none"
            )
        if name not in source:
            raise UserError(f"--env={name}: it is not set here; export it, or leave it out")
        try:
            refuse_control_characters(source[name])
        except UserError:
            raise UserError(
                f"--env={name}: its value has a line break or another control character"
            ) from None
        found[name] = source[name]
    return found


def shell_lines(variables: Mapping[str, str]) -> str:
    """For a shell to source."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())


def without_values(text: str, variables: Mapping[str, str]) -> str:
    """What another program printed, without the values of those variables.

    >>> without_values("A_TOKEN=sesame", {"A_TOKEN": "sesame"})
    'A_TOKEN=(hidden)'
    """
    for value in filter(None, variables.values()):
        text = text.replace(value, HIDDEN)
    return text
