"""The story of a preparation, from a source to an ArrayRecord data set that TFDS reads."""

import dataclasses
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from typing import Any

from jepa_jax.data.prepare.display import Bar, broken_list, config_lines, result_table, say
from jepa_jax.data.prepare.folder import Content, Folder
from jepa_jax.data.prepare.plan import Plan, Shard, make_plan
from jepa_jax.data.prepare.request import Request
from jepa_jax.data.prepare.shards import write_shards
from jepa_jax.data.sources import no_labels
from jepa_jax.errors import UserError
from jepa_jax.exits import FINISHED, STOPPED


@dataclasses.dataclass(frozen=True)
class Means:
    """What has no say in what is written.

    Attributes:
      workers: processes.
      max_broken: share of the images that may be left out because they can't be read.
      stop: true once somebody asked to stop.
    """

    workers: int
    max_broken: float
    stop: Any


def prepare(request: Request, means: Means) -> int:
    """Writes a data set, or what is missing of it.

    Returns:
      The exit code: FINISHED, or STOPPED with all whole shards kept.

    Raises:
      UserError: for what the user can mend.
    """
    folder = Folder(request.to)
    try:
        if (result := folder.result(request)) is None:
            plan = make_plan(request)  # before anything is written
            with folder.lock():
                result = folder.result(request)  # of another process, while this one planned
                if result is None and (result := _make(request, plan, folder, means)) is None:
                    say("stopped; the same command goes on")
                    return STOPPED
        else:
            folder.compare(result["found"], _found_now(request))
    except OSError as error:
        path = error.filename or folder.path
        raise UserError(f"{path} can't be written: {error.strerror}") from error
    say(f"{folder.final} is finished")
    say(result_table(result))
    if result["broken"]:
        say(broken_list(result["broken"]))
    say(config_lines(folder.final, result["splits"]))
    return FINISHED


def _make(request: Request, plan: Plan, folder: Folder, means: Means) -> dict[str, Any] | None:
    """The result; None if it was stopped."""
    folder.claim(request, plan)
    for name, split in plan.splits.items():
        if not split.source.labelled:
            say(no_labels(request.data, name))
    write_missing(plan, folder, means)
    contents = folder.contents(plan)
    if None in contents.values():
        return None
    _check(_broken(contents), plan, folder, means)
    return folder.finish(request, plan, contents)


def _found_now(request: Request) -> dict[str, Any]:
    try:
        return make_plan(request).found()
    except UserError:  # the source is gone, and isn't needed any more
        return {}


def write_missing(plan: Plan, folder: Folder, means: Means) -> None:
    """Writes the shards that aren't there, until all are or the wish to stop comes."""
    contents = folder.contents(plan)
    missing = [shard for shard, content in contents.items() if content is None]
    broken = _broken(contents)
    start = len(broken) + sum(content.examples for content in contents.values() if content)
    going_on = f", {len(missing)} of which are missing" if start else ""
    say(f"{plan.images:,} images in {len(contents)} shards{going_on}")
    with (
        Bar(plan.images, start) as bar,
        closing(write_shards(plan, folder, missing, means.workers)) as steps,
    ):
        try:
            for progress in steps:
                so_far = broken + progress.broken
                bar.update(start + progress.done, len(so_far))
                _check(so_far, plan, folder, means)
                if means.stop:
                    break
        except BrokenProcessPool as error:
            if not means.stop:  # else the signal was sent to the workers too
                raise UserError(
                    "a worker process was killed, perhaps for want of memory: the same command"
                    f" goes on; give it fewer than --workers={means.workers}"
                ) from error


def _broken(contents: dict[Shard, Content | None]) -> list[str]:
    return [line for content in contents.values() if content for line in content.broken]


def _check(broken: list[str], plan: Plan, folder: Folder, means: Means) -> None:
    if len(broken) > means.max_broken * plan.images:
        raise UserError(
            f"{len(broken):,} of {plan.images:,} images can't be used, more than"
            f" --max_broken={means.max_broken:g} allows ({'; '.join(broken[:3])}): allow more, or"
            f" mend them, delete {folder.work} and start again"
        )
