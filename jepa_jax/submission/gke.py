"""GKE: a JobSet of TPU slices, and the command of XPK that asks for the same."""

import dataclasses
import re
import shlex
from collections.abc import Mapping
from typing import Any

import yaml

from jepa_jax.errors import UserError
from jepa_jax.exits import HUNG, STOPPED, STORAGE, WRONG_INPUT
from jepa_jax.submission.environment import HIDDEN
from jepa_jax.submission.topology import Topology
from jepa_jax.submission.training import Training

CHIPS_OF_A_HOST = 4  # of most kinds; larger hosts need another manifest
GRACE = 120  # seconds to save in, after SIGTERM


@dataclasses.dataclass(frozen=True)
class Gke:
    """A run on slices of TPUs in a GKE cluster.

    Attributes:
      image: of the container, by digest; its working directory is the repository.
      spot: cheaper, and may be taken away at any time.
      environment: variables that pass.
      restarts: after preemptions and failures, at most.
      cluster, zone, project: for XPK; kubectl knows its cluster.
    """

    name: str
    topology: Topology
    image: str
    training: Training
    spot: bool = False
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    restarts: int = 10
    cluster: str | None = None
    zone: str | None = None
    project: str | None = None


def check(gke: Gke) -> None:
    """Whether the image is one that cannot become another.

    Raises:
      UserError: if not.
    """
    if not re.fullmatch(r"[a-z0-9][\w./:-]*@sha256:[0-9a-f]{64}", gke.image):
        raise UserError(
            f"--image={gke.image} is not pinned: write NAME@sha256:DIGEST, which docker push prints"
        )


def jobset(gke: Gke) -> dict[str, Any]:
    """The manifest: a job for each slice, a pod for each of its hosts."""
    topology = gke.topology
    selector = {
        "cloud.google.com/gke-tpu-accelerator": topology.generation.label,
        "cloud.google.com/gke-tpu-topology": topology.shape,
    }
    tolerations = [{"key": "google.com/tpu", "operator": "Exists", "effect": "NoSchedule"}]
    if gke.spot:
        selector["cloud.google.com/gke-spot"] = "true"
        spot = {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true"}
        tolerations.append(spot | {"effect": "NoSchedule"})
    hosts = max(1, topology.chips // CHIPS_OF_A_HOST)
    chips = {"google.com/tpu": topology.chips // hosts}
    container = {
        "name": "train",
        "image": gke.image,
        "command": ["python", "launch/train.py"],
        "args": [literal(word) for word in gke.training.arguments()],
        # Over which the hosts of a slice find one another.
        "ports": [{"containerPort": 8471, "protocol": "TCP"}],
        "resources": {"requests": chips, "limits": chips},
        "volumeMounts": [{"name": "shared-memory", "mountPath": "/dev/shm"}],
    }
    if gke.environment:
        container["envFrom"] = [{"secretRef": {"name": secret_name(gke)}}]
    pod = {
        "restartPolicy": "Never",  # all begin again together
        "terminationGracePeriodSeconds": GRACE,
        "hostNetwork": True,
        "dnsPolicy": "ClusterFirstWithHostNet",
        "nodeSelector": selector,
        "tolerations": tolerations,
        "containers": [container],
        # Data workers hand over images in it; 64 MB, the usual size, hold few.
        "volumes": [{"name": "shared-memory", "emptyDir": {"medium": "Memory"}}],
    }
    wrong_input = {
        "action": "FailJob",
        "onExitCodes": {"containerName": "train", "operator": "In", "values": [WRONG_INPUT]},
        "onPodConditions": [],  # wanted by Kubernetes before 1.29
    }
    job = {
        "parallelism": hosts,
        "completions": hosts,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": [wrong_input]},
        "template": {"spec": pod},
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": gke.name,
            "annotations": {
                # A slice is a node pool: no two jobs share one.
                "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
            },
        },
        "spec": {
            "failurePolicy": {
                "maxRestarts": gke.restarts,
                "rules": [
                    {
                        "name": "wrongInput",
                        "action": "FailJobSet",
                        "onJobFailureReasons": ["PodFailurePolicy"],
                    }
                ],
            },
            "replicatedJobs": [
                {"name": "slice", "replicas": gke.topology.slices, "template": {"spec": job}}
            ],
        },
    }


def literal(word: str) -> str:
    """A word that Kubernetes, which replaces $(NAME), leaves as it is."""
    return word.replace("$", "$$")


def secret_name(gke: Gke) -> str:
    return f"{gke.name}-environment"


def secret(gke: Gke, hidden: bool = False) -> dict[str, Any]:
    """The variables that pass, which the manifest names only.

    Args:
      hidden: leave their values out.
    """
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": secret_name(gke)},
        "stringData": dict.fromkeys(gke.environment, HIDDEN) if hidden else dict(gke.environment),
    }


def as_yaml(manifest: Mapping[str, Any]) -> str:
    # Without aliases, and with long lines whole: to be read.
    return yaml.dump(
        manifest, Dumper=_Plain, sort_keys=False, allow_unicode=True, width=float("inf")
    )


def manifests(gke: Gke) -> str:
    """All that kubectl gets."""
    documents = [secret(gke)] if gke.environment else []
    return "---\n".join(map(as_yaml, [*documents, jobset(gke)]))


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, data):
        return True


# On the server, so that no second copy of a Secret is kept as an annotation.
APPLY = ["kubectl", "apply", "--server-side", "--field-manager=jepa_jax", "--filename=-"]


def ended(gke: Gke) -> list[str]:
    """Asks how a JobSet of that name ended; nothing, if it has not or is not there."""
    return [
        *("kubectl", "get", "jobset", gke.name),
        *("--ignore-not-found", "--output=jsonpath={.status.terminalState}"),
    ]


def xpk(gke: Gke) -> list[str]:
    """The command of XPK, which takes the names of variables from its standard input.

    Raises:
      UserError: without a cluster's name.
    """
    if gke.cluster is None:
        raise UserError("XPK needs the cluster's name: --cluster=NAME")
    # XPK gives it to a shell, in a child of which it runs: exec, so that SIGTERM reaches it.
    command = literal(shlex.join(["exec", "python", "launch/train.py", *gke.training.arguments()]))
    topology = gke.topology
    return [
        *("xpk", "workload", "create", f"--workload={gke.name}", f"--cluster={gke.cluster}"),
        *([f"--project={gke.project}"] if gke.project else []),
        *([f"--zone={gke.zone}"] if gke.zone else []),
        f"--tpu-type={topology.generation.accelerator}-{topology.shape}",
        f"--num-slices={topology.slices}",
        f"--docker-image={gke.image}",
        f"--max-restarts={gke.restarts}",
        f"--restart-on-exit-codes=1,{STORAGE},{STOPPED},{HUNG}",
        f"--termination-grace-period-seconds={GRACE}",
        *(["--spot"] if gke.spot else []),
        *(["--env-file=/dev/stdin"] if gke.environment else []),
        f"--command={command}",
    ]


def plan(gke: Gke) -> list[str]:
    """What would be asked for, as YAML with comments: it may be saved and changed."""
    lines = ["# has one of that name ended?", f"# {shlex.join(ended(gke))}", ""]
    lines += [f"# {shlex.join(APPLY)}", "# with this:"]
    if gke.environment:
        lines += ["#", *(f"# {line}" for line in as_yaml(secret(gke, hidden=True)).splitlines())]
        lines += ["# ---"]
    lines += ["", *as_yaml(jobset(gke)).splitlines()]
    if gke.cluster:
        names = "".join(f"{name}\\n" for name in gke.environment)
        piped = f"printf '{names}' | " if names else ""
        lines += ["", "# The same with XPK (--xpk):", f"# {piped}{shlex.join(xpk(gke))}"]
    return lines


def ways(gke: Gke) -> list[str]:
    """What to do with it later."""
    label = (  # of the first pod: kubectl follows no more than five
        f"jobset.sigs.k8s.io/jobset-name={gke.name},jobset.sigs.k8s.io/job-index=0,"
        "batch.kubernetes.io/job-completion-index=0"
    )
    return [
        f"kubectl get jobset {gke.name}",
        f"kubectl logs --follow --selector={label}",
        f"kubectl delete jobset {gke.name}",
    ]
