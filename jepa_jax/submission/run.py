"""launch/submit.py: shows what a run elsewhere takes, or does it."""

import shlex
import time

from ml_collections import ConfigDict

from jepa_jax.atomic import write_text
from jepa_jax.errors import UserError
from jepa_jax.exits import FINISHED, STOPPED
from jepa_jax.submission import gke as kubernetes
from jepa_jax.submission import slurm as batch
from jepa_jax.submission import tpu as cloud_tpu
from jepa_jax.submission.commands import checked, require
from jepa_jax.submission.environment import without_values
from jepa_jax.submission.queued import QueuedResource
from jepa_jax.submission.supervise import Supervisor
from jepa_jax.submission.training import check_recipe, check_shared

NOTHING_DONE = "# Nothing was done: --yes does it."


def _say(line: str) -> None:
    """Shows a line as it is, at once, also in a pipe."""
    print(line, flush=True)


def split(flag: str, text: str) -> tuple[str, ...]:
    """Words, as a shell splits them.

    Raises:
      UserError: for a quote without its end.
    """
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise UserError(f"--{flag}: {error}") from None


def run_tpu(tpu: cloud_tpu.Tpu, config: ConfigDict, *, poll_seconds: float, yes: bool) -> int:
    """Trains on a TPU of the cloud, to the end.

    Returns:
      The exit code of the run; STOPPED if only this command was stopped.

    Raises:
      UserError: for what the user can mend.
    """
    cloud_tpu.check(tpu)
    check_shared(tpu.training)
    check_recipe(config, tpu.topology.chips * tpu.topology.slices, tpu.topology.slices)
    if not yes:
        for line in (*cloud_tpu.plan(tpu), "", NOTHING_DONE):
            _say(line)
        return FINISHED
    require("gcloud")
    supervisor = Supervisor(tpu.resource, _say, lambda: time.sleep(poll_seconds))
    try:
        return supervisor.run(tpu)
    except KeyboardInterrupt:
        _say(
            "training goes on without this command, but nothing asks for a lost TPU again, begins a"
            " failed run again or gives the TPU back, which costs until then: the same command does"
        )
        return STOPPED


def look_at(resource: QueuedResource, do: str, *, poll_seconds: float, yes: bool) -> int:
    """Tells the status of a TPU, shows its log, or deletes it."""
    if not yes:
        commands = {
            "status": [resource.describe(), resource.worker("NODE", "status")],
            "logs": [resource.describe(), resource.worker("NODE", "follow", worker="0")],
            "delete": [resource.describe(), resource.delete()],
        }[do]
        for command in commands:
            _say(shlex.join(command))
        _say(NOTHING_DONE)
        return FINISHED
    require("gcloud")
    supervisor = Supervisor(resource, _say, lambda: time.sleep(poll_seconds))
    if do == "logs":
        return supervisor.logs()
    {"status": supervisor.status, "delete": supervisor.delete}[do]()
    return FINISHED


def run_gke(gke: kubernetes.Gke, config: ConfigDict, *, use_xpk: bool, yes: bool) -> int:
    """Asks a GKE cluster to train; it does so by itself.

    Raises:
      UserError: for what the user can mend.
    """
    kubernetes.check(gke)
    check_shared(gke.training)
    check_recipe(config, gke.topology.chips * gke.topology.slices, gke.topology.slices)
    if not yes:
        for line in (*kubernetes.plan(gke), "", NOTHING_DONE):
            _say(line)
        return FINISHED
    if use_xpk:
        command, stdin = kubernetes.xpk(gke), "".join(f"{name}\n" for name in gke.environment)
    else:
        command, stdin = kubernetes.APPLY, kubernetes.manifests(gke)
    require(command[0])
    # To apply again what has ended changes nothing, and nothing would run.
    if not use_xpk and (state := checked(kubernetes.ended(gke)).strip()):
        raise UserError(
            f"{gke.name} is there and has ended ({state}): kubectl delete jobset {gke.name} first,"
            " or take another --name"
        )
    try:
        printed = checked(command, stdin)
    except UserError as error:
        hint = f": kubectl delete jobset {gke.name} first" if "immutable" in str(error) else ""
        raise UserError(without_values(f"{error}{hint}", gke.environment)) from None
    _say(without_values(printed.rstrip(), gke.environment))
    for line in kubernetes.ways(gke):
        _say(line)
    return FINISHED


def run_slurm(slurm: batch.Slurm, config: ConfigDict, *, yes: bool) -> int:
    """Gives a job to SLURM; it queues itself again until it is finished.

    Raises:
      UserError: for what the user can mend.
    """
    batch.check(slurm)
    check_recipe(config, slurm.devices)
    if not yes:
        for line in (*batch.plan(slurm), "", NOTHING_DONE):
            _say(line)
        return FINISHED
    require("sbatch")
    if there := checked(batch.queued(slurm)).split():
        _say(f"{slurm.name} is in the queue already: job {there[0]}, {there[1]}")
        return FINISHED
    slurm.folder.mkdir(parents=True, exist_ok=True)
    for command in [] if slurm.unpacked.exists() else batch.unpack(slurm):
        checked(command)
    write_text(slurm.file, batch.script(slurm))
    job = checked(batch.submit(slurm)).strip().partition(";")[0]
    _say(f"job {job} is in the queue; its log is {slurm.log}")
    _say(f"scancel --signal=TERM {job}   # saves, and queues it again")
    _say(f"scancel {job}   # ends it")
    return FINISHED
