"""Cloud TPU: what a run asks for, and the files that its hosts get."""

import dataclasses
import hashlib
import os
import pathlib
import re
import shlex
from collections.abc import Mapping
from importlib import resources

from jepa_jax.errors import UserError
from jepa_jax.submission.code import Code
from jepa_jax.submission.environment import HIDDEN, shell_lines
from jepa_jax.submission.queued import GCLOUD, QueuedResource
from jepa_jax.submission.topology import Topology
from jepa_jax.submission.training import Training

WORKER = resources.files("jepa_jax.submission").joinpath("worker.sh").read_text()


@dataclasses.dataclass(frozen=True)
class Tpu:
    """A run on Cloud TPU.

    Attributes:
      spot: cheaper, and may be taken away at any time.
      runtime: version of the hosts' image, if not the usual one.
      options: more of them for `gcloud compute tpus queued-resources create`.
      setup: shell commands that each host runs before.
      environment: variables that pass.
      restarts: after preemptions and failures, at most.
      keep: leave the TPU when the run is finished.
    """

    resource: QueuedResource
    topology: Topology
    code: Code
    training: Training
    spot: bool = False
    runtime: str | None = None
    options: tuple[str, ...] = ()
    setup: str = ""
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    restarts: int = 10
    keep: bool = False

    @property
    def nodes(self) -> list[str]:
        """As Cloud TPU names the slices."""
        name, slices = self.resource.name, self.topology.slices
        return [name] if slices == 1 else [f"{name}-{index}" for index in range(slices)]

    # Files.

    @property
    def job(self) -> str:
        """What is to run, for worker.sh."""
        return (
            f"# {self.resource.name}, commit {self.code.commit}\n"
            f"archive={self.code.name}.tar.gz\n"
            f"setup={shlex.quote(self.setup)}\n"
            f"arguments=({shlex.join(self.training.arguments())})\n"
        )

    @property
    def folder(self) -> str:
        """On the hosts, in their home. Another command gets another."""
        digest = hashlib.sha256(self.job.encode()).hexdigest()
        return f"jepa_jax/{self.resource.name}-{digest[:8]}"

    @property
    def staging(self) -> pathlib.Path:
        """Where the files lie before they are copied."""
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return pathlib.Path(cache).expanduser() / self.folder

    def files(self, hidden: bool = False) -> dict[str, str]:
        """By name, what the hosts get beside the archive.

        Args:
          hidden: leave values of variables out.
        """
        variables = dict.fromkeys(self.environment, HIDDEN) if hidden else self.environment
        return {"worker.sh": WORKER, "job.sh": self.job, "environment": shell_lines(variables)}

    # Commands.

    def archive(self) -> list[str]:
        return self.code.archive(self.staging / f"{self.code.name}.tar.gz")

    def offered(self) -> list[str]:
        kind = self.topology.accelerator_type
        where = (*self.resource.where, "--format=json")
        return [*GCLOUD, "tpu-vm", "accelerator-types", "describe", kind, *where]

    @property
    def quota_name(self) -> str:
        generation = self.topology.generation
        return generation.spot_quota if self.spot else generation.quota

    def quota(self) -> list[str]:
        what = f"--filter=quotaId:{self.quota_name}"
        return [
            *("gcloud", "beta", "quotas", "info", "list", "--service=tpu.googleapis.com"),
            *(f"--project={self.resource.project}", what, "--format=json"),
        ]

    def create(self) -> list[str]:
        nodes = [f"--node-id={self.resource.name}"]
        if (slices := self.topology.slices) > 1:
            nodes = [f"--node-count={slices}", f"--node-prefix={self.resource.name}"]
        return self.resource.create(
            [
                *nodes,
                f"--accelerator-type={self.topology.accelerator_type}",
                f"--runtime-version={self.runtime or self.topology.generation.image}",
                *(["--spot"] if self.spot else []),
                *self.options,
            ]
        )

    def deliver(self, node: str) -> list[list[str]]:
        names = [f"{self.code.name}.tar.gz", *self.files()]
        files = [str(self.staging / name) for name in names]
        prepare = f"mkdir -p {self.folder}/new && chmod 700 {self.folder}"
        return [
            self.resource.ssh(node, prepare),
            self.resource.copy(files, node, f"{self.folder}/new"),
        ]

    def start(self, node: str) -> list[str]:
        # What runs already may be reading the old files: they are replaced, not overwritten.
        begin = f"mv -f {self.folder}/new/* {self.folder}/ && bash {self.folder}/worker.sh start"
        return self.resource.ssh(node, begin)


def check(tpu: Tpu) -> None:
    """Whether what was given for gcloud can be.

    Raises:
      UserError: naming what cannot.
    """
    if tpu.runtime and not re.fullmatch(r"[a-z][a-z0-9.-]*", tpu.runtime):
        raise UserError(f"--runtime={tpu.runtime} is no version, such as v2-alpha-tpuv6e")
    for option in tpu.options:
        if not option.startswith("--"):
            raise UserError(f"--options: {option!r} is none of gcloud: write --NAME=VALUE")
        if re.match("--(zone|project|accelerator-type|topology|node-|spot)", option):
            raise UserError(f"--options: {option} is what other flags say: leave it out")


def plan(tpu: Tpu) -> list[str]:
    """All that a run does, as a shell would do it."""
    resource = tpu.resource
    lines = [f"# Files for the hosts, in {tpu.staging}, and jepa_jax/submission/worker.sh:"]
    for name in ("job.sh", "environment"):
        lines += ["#", f"# {name}"]
        lines += [f"#   {line}" for line in tpu.files(hidden=True)[name].splitlines()]
    steps = {
        "the code": [tpu.archive()],
        "is there such a TPU in that zone, and quota for it?": [tpu.offered(), tpu.quota()],
        "ask for it": [tpu.create()],
        "wait until it is ACTIVE, and look again when the run fails": [resource.describe()],
        "to all hosts": [command for node in tpu.nodes for command in tpu.deliver(node)],
        "begin, unless it runs already": [tpu.start(node) for node in tpu.nodes],
        "show the log until the end": [resource.worker(tpu.nodes[0], "follow", worker="0")],
        "how did it go?": [resource.worker(node, "wait") for node in tpu.nodes],
        "when it is finished, or was taken away": [] if tpu.keep else [resource.delete()],
    }
    for title, commands in steps.items():
        if commands:
            lines += ["", f"# {title}", *map(shlex.join, commands)]
    return lines
