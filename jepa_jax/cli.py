"""What all commands share: flags, and wrong input answered in one line with an exit code."""

import contextlib
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest

BEGAN = time.time()
if os.path.isfile(sys.argv[0]):  # a command, in whose folder inspect.py would hide Python's own
    HERE = os.path.dirname(os.path.realpath(sys.argv[0]))
    sys.path[:] = [path for path in sys.path if path != HERE]

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from jepa_jax.errors import UserError


def config_flag() -> flags.FlagHolder:
    """--config=FILE, and --config.KEY=VALUE for what it shall say otherwise."""
    return config_flags.DEFINE_config_file(
        "config", help_string="A recipe, such as configs/digits.py.", lock_config=True
    )


def process_flags() -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Flags by which several processes find each other; and around what they do together, before
    anything asks for devices, what joins them, and ends them where one of them fails."""
    coordinator = flags.DEFINE_string(
        "coordinator", "", "HOST:PORT of process 0 of several, where JAX can't find them by itself."
    )
    processes = flags.DEFINE_integer(
        "processes", None, "How many there are, with --coordinator; 1 needs none."
    )
    process = flags.DEFINE_integer("process", None, "Which one it is, from 0, with --coordinator.")
    start = flags.DEFINE_integer("start_seconds", 300, "How long to wait for the others.", 1)
    heartbeat = flags.DEFINE_integer(
        "heartbeat_seconds", 100, "After which a process that is silent counts as dead.", 1
    )

    @contextlib.contextmanager
    def together() -> Iterator[None]:
        from jepa_jax.parallel.processes import leaving_at_once
        from jepa_jax.parallel.processes import start as join

        join(
            coordinator.value,
            processes.value,
            process.value,
            start_seconds=start.value,
            heartbeat_seconds=heartbeat.value,
        )
        with leaving_at_once():
            yield

    return together


def run(
    main: Callable[..., int | None],
    words: Sequence[str] = (),
    config: Callable[[str], ConfigDict | None] | None = None,
    several: str | None = None,
) -> None:
    """Parses the flags, calls `main` and exits with what it returns.

    Args:
      words: one of them must follow the command's name, such as "data", or "run DIR" where
        something must follow it; `main` is called with the word and what follows.
      config: where no --config is given, what takes its place, from the value of --checkpoint.
      several: what must follow the command's name instead of `words`, once or more.
    """
    # File names and class names may hold what a terminal can't show; that ends no run.
    sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = main(*_parse(words, config, several))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.code
    except ImportError as error:  # of fsspec, wherever a path in a bucket is opened first
        if "gcsfs" not in str(error):
            raise
        print("error: gs://… needs another package: pip install -e '.[gcs]'", file=sys.stderr)
        code = UserError.code
    sys.exit(code)


def _parse(
    words: Sequence[str],
    config: Callable[[str], ConfigDict | None] | None,
    several: str | None,
) -> list[str]:
    from jepa_jax.validation import unknown_key  # brings JAX, which worker processes do without

    app.define_help_flags()
    given = list(_flags(sys.argv[1:]))
    overrides = overridden()
    recipes = [path for name, path in given if name == "config"]
    for problem in filter(None, map(unknown_key, overrides)):
        raise UserError(problem)
    if config and not recipes and (stored := config(dict(given).get("checkpoint", ""))):
        del flags.FLAGS.config
        config_flags.DEFINE_config_dict("config", stored, lock_config=True)
    elif overrides and not recipes:
        raise UserError("give the recipe that is to be changed: --config=configs/digits.py")
    for path in recipes:  # config_flags tells of a file that is not there only when it is used
        if not os.path.isfile(path.split(":")[0]):
            raise UserError(f"--config={path} is no file: name a recipe, such as configs/digits.py")
    try:
        rest = flags.FLAGS(sys.argv)[1:]
    except Exception as error:  # whatever a recipe may raise, it is run here
        raise UserError(f"flags or recipe: {_summary(error)}") from error
    if several:
        if not rest:
            raise UserError(f"say what is meant: {several}")
        return rest
    meant = [word.split() for word in words if word.split()[0] in rest[:1]]
    if words and not (meant and len(meant[0]) <= len(rest)):
        raise UserError(f"say what is meant, before the flags: {' or '.join(words)}")
    if unknown := rest[sum(map(len, meant)) :]:
        raise UserError(f"{unknown[0]!r} is no flag: write --NAME=VALUE")
    return rest


def overridden() -> list[str]:
    """The keys of the recipe that flags --config.KEY=VALUE say otherwise, such as "data.path"."""
    names = [name for name, _ in _flags(sys.argv[1:])]
    return [name.removeprefix("config.") for name in names if name.startswith("config.")]


def _flags(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Names and values of --NAME=VALUE and --NAME VALUE."""
    for word, after in zip_longest(words, words[1:], fillvalue=""):
        name, equals, value = word.lstrip("-").partition("=")
        if word.startswith("-"):
            yield name, value if equals else after


def without(words: Sequence[str], *flags: str) -> Iterator[str]:
    """A command's words but these flags, as --NAME=VALUE or --NAME VALUE."""
    name = ""
    for word in words:
        if word.startswith("-"):
            name = word.lstrip("-").partition("=")[0]
        if name not in flags:
            yield word


def _summary(error: BaseException) -> str:
    """What went wrong in the first place, in a line."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).replace("\\n", "\n").strip(" '\n")  # a KeyError's text is quoted
    hint = re.search(r"Did you mean .*?\?", text)
    first = text.splitlines()[0].split(" Other fields present")[0] if text else ""
    return " ".join(filter(None, (first or type(error).__name__, hint and hint[0])))
