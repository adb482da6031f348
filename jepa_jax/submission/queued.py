"""A queued resource of Cloud TPU: a request for TPUs and, once it is granted, the TPUs."""

import dataclasses
import re
from collections.abc import Sequence

from jepa_jax.errors import UserError

GCLOUD = ("gcloud", "compute", "tpus")


@dataclasses.dataclass(frozen=True)
class QueuedResource:
    """Its names, and the commands that ask about it."""

    name: str
    zone: str
    project: str

    @property
    def where(self) -> list[str]:
        return [f"--zone={self.zone}", f"--project={self.project}"]

    def create(self, options: Sequence[str]) -> list[str]:
        return [*self._verb("create"), *options, "--quiet"]

    def describe(self) -> list[str]:
        return [*self._verb("describe"), "--format=json"]

    def delete(self) -> list[str]:
        return [*self._verb("delete"), "--force", "--quiet"]

    def copy(self, files: Sequence[str], node: str, folder: str) -> list[str]:
        """To all hosts of a slice, in their home."""
        target = f"{node}:{folder}/"
        return [*GCLOUD, "tpu-vm", "scp", *files, target, "--worker=all", *self.where, "--quiet"]

    def ssh(self, node: str, command: str, worker: str = "all") -> list[str]:
        """Runs a command on hosts of a slice: a number, or all."""
        where = (f"--worker={worker}", *self.where)
        return [*GCLOUD, "tpu-vm", "ssh", node, *where, "--quiet", f"--command={command}"]

    def worker(self, node: str, verb: str, worker: str = "all") -> list[str]:
        """Asks the script worker.sh about what was begun last."""
        return self.ssh(node, f'bash "jepa_jax/$(cat jepa_jax/running)/worker.sh" {verb}', worker)

    def _verb(self, verb: str) -> list[str]:
        return [*GCLOUD, "queued-resources", verb, self.name, *self.where]


def queued_resource(name: str, zone: str | None, project: str | None) -> QueuedResource:
    """One whose names can be.

    Raises:
      UserError: naming what cannot.
    """
    if not re.fullmatch(r"[a-z]+-[a-z]+\d+-[a-z]", zone or ""):
        raise UserError(f"--zone={zone or ''} is none: write one such as us-east5-b")
    if not re.fullmatch(r"([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]", project or ""):
        raise UserError(f"--project={project or ''} is no project's id, such as my-project-1")
    return QueuedResource(name, zone, project)
