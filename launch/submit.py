"""Runs launch/train.py elsewhere. Without --yes it only shows what it would do.

    python launch/submit.py tpu --config=configs/vitb16.py --workdir=gs://BUCKET/b --name=b \\
        --topology=v5e:4x4 --zone=us-east5-b --project=PROJECT --spot --yes
    python launch/submit.py gke --config=configs/vitb16.py --workdir=gs://BUCKET/b --name=b \\
        --topology=v5e:4x4 --image=IMAGE@sha256:DIGEST --yes
    python launch/submit.py slurm --config=configs/vitb16.py --workdir=runs/b --name=b --nodes=2 \\
        --gpus_per_node=8 --options='--partition=gpu --time=24:00:00' --yes

tpu: asks for a queued resource, runs on all its hosts, shows the log, begins again after
preemptions, and gives the TPU back at the end; the same command goes on with what is there.
gke: a JobSet for kubectl or, with --xpk, a workload for XPK.
slurm: a job that saves before its time is over, and is queued again until it is finished.
--config.KEY=VALUE changes a setting. docs/submitting.md tells more.

Exit codes: 0 finished or submitted, 2 wrong input, 75 stopped, others as the run's own.
"""

import sys

from jepa_jax import cli
from jepa_jax.cli import config_flags, flags

CONFIG = cli.config_flag()
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run, which all hosts can reach.")
FORCE = flags.DEFINE_list("force", [], "Changes that a run puts up with to go on.")
NAME = flags.DEFINE_string("name", None, "Of the run: small letters, digits and hyphens.")
YES = flags.DEFINE_bool("yes", False, "Do it.")
ENV = flags.DEFINE_list("env", [], "Names of the variables that pass, such as HF_TOKEN,XLA_FLAGS.")
RESTARTS = flags.DEFINE_integer("restarts", 10, "After preemptions and failures, at most.", 0)
COMMIT = flags.DEFINE_string("commit", None, "What to run, if not HEAD without changes.")
SETUP = flags.DEFINE_string(
    "setup", "", "Shell before it; tpu: on each host, slurm: once, on the first node."
)
OPTIONS = flags.DEFINE_string("options", "", "More of them for gcloud … create, or sbatch.")
TOPOLOGY = flags.DEFINE_string("topology", None, "Such as v5e:16x16, or 2xv5e:16x16.")
SPOT = flags.DEFINE_bool("spot", False, "Cheaper, and may be taken away at any time.")
ZONE = flags.DEFINE_string("zone", None, "Of the cloud, such as us-east5-b.")
PROJECT = flags.DEFINE_string("project", None, "Of the cloud.")
RUNTIME = flags.DEFINE_string("runtime", None, "Version of the TPU's image, if not the usual.")
KEEP = flags.DEFINE_bool("keep", False, "Leave the TPU when the run is finished.")
DO = flags.DEFINE_enum("do", "run", ["run", "status", "logs", "delete"], "What to do with a TPU.")

IMAGE = flags.DEFINE_string("image", None, "Container with the code, as NAME@sha256:DIGEST.")
CLUSTER = flags.DEFINE_string("cluster", None, "Of GKE, which XPK wants to know.")
XPK = flags.DEFINE_bool("xpk", False, "Use XPK instead of kubectl.")
NODES = flags.DEFINE_integer("nodes", 1, "Of a SLURM cluster.", 1)
GPUS = flags.DEFINE_integer("gpus_per_node", 0, "Of a SLURM cluster.", 0)
TASKS = flags.DEFINE_integer("tasks_per_node", None, "If not one for each GPU.", 1)
FOLDER = flags.DEFINE_string("folder", "runs/submitted", "For code, script and log; all see it.")
POLL = flags.DEFINE_float("poll_seconds", 30.0, "Between two looks at a TPU.", 0.0)

COMMON = ("config", "workdir", "force", "name", "env", "restarts", "yes")
CLOUD = ("topology", "spot", "zone", "project")
MEANT_FOR = {
    "tpu": (*COMMON, *CLOUD, "commit", "setup", "options", "runtime", "keep", "do", "poll_seconds"),
    "gke": (*COMMON, *CLOUD, "image", "cluster", "xpk"),
    "slurm": (
        *(*COMMON, "commit", "setup", "options"),
        *("nodes", "gpus_per_node", "tasks_per_node", "folder"),
    ),
}


def main(where: str) -> int:
    from jepa_jax.errors import UserError
    from jepa_jax.submission import training

    for name in {name for names in MEANT_FOR.values() for name in names}:
        if flags.FLAGS[name].present and name not in MEANT_FOR[where]:
            raise UserError(f"--{name} means nothing for {where}: leave it out")
    training.check_name(NAME.value)
    return {"tpu": tpu, "gke": gke, "slurm": slurm}[where]()


def what():
    """The command that is to run."""
    from jepa_jax.submission.code import ROOT
    from jepa_jax.submission.training import training_of

    recipe = config_flags.get_config_filename(flags.FLAGS["config"])
    return training_of(recipe, WORKDIR.value, sys.argv[1:], ROOT)


def tpu() -> int:
    from jepa_jax.submission import run
    from jepa_jax.submission.code import pinned
    from jepa_jax.submission.environment import allowed
    from jepa_jax.submission.queued import queued_resource
    from jepa_jax.submission.topology import parse
    from jepa_jax.submission.tpu import Tpu

    means = {"poll_seconds": POLL.value, "yes": YES.value}
    resource = queued_resource(NAME.value, ZONE.value, PROJECT.value)
    if DO.value != "run":
        return run.look_at(resource, DO.value, **means)
    training = what()
    job = Tpu(
        resource=resource,
        topology=parse(TOPOLOGY.value),
        code=pinned(COMMIT.value, training.recipe),
        training=training,
        spot=SPOT.value,
        runtime=RUNTIME.value,
        options=run.split("options", OPTIONS.value),
        setup=SETUP.value,
        environment=allowed(ENV.value),
        restarts=RESTARTS.value,
        keep=KEEP.value,
    )
    return run.run_tpu(job, CONFIG.value, **means)


def gke() -> int:
    from jepa_jax.submission import run
    from jepa_jax.submission.environment import allowed
    from jepa_jax.submission.gke import Gke
    from jepa_jax.submission.topology import parse

    job = Gke(
        name=NAME.value,
        topology=parse(TOPOLOGY.value),
        image=IMAGE.value or "",
        training=what(),
        spot=SPOT.value,
        environment=allowed(ENV.value),
        restarts=RESTARTS.value,
        cluster=CLUSTER.value,
        zone=ZONE.value,
        project=PROJECT.value,
    )
    return run.run_gke(job, CONFIG.value, use_xpk=XPK.value, yes=YES.value)


def slurm() -> int:
    from jepa_jax.submission import run
    from jepa_jax.submission.code import pinned
    from jepa_jax.submission.environment import allowed
    from jepa_jax.submission.slurm import Slurm
    from jepa_jax.training.storage import local_path

    training = what()
    job = Slurm(
        name=NAME.value,
        folder=local_path(FOLDER.value, "--folder").absolute(),
        code=pinned(COMMIT.value, training.recipe),
        training=training,
        nodes=NODES.value,
        tasks=TASKS.value or GPUS.value or 1,
        gpus=GPUS.value,
        options=run.split("options", OPTIONS.value),
        setup=SETUP.value,
        environment=allowed(ENV.value),
        restarts=RESTARTS.value,
    )
    return run.run_slurm(job, CONFIG.value, yes=YES.value)


if __name__ == "__main__":
    cli.run(main, words=tuple(MEANT_FOR))
