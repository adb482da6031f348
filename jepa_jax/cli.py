"""What all commands share: flags, and wrong input answered in one line with exit code 2."""

import sys
from collections.abc import Callable

from absl import app, flags
from ml_collections import config_flags

from jepa_jax.errors import UserError
from jepa_jax.validation import unknown_key

WRONG_INPUT = 2  # exit code


def config_flag() -> flags.FlagHolder:
    """--config=FILE, and --config.KEY=VALUE for what it shall say otherwise."""
    return config_flags.DEFINE_config_file(
        "config", help_string="A recipe, such as configs/digits.py.", lock_config=True
    )


def run(main: Callable[[], int | None]) -> None:
    """Parses the flags, calls `main` and exits with what it returns."""
    try:
        _parse()
        code = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = WRONG_INPUT
    sys.exit(code)


def _parse():
    app.define_help_flags()
    for argument in sys.argv[1:]:
        if argument.lstrip("-").startswith("config."):
            problem = unknown_key(argument.lstrip("-").split("=")[0].removeprefix("config."))
            if problem:
                raise UserError(problem)
    try:
        rest = flags.FLAGS(sys.argv)[1:]
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(_first_line(error)) from error
    except OSError as error:
        raise UserError(
            f"--config names a file that cannot be read: {_first_line(error)}"
        ) from error
    if rest:
        raise UserError(f"{rest[0]!r} is no flag: write --NAME=VALUE")


def _first_line(error: Exception) -> str:
    text = error.args[0] if isinstance(error, KeyError | AttributeError) and error.args else error
    return next(iter(str(text).strip().splitlines()), type(error).__name__)
