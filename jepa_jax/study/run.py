"""Runs a study: one run after another, each only once."""

from collections.abc import Sequence

import jax
from etils import epath

from jepa_jax.console import new_console, say
from jepa_jax.errors import RunFailed, UserError
from jepa_jax.exits import FINISHED
from jepa_jax.study.plan import Planned
from jepa_jax.study.record import failure_of, read, record_of, write
from jepa_jax.training.loop import train


def run_study(runs: Sequence[Planned], out: epath.Path, records: epath.Path) -> int:
    """Trains what has no record yet; what was stopped goes on.

    Args:
      out: in which each run has a folder.
      records: of the JSON files, one for each run.

    Returns:
      The exit code: FINISHED, or that of a run that was stopped, with its state saved.

    Raises:
      UserError: for a record that is of another setting.
    """
    console = new_console()
    for i, planned in enumerate(runs, start=1):
        where = f"{planned.name}, run {i} of {len(runs)}"
        if (file := records / f"{planned.name}.json").exists():
            read(file, planned)  # not that of another setting
            say(console, f"{where}: done before")
            continue
        said = ", ".join(f"{key}={value}" for key, value in planned.changes.items())
        say(console, f"{where}: {said or 'the recipe as it is'}")
        folder = out / planned.name
        try:
            code = train(planned.config, str(folder))
        except RunFailed as error:  # no reason not to try the others
            say(console, f"{where} failed: {error}")
            record = failure_of(planned, str(error))
        else:
            if code != FINISHED:
                return code
            record = record_of(planned, folder)
        write(records, planned.name, record)
        jax.clear_caches()  # programs of this run serve no other
    return FINISHED


def share(runs: Sequence[Planned], part: str) -> list[Planned]:
    """The part "2/4" of a study: the second of four, run by run in turn.

    Raises:
      UserError: if it is none.
    """
    number, _, count = part.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise UserError(f"--part={part}: give it as 2/4, the second of four")
    return list(runs[int(number) - 1 :: int(count)])
