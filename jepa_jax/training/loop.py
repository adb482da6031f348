"""The story of a run, from a config and a folder to a table of what was learned."""

import contextlib
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from jepa_jax import ijepa
from jepa_jax.config import mask_spec
from jepa_jax.console import new_console, say
from jepa_jax.data.broken import Broken
from jepa_jax.data.transforms import EvalView
from jepa_jax.errors import RunFailed
from jepa_jax.exits import FINISHED, STOPPED
from jepa_jax.parallel import processes
from jepa_jax.parallel.placement import placement_table
from jepa_jax.parallel.sharding import batch_sharding
from jepa_jax.training.batches import train_batches
from jepa_jax.training.checkpoints import with_sharding
from jepa_jax.training.doctor import Doctor
from jepa_jax.training.goodput import account_table, goodput
from jepa_jax.training.guard import Diverged, Watch
from jepa_jax.training.loggers import Loggers, logger_names
from jepa_jax.training.metrics import measure, numbers
from jepa_jax.training.programs import keep_programs
from jepa_jax.training.progress import Display, introduction, result_table
from jepa_jax.training.rate import IN_FLIGHT, Rate
from jepa_jax.training.run import Run, claim, prepare
from jepa_jax.training.setup import jit_step
from jepa_jax.training.signals import StopWish
from jepa_jax.training.watchdog import Watchdog
from jepa_jax.training.workdir import storage_of

TRAINED = "trained target encoder"  # what its row of the results is called


def train(
    config: ConfigDict, path: str, force: Sequence[str] = (), began: float | None = None
) -> int:
    """Trains as the config says, in the folder `path`; goes on if a run lies there.

    Args:
      force: names of changes that a stored run shall put up with, such as "optim.learning_rate".
      began: when the process did (`time.time()`), for the account of the run's time; None: now.

    Returns:
      The exit code: FINISHED, or STOPPED by a signal with the state saved.

    Raises:
      UserError: for what the user can mend.
    """
    with contextlib.ExitStack() as held:
        run = prepare(config, path, began, held)
        results = run.workdir.results()
        finished = results is not None and results["step"] == run.total
        changes = claim(run, force, finished)
        if finished:
            with Display(run.total, run.total) as display:
                display.say(f"{path} is finished: all {run.total} steps are done")
                for line in changes:
                    display.say(line)
                if changes:
                    display.say(
                        "the results are of the former settings: delete results.json there to find"
                        " them anew"
                    )
                if results["accuracy"]:
                    display.say(result_table(results["accuracy"]))
            return FINISHED
        stacks = run.workdir.path / f"stacks_{jax.process_index()}.txt"
        keep_programs(run.workdir.path / "programs")
        with run.ledger, Watchdog(run.ledger, config.guard.hang_minutes, stacks):
            return go_on(run, changes)


def go_on(run: Run, changes: Sequence[str]) -> int:
    """From the last checkpoint, or the beginning, to the end of the run, or to a signal.

    Args:
      changes: to tell beforehand.
    """
    run.ledger.record("start", processes=jax.process_count(), devices=run.mesh.size)
    state, start = restore(run)
    run.ledger.record("restore", step=start.step)
    with (
        new_loggers(run, start.step) as loggers,
        Display(run.total, start.step, loggers) as display,
        StopWish() as stop,
    ):
        display.say(introduction(run.config, run.shapes.params, run.loader, run.total))
        if run.mesh.size > 1:
            display.say(placement_table(run.shapes, run.sharding))
        for line in changes:
            display.say(line)
        if start.step:
            display.say(f"going on after step {start.step}")

        while True:
            try:
                state, reached = steps(run, state, start, display, stop)
                break
            except Diverged as diverged:
                # Without its frames, which hold a state beside the one that is read.
                state, start = roll_back(run, start, diverged.with_traceback(None), display)
        results = None
        if reached == run.total:
            with run.ledger("evaluation", step=run.total):
                results = finish(run, state, display, stop)
        if results is None:
            display.say(f"stopped and saved after step {reached}; the same command goes on")
            return STOPPED

        if results["accuracy"]:
            display.say(result_table(results["accuracy"]))
        if account := goodput(run.workdir.events()):
            display.say(account_table(account))
        display.say(f"pictures, metrics.jsonl and checkpoints are in {run.workdir.path}")
        return FINISHED


class Start(NamedTuple):
    """Where the run goes on."""

    step: int = 0  # finished
    skipped_batches: int = 0  # by roll-backs: step s gets the batch s + skipped_batches
    roll_backs: int = 0


def new_loggers(run: Run, start: int) -> Loggers:
    """Those that the config asks for, on the first process."""
    names = logger_names(run.config) if processes.is_first() else ()
    return Loggers(
        names, run.config, run.workdir.path, start, functools.partial(say, new_console())
    )


def restore(run: Run) -> tuple[ijepa.State, Start]:
    """The newest sound state, or a fresh one; metrics of later steps are dropped."""
    restored = run.checkpoints.restore(with_sharding(run.shapes, run.sharding))
    if restored is None:
        state, start = jax.jit(run.fresh, out_shardings=run.sharding)(), Start()
    else:
        state, start = restored.state, Start(restored.step, **restored.about["course"])
    run.workdir.forget_after(start.step, start.step + start.skipped_batches)
    processes.wait_for_all("forgotten")
    for row in run.workdir.rows():
        run.checkpoints.score(row["step"], row)
    return state, start


def roll_back(
    run: Run, start: Start, diverged: Diverged, display: Display
) -> tuple[ijepa.State, Start]:
    """The state before the steps that were left out; all batches since are skipped.

    Raises:
      RunFailed: if that was done too often, or all checkpoints are of an ill run.
    """
    if start.roll_backs >= run.config.guard.roll_backs:
        raise RunFailed(
            f"{diverged}, after {start.roll_backs} roll-backs: start again in a new --workdir with"
            " lower optim.learning_rate and optim.start_learning_rate, or with optim.clip_norm=1;"
            " events.jsonl has the images"
        )
    run.ledger.enter("roll_back")
    if not run.checkpoints.forget_after(diverged.before) and diverged.spoilt:
        raise RunFailed(
            f"{diverged}; no checkpoint is left of step {diverged.before} or before, when all was"
            " well: start again in a new --workdir, with a smaller doctor.every or more"
            " train.checkpoints_kept"
        )
    state, saved = restore(run)
    skipped = diverged.batch + 1 - saved.step
    display.say(
        f"warning: {diverged}; going back to step {saved.step}, and on with the data after them"
    )
    start = Start(saved.step, skipped, start.roll_backs + 1)
    run.ledger.record("roll_back", at=diverged.step, **start._asdict())
    return state, start


def steps(
    run: Run, state: ijepa.State, start: Start, display: Display, stop: StopWish
) -> tuple[ijepa.State, int]:
    """Trains from `start` to the end, or to a signal; the last step is saved either way.

    Raises:
      Diverged: if too many updates in a row were left out.
    """
    config, every, ledger = run.config, run.config.train, run.ledger
    one_step = jit_step(run.sharding)
    broken = Broken(
        run.loader.source,
        config.data.broken_share,
        EvalView.of(config.data),
        display.say,
        known=run.workdir.broken(),
        record=run.workdir.append_broken,
        gather=processes.gather if jax.process_count() > 1 else None,
    )
    rate = Rate(every.batch_size, ledger)
    watch = Watch(config.guard, run.loader, display.say, ledger.record, IN_FLIGHT)
    doctor = Doctor(config.doctor, run.workdir.rows(), display.say, ledger.record)
    course = {"skipped_batches": start.skipped_batches, "roll_backs": start.roll_backs}
    about = run.about | {"course": course}
    batches = train_batches(
        run.loader,
        mask_spec(config),
        seed=config.seed,
        start=start.step + start.skipped_batches,
        sharding=batch_sharding(run.mesh),
        draws=config.train.draws,
        broken=broken,
        waiting=rate.waiting,
    )
    probe_every = 0
    if run.probe and config.probe.every_epochs:
        probe_every = max(1, round(config.probe.every_epochs * run.loader.steps_per_epoch))
    due = probe_every and start.step % probe_every == 0 and start.step < run.total
    if due and _lacks_scores(run, start.step):  # the last step is probed in `finish`
        probe(run, state, start.step, display)
    wishes = processes.Wishes(IN_FLIGHT)
    step = saved = start.step
    stopping = overdue = False
    with contextlib.closing(batches):
        while step < run.total and not stopping:
            batch = next(batches)
            with jax.set_mesh(run.mesh), jax.transfer_guard("disallow"):
                state, metrics = one_step(run.model, state, batch)
            watch.sent(step + 1, step + start.skipped_batches, metrics)
            step += 1
            rate.tick(metrics.loss)

            last = step == run.total  # it is saved below and probed in `finish`
            probing = probe_every and not last and step % probe_every == 0
            diagnosing = config.doctor.every and step % config.doctor.every == 0
            saving = run.checkpoints.due(step, wanted=probing)
            saving = saving or (overdue and step > saved + IN_FLIGHT)  # may be an old wish
            # What is saved has a row: by its loss it may be the best.
            logging = last or probing or diagnosing or saving or step % every.log_every == 0
            if logging:
                watch.settle()
                found = _numbers(metrics)
                broken.settle()
                row = {"step": step, **found, **rate.measure(), "broken_images": len(broken)}
                if diagnosing:
                    row |= diagnosis(run, state, batch, step, display)
                run.workdir.append(row)
                ledger.record("step", step=step)
                display.update(row)
                if diagnosing:
                    doctor.look(row, step - 1 + start.skipped_batches)
                run.checkpoints.score(step, row)
            if saving and not found["skipped_in_a_row"]:  # a roll-back wants one before them
                with ledger("checkpoint", step=step):
                    run.checkpoints.save(step, state, about)
                saved = step
            if probing:  # after saving: whatever may be wrong with those images, the step is safe
                probe(run, state, step, display)
            if logging:
                rate.restart()
            stopping, overdue = wishes(bool(stop), run.checkpoints.overdue())
        watch.settle()
        broken.settle()
    if step > start.step:
        with ledger("checkpoint", step=step):
            run.checkpoints.save_last(
                step,
                state,
                about,
                hurry=lambda: stopping or bool(stop),
                waiting=lambda: ledger.enter("checkpoint"),
            )
    return state, step


def diagnosis(
    run: Run, state: ijepa.State, batch: ijepa.Batch, step: int, display: Display
) -> dict[str, float | None]:
    """What the features and predictions look like."""
    before = run.ledger.enter("diagnosis")
    with jax.set_mesh(run.mesh):
        found = jax.device_get(measure(run.model, state, batch))
    display.diagnosed(step, found)
    run.ledger.enter(before)
    return numbers(found)


def probe(run: Run, state: ijepa.State, step: int, display: Display) -> None:
    """A quick look at what was learned so far."""
    with run.ledger("evaluation", step=step):
        scores = run.probe.scores(run.model, state.target)
    run.workdir.amend(step, scores)
    run.checkpoints.score(step, scores)
    display.probed(step, scores)


def _lacks_scores(run: Run, step: int) -> bool:
    """Whether the run ended between saving a step and probing it."""
    rows = run.workdir.rows()
    return processes.from_first(any(row["step"] == step and "knn" not in row for row in rows))


def finish(run: Run, state: ijepa.State, display: Display, stop: StopWish) -> dict[str, Any] | None:
    """Compares what was learned with what was there before, and draws it.

    Returns:
      What is in results.json, or None if a signal came before it was found: the next start does it.
    """

    def untrained() -> dict[str, float]:
        make = jax.jit(lambda: run.fresh().target, out_shardings=run.sharding.target)
        return run.probe.scores(run.model, make())

    looks = {}
    if run.probe:
        if run.config.probe.compare:
            looks |= {"raw pixels": run.probe.pixel_scores, "untrained encoder": untrained}
        looks[TRAINED] = functools.partial(run.probe.scores, run.model, state.target)
    accuracy = {}
    for name, look in looks.items():
        if any(processes.gather(bool(stop))):
            return None
        display.say(f"probing the {name}")
        run.ledger.enter("evaluation")  # each may take as long as the watchdog lets one
        accuracy[name] = look()
    if run.probe:
        run.workdir.amend(run.total, accuracy[TRAINED])
        display.log(run.total, accuracy[TRAINED])
    rows, folder = run.workdir.rows(), run.workdir.path
    from jepa_jax.visualize.run import draw_run  # only now: it takes a second

    run.ledger.enter("evaluation")
    with storage_of("a picture"):
        draw_run(run.config, run.model, state.target, rows, folder, run.mesh)
    display.drawn(run.total, folder)
    results = {"step": run.total, "accuracy": accuracy}
    run.workdir.finish(results)
    return results


def _numbers(metrics: ijepa.Metrics) -> dict[str, float | None]:
    """The numbers of a step; None for those that are not finite, which JSON has no words for."""
    numbers = {name: value.item() for name, value in metrics._asdict().items()}
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}
