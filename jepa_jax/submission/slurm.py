"""SLURM: a batch script that saves at a signal, and is queued again until it is finished."""

import dataclasses
import pathlib
import re
import shlex
import sys
from collections.abc import Mapping

from jepa_jax.errors import UserError
from jepa_jax.exits import HUNG, STOPPED
from jepa_jax.submission.code import Code
from jepa_jax.submission.training import Training, refuse_control_characters

GRACE = 120  # seconds to save in, before the time limit
ALWAYS = ("PATH", "HOME", "USER", "LANG")  # variables without which little runs
OURS = (
    "array|nodes|ntasks|gpus-per-node|requeue|no-requeue|signal|open-mode|job-name|export|output"
    "|error"
)


@dataclasses.dataclass(frozen=True)
class Slurm:
    """A run on a cluster whose nodes see this folder, the workdir and Python as this machine does.

    Attributes:
      folder: for code, script and log.
      tasks: of a node.
      gpus: of a node; none: it computes on CPUs.
      options: more of them for sbatch.
      setup: shell commands that the first node runs before; all tasks get what it exports.
      environment: variables that pass.
      restarts: after it was stopped and saved, at most.
    """

    name: str
    folder: pathlib.Path
    code: Code
    training: Training
    nodes: int = 1
    tasks: int = 1
    gpus: int = 0
    options: tuple[str, ...] = ()
    setup: str = ""
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    restarts: int = 10
    python: str = sys.executable

    @property
    def devices(self) -> int:
        return self.nodes * (self.gpus or self.tasks)

    @property
    def unpacked(self) -> pathlib.Path:
        """The code."""
        return self.folder / self.code.name

    @property
    def file(self) -> pathlib.Path:
        """The script."""
        return self.folder / f"{self.name}.sbatch"

    @property
    def log(self) -> pathlib.Path:
        return self.folder / f"{self.name}.log"


def check(slurm: Slurm) -> None:
    """Whether paths and numbers can be.

    Raises:
      UserError: naming what cannot.
    """
    for path in (str(slurm.folder), slurm.python):
        refuse_control_characters(path)
    if re.search(r"[%\\]", str(slurm.folder)):
        raise UserError(f"--folder={slurm.folder}: SLURM gives % and \\ a meaning; take another")
    if slurm.gpus and slurm.tasks not in (1, slurm.gpus):
        raise UserError(
            f"--tasks_per_node={slurm.tasks} with --gpus_per_node={slurm.gpus}: take one task a"
            f" node (1) or a GPU ({slurm.gpus})"
        )
    for option in slurm.options:
        if not option.startswith("--"):
            raise UserError(f"--options: {option!r} is none of sbatch: write --NAME=VALUE")
        if re.match(f"--({OURS})", option):
            raise UserError(f"--options: {option} is what other flags say: leave it out")


def script(slurm: Slurm) -> str:
    """For sbatch: each task trains; a run that was stopped and saved is queued again."""
    arguments = slurm.training.arguments(root=f"{slurm.unpacked}/")
    train = shlex.join([slurm.python, f"{slurm.unpacked}/launch/train.py", *arguments])
    gpus = [f"#SBATCH --gpus-per-node={slurm.gpus}"] if slurm.gpus else []
    # Under eval a `… && …` at the end that fails ends the job too, which -e alone lets pass.
    setup = ["set -eo pipefail", f"eval {shlex.quote(slurm.setup)}", "set +eo pipefail"]
    setup = setup if slurm.setup else []
    lines = [
        "#!/bin/bash",
        f"# {slurm.name}, commit {slurm.code.commit}",
        f"#SBATCH --job-name={slurm.name}",
        f"#SBATCH --nodes={slurm.nodes}",
        f"#SBATCH --ntasks-per-node={slurm.tasks}",
        *gpus,
        "#SBATCH --requeue",
        f"#SBATCH --signal=TERM@{GRACE}",
        "#SBATCH --open-mode=append",
        "#SBATCH --dependency=singleton",
        "",
        f"export PYTHONPATH={shlex.quote(str(slurm.unpacked))}",
        *setup,
        "trap : TERM  # the tasks are told too: this waits until they have saved",
        "# A task that has saved may end before the others.",
        'srun --export=ALL ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} \\',
        f"  --kill-on-bad-exit=0 --wait={GRACE} \\",
        f"  {train}",
        "code=$?",
        "",
        "# Stopped, and saved unless it had hardly begun, or for want of the others; if the job",
        "# itself was not cancelled, it goes on later.",
        f"if ((code == {STOPPED} || code == 128 + 15 || code == {HUNG})) &&",
        '  [[ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" == RUNNING ]]; then',
        f"  if ((${{SLURM_RESTART_COUNT:-0}} < {slurm.restarts})); then",
        '    exec scontrol requeue "$SLURM_JOB_ID"',
        "  fi",
        f'  echo "not queued again: it was, {slurm.restarts} times"',
        "fi",
        'exit "$code"',
    ]
    return "".join(f"{line}\n" for line in lines)


def queued(slurm: Slurm) -> list[str]:
    """Asks for jobs of that name."""
    return ["squeue", "--noheader", "--me", f"--name={slurm.name}", "--format=%i %T"]


def unpack(slurm: Slurm) -> list[list[str]]:
    """Puts the code where the nodes see it; it is there whole or not at all."""
    archive, new = f"{slurm.unpacked}.tar", f"{slurm.code.name}.new"
    return [
        slurm.code.archive(pathlib.Path(archive), kind="tar"),
        [
            *("tar", f"--directory={slurm.folder}", f"--one-top-level={new}"),
            *("--strip-components=1", "--extract", f"--file={archive}"),
        ],
        ["mv", "--no-target-directory", f"{slurm.folder}/{new}", str(slurm.unpacked)],
        ["rm", archive],
    ]


def submit(slurm: Slurm) -> list[str]:
    """Gives the script to SLURM, with the variables that may pass."""
    names = dict.fromkeys((*ALWAYS, *slurm.environment))
    return [
        *("sbatch", "--parsable", f"--export={','.join(names)}", f"--output={slurm.log}"),
        *(*slurm.options, str(slurm.file)),
    ]


def plan(slurm: Slurm) -> list[str]:
    """All that is done, as a shell would do it."""
    steps = {
        "is it in the queue already?": [queued(slurm)],
        "the code, unless it is there": [] if slurm.unpacked.exists() else unpack(slurm),
        f"with {slurm.file}, as above": [submit(slurm)],
    }
    lines = [f"# {slurm.file}", *(f"# {line}".rstrip() for line in script(slurm).splitlines())]
    lines += ["", shlex.join(["mkdir", "--parents", str(slurm.folder)])]
    for title, commands in steps.items():
        if commands:
            lines += ["", f"# {title}", *map(shlex.join, commands)]
    return lines
