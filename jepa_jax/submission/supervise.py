"""Cloud TPU: from whatever state a run is in to its end."""

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jepa_jax.errors import UserError
from jepa_jax.exits import FINISHED, WRONG_INPUT
from jepa_jax.submission.commands import call, checked
from jepa_jax.submission.gcloud import ask, explained
from jepa_jax.submission.queued import QueuedResource
from jepa_jax.submission.tpu import Tpu

GONE = "GONE"
LOST = 255  # of ssh, when the connection breaks; worker.sh keeps it free
# As https://cloud.google.com/tpu/docs/queued-resources has them.
MEANING = {
    "CREATING": "the request is looked at",
    "ACCEPTED": "in the queue",
    "WAITING_FOR_RESOURCES": "in the queue",
    "PROVISIONING": "set up",
    "ACTIVE": "ready",
    "SUSPENDING": "taken away",
    "SUSPENDED": "was taken away",
    "DELETING": "deleted",
    "FAILED": "refused",
    GONE: "not there",
}


class Supervisor:
    """Looks after a queued resource.

    Args:
      say: shows a line.
      pause: waits until it is worth looking again.
    """

    def __init__(
        self, resource: QueuedResource, say: Callable[[str], None], pause: Callable[[], None]
    ):
        self._resource, self._say, self._pause = resource, say, pause
        self._told = None

    def run(self, tpu: Tpu) -> int:
        """Asks for the TPU, runs, begins again after preemptions; gives it back at the end.

        It may be called at any time and again: it goes on with what is there.

        Returns:
          The run's exit code.

        Raises:
          UserError: for what the user can mend.
        """
        name, left = self._resource.name, tpu.restarts
        while True:
            state, known = self.state()
            match state:
                case "GONE":
                    self._check_offer(tpu)
                    try:
                        self._ask(tpu.create())
                    except UserError as error:  # its answer may have been lost, or come to another
                        if "ALREADY_EXISTS" not in str(error):
                            raise
                case "ACTIVE":
                    _check_same(tpu, known)
                    code = self._train(tpu)
                    if code == FINISHED:
                        if not tpu.keep:
                            self.delete()
                        return FINISHED
                    self._pause()  # a preemption may not show at once
                    state, _ = self.state()
                    if state in ("SUSPENDING", "SUSPENDED"):
                        continue  # counted there
                    if not left or (code == WRONG_INPUT and state == "ACTIVE"):
                        self._say(
                            f"the run ended with exit code {code}; {name} is still there, and"
                            " costs: --do=logs shows why, --do=delete ends it"
                        )
                        return code
                    left -= 1
                    self._say(f"exit code {code}; restarts left: {left}")
                case "SUSPENDED":
                    self.delete()
                    if not left:
                        raise UserError(
                            f"{name} was taken away, after {tpu.restarts} restarts: the same"
                            " command goes on, and --restarts allows more"
                        )
                    left -= 1
                    self._say(f"asking for it again; restarts left: {left}")
                case "FAILED":
                    raise UserError(
                        f"{name} was refused: {_failure(known)}; delete it with --do=delete, and"
                        " take another --topology or --zone"
                    )
                case _:  # passes by itself
                    self._pause()

    def state(self) -> tuple[str, dict[str, Any]]:
        """The state of the queued resource, told when it changes, and all that is known of it."""
        described = ask(self._resource.describe(), self._pause)
        known = {"state": {"state": GONE}} if described is None else json.loads(described)
        state = known.get("state", {}).get("state", "STATE_UNSPECIFIED")
        if state != self._told:
            self._say(f"{self._resource.name}: {state}, {MEANING.get(state, 'not known yet')}")
            self._told = state
        return state, known

    def delete(self) -> None:
        """Deletes the queued resource and its TPU, and waits until they are gone."""
        if self.state()[0] not in ("DELETING", GONE):
            self._ask(self._resource.delete())
        while self.state()[0] != GONE:
            self._pause()

    def status(self) -> None:
        """Tells the state of the TPU and, if it is there, of the run on each host."""
        state, known = self.state()
        for node in _nodes(known) if state == "ACTIVE" else ():
            self._stream(self._resource.worker(node, "status"))

    def logs(self) -> int:
        """Shows the log of the first host, until the end of the run."""
        state, known = self.state()
        if state != "ACTIVE":
            raise UserError(f"{self._resource.name} is {state}: it has a log while it is ACTIVE")
        return self._stream(self._resource.worker(_nodes(known)[0], "follow", worker="0"))

    def _train(self, tpu: Tpu) -> int:
        """Begins on all hosts what does not run there yet, and waits for the end.

        Returns:
          The exit code of the run, or of the first command that did not reach the hosts.
        """
        for command in _start(tpu):
            self._tell(command)
            result = call(command)
            if other := re.search(r"error: (\S+) runs on this TPU", result.stderr):
                raise UserError(
                    f"{self._resource.name} runs other arguments or another commit ({other[1]}):"
                    " take another --name, or delete it with --do=delete"
                )
            if result.returncode:
                self._say(f"gcloud: {explained(result)}")
                return result.returncode
        self._until_the_end(self._resource.worker(tpu.nodes[0], "follow", worker="0"))
        codes = [self._until_the_end(self._resource.worker(node, "wait")) for node in tpu.nodes]
        return next(filter(None, codes), FINISHED)

    def _until_the_end(self, command: Sequence[str]) -> int:
        """The exit code of a run, from a command that waits for it, also over lost connections."""
        while (code := self._stream(command)) == LOST and self.state()[0] == "ACTIVE":
            self._pause()
        return code

    def _check_offer(self, tpu: Tpu) -> None:
        """Whether the zone has such TPUs, and the project quota for them."""
        zone, kind = self._resource.zone, tpu.topology.accelerator_type
        if self._ask(tpu.offered()) is None:
            raise UserError(
                f"{zone} has no {kind}: take another --zone; gcloud compute tpus tpu-vm"
                f" accelerator-types list --zone={zone} tells what it has"
            )
        self._tell(tpu.quota())
        result = call(tpu.quota())
        limit = None if result.returncode else _limit(result.stdout, zone)
        asked = tpu.topology.chips * tpu.topology.slices
        if limit is None:
            self._say("the quota is not known before; the request will tell")
        elif limit < asked:
            raise UserError(
                f"the quota of {self._resource.project} in {zone} is {limit}"
                f" ({tpu.quota_name}), and {asked} chips are asked for: ask for more"
                " (https://cloud.google.com/tpu/docs/quota), or take a smaller --topology"
            )

    def _ask(self, command: Sequence[str]) -> str | None:
        self._tell(command)
        return ask(command, self._pause)

    def _stream(self, command: Sequence[str]) -> int:
        """The exit code of a command whose output is seen as it comes."""
        self._tell(command)
        return subprocess.run(command, stdin=subprocess.DEVNULL).returncode

    def _tell(self, command: Sequence[str]) -> None:
        self._say(f"$ {shlex.join(command)}")


def _start(tpu: Tpu) -> Iterator[list[str]]:
    """The commands that begin a run; while they are run, its files are here."""
    staging = tpu.staging
    staging.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        checked(tpu.archive())
        for name, text in tpu.files().items():
            file = staging / name
            file.touch(mode=0o600)
            file.write_text(text)
        for node in tpu.nodes:
            yield from tpu.deliver(node)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    for node in tpu.nodes:
        yield tpu.start(node)


def _check_same(tpu: Tpu, known: dict[str, Any]) -> None:
    """Whether the TPU that is there is the one that is asked for."""
    nodes, asked = _nodes(known), tpu.topology.accelerator_type
    found = {spec["node"].get("acceleratorType") for spec in known["tpu"]["nodeSpec"]}
    if found != {asked} or nodes != tpu.nodes:
        raise UserError(
            f"{tpu.resource.name} is there as {len(nodes)} × {', '.join(map(str, found))}, not"
            f" {len(tpu.nodes)} × {asked}: take another --name, or delete it with --do=delete"
        )


def _nodes(known: dict[str, Any]) -> list[str]:
    """The names of the slices, which are described one by one or together."""
    names = []
    for spec in known["tpu"]["nodeSpec"]:
        if several := spec.get("multisliceParams"):
            prefix = several.get("nodeIdPrefix") or known["name"].rpartition("/")[2]
            names += [f"{prefix}-{index}" for index in range(several["nodeCount"])]
        else:
            names.append(spec["nodeId"])
    return names


def _failure(known: dict[str, Any]) -> str:
    """Why a queued resource failed."""
    error = known["state"].get("failedData", {}).get("error", {})
    return " ".join(error.get("message", "no reason is given").split())


def _limit(printed: str, zone: str) -> int | None:
    """The quota in a zone, from what `gcloud beta quotas info list` prints.

    The more special entries come first.
    """
    try:
        entries = [entry for info in json.loads(printed) for entry in info["dimensionsInfos"]]
    except (json.JSONDecodeError, KeyError):
        return None
    for entry in entries:
        if zone in (entry.get("dimensions", {}).get("zone"), *entry["applicableLocations"]):
            return int(entry.get("details", {}).get("value", 0))
    return None
