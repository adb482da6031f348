"""launch/submit.py gke: its manifest, against the published schemas, and what passes on."""

import copy
import json
import os
import pathlib
import re
import subprocess
import sys

import kubernetes_validate
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet

from jepa_jax.errors import UserError
from jepa_jax.submission.commands import reason
from jepa_jax.submission.gke import Gke, check, jobset, literal, manifests, plan, secret, ways, xpk
from jepa_jax.submission.topology import parse
from jepa_jax.submission.training import Training
from tests.commands import launch

IMAGE = "us-docker.pkg.dev/my-proj/images/jepa_jax@sha256:" + 64 * "a"
KUBERNETES = ("1.28", "1.37")  # from the oldest that has all of it


def gke(**changes) -> Gke:
    arguments = {
        "name": "first",
        "topology": parse("2xv5e:4x4"),
        "image": IMAGE,
        "training": Training("configs/some.py", "gs://b/r", ("--config.seed=1",)),
        "environment": {"SOME_TOKEN": "sesame"},
        "cluster": "some",
    }
    return Gke(**arguments | changes)


def validate(manifest: dict) -> None:
    """Raises an error for what JobSet's or Kubernetes' schema does not have.

    JobSet's published OpenAPI definitions come in the models of Kubeflow Trainer, which drop what
    they do not know; Kubernetes' in a package of its own, for the jobs that a JobSet is made of.
    """
    assert JobsetV1alpha2JobSet.from_dict(manifest).to_dict() == manifest
    for part in manifest["spec"]["replicatedJobs"]:
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a"}} | part[
            "template"
        ]
        for version in KUBERNETES:
            kubernetes_validate.validate(job, version, strict=True)


@pytest.mark.parametrize("topology", ["v6e:1x1", "v5e:2x2", "v5p:4x4x8", "3xv4:2x2x4"])
@pytest.mark.parametrize("spot", [False, True])
def test_the_manifest_is_one_for_jobset_and_kubernetes(topology, spot):
    validate(jobset(gke(topology=parse(topology), spot=spot)))
    for version in KUBERNETES:
        kubernetes_validate.validate(secret(gke()), version, strict=True)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "sucessPolicy"), {}),
        (("spec", "failurePolicy", "maxRestart"), 1),
        (("spec", "failurePolicy", "rules", 0, "name"), None),
        (("spec", "replicatedJobs", 0, "template", "spec", "paralelism"), 1),
        (("spec", "replicatedJobs", 0, "template", "spec", "parallelism"), "4"),
        (("spec", "replicatedJobs", 0, "template", "spec", "template", "spec", "hostNet"), True),
    ],
)
def test_a_wrong_manifest_would_be_noticed(path, value):
    manifest = copy.deepcopy(jobset(gke()))
    place = manifest
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises((AssertionError, ValueError, kubernetes_validate.ValidationError)):
        validate(manifest)


@pytest.mark.parametrize(
    ("topology", "slices", "hosts", "chips"),
    [("v6e:1x1", 1, 1, 1), ("v5e:4x4", 1, 4, 4), ("2xv5p:4x4x8", 2, 32, 4)],
)
def test_a_job_for_each_slice_and_a_pod_for_each_host(topology, slices, hosts, chips):
    part = jobset(gke(topology=parse(topology)))["spec"]["replicatedJobs"][0]
    job = part["template"]["spec"]
    pod = job["template"]["spec"]
    assert (part["replicas"], job["parallelism"], job["completions"]) == (slices, hosts, hosts)
    assert pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": chips}
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == topology.partition(":")[2]


def expanded(word: str, variables: dict[str, str]) -> str:
    """What Kubernetes makes of an argument: $(NAME) is a variable, $$ is $.

    https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables
    """
    return re.sub(
        r"\$(?:(\$)|\(([^)]*)\))",
        lambda match: match[1] or variables.get(match[2], match[0]),
        word,
    )


TEXT = st.text(st.characters(exclude_categories=("Cc", "Cs")))
TRICKY = st.lists(st.sampled_from(["$", "$$", "(", ")", "$(A)", "'", '"', "\\", " ", "x"]))


@given(st.lists(TEXT | TRICKY.map("".join), max_size=3))
@settings(deadline=None, max_examples=50)
def test_every_argument_arrives_as_it_is(words):
    job = gke(
        training=Training("configs/some.py", "gs://b/r", tuple(words)), environment={"A": "v"}
    )
    *_, manifest = yaml.safe_load_all(manifests(job))
    template = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    arguments = template["spec"]["containers"][0]["args"]
    assert [expanded(word, {"A": "v"}) for word in arguments] == job.training.arguments()
    # XPK hands its command to bash, in a manifest.
    command = expanded(xpk(job)[-1].removeprefix("--command="), {"A": "v"})
    show = "import json, sys; print(json.dumps(sys.argv[1:]))"
    shell = command.replace("exec python", f"exec {sys.executable} -c '{show}'", 1)
    seen = subprocess.run(["bash", "-c", shell], capture_output=True)
    assert json.loads(seen.stdout) == ["launch/train.py", *job.training.arguments()]


def test_what_is_not_escaped_would_be_replaced():
    assert expanded("$(A)", {"A": "sesame"}) == "sesame"
    assert expanded(literal("$(A)"), {"A": "sesame"}) == "$(A)"


def test_values_are_in_the_secret_alone():
    assert secret(gke())["stringData"] == {"SOME_TOKEN": "sesame"}
    for text in (*plan(gke()), json.dumps(jobset(gke())), *xpk(gke())):
        assert "sesame" not in text
    assert len(list(yaml.safe_load_all(manifests(gke(environment={}))))) == 1


def test_a_plan_is_the_manifest_with_comments():
    assert yaml.safe_load("\n".join(plan(gke()))) == jobset(gke())


@pytest.mark.parametrize("image", ["", "jepa_jax", "jepa_jax:latest", IMAGE[:-1], f"{IMAGE} x"])
def test_an_image_that_may_change_is_refused(image):
    with pytest.raises(UserError, match="is not pinned"):
        check(gke(image=image))


def test_xpk_needs_a_cluster():
    with pytest.raises(UserError, match="--cluster=NAME"):
        xpk(gke(cluster=None))


def submit(*words: str, **environment: str) -> subprocess.CompletedProcess:
    recipe = ("--config=configs/digits.py", "--workdir=gs://b/r", "--name=first")
    where = ("gke", *recipe, "--topology=v5e:2x4")
    return launch("submit", *where, *words, timeout=None, **environment)


@pytest.mark.parametrize(
    ("program", "words"), [("kubectl", ()), ("xpk", ("--xpk", "--cluster=some"))]
)
def test_what_is_submitted_is_what_was_shown(tmp_path: pathlib.Path, program, words):
    stand_in = tmp_path / program
    stand_in.write_text(
        f'#!/bin/sh\n[ "$1" = get ] && exit\n'
        f'printf "%s\\n" "$@" >{tmp_path}/words\ncat >{tmp_path}/stdin\n'
        f"echo first created with $SOME_TOKEN\n"
    )
    stand_in.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    words = (*words, f"--image={IMAGE}", "--env=SOME_TOKEN", "--yes")
    result = submit(*words, PATH=path, SOME_TOKEN="sesame")
    assert result.returncode == 0, result.stderr
    assert "first created with (hidden)" in result.stdout
    job = gke(
        topology=parse("v5e:2x4"),
        training=Training("configs/digits.py", "gs://b/r"),
    )
    given_words = (tmp_path / "words").read_text().splitlines()
    stdin = (tmp_path / "stdin").read_text()
    if program == "xpk":
        assert (["xpk", *given_words], stdin) == (xpk(job), "SOME_TOKEN\n")
    else:
        assert given_words[:2] == ["apply", "--server-side"]
        assert list(yaml.safe_load_all(stdin)) == [secret(job), jobset(job)]


@pytest.mark.parametrize("state", ["Completed", "Failed"])
def test_what_has_ended_is_not_begun_by_the_same_command(tmp_path, state):
    stand_in = tmp_path / "kubectl"
    stand_in.write_text(f'#!/bin/sh\n[ "$1" = get ] && echo {state} || touch {tmp_path}/applied\n')
    stand_in.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    result = submit(f"--image={IMAGE}", "--yes", PATH=path)
    assert result.returncode == 2
    assert f"first is there and has ended ({state}): kubectl delete jobset first" in result.stderr
    assert not (tmp_path / "applied").exists()


def test_logs_are_those_of_one_pod():
    [logs] = [line for line in ways(gke()) if "logs" in line]
    selector = dict(pair.split("=") for pair in logs.partition("--selector=")[2].split(","))
    assert selector == {
        "jobset.sigs.k8s.io/jobset-name": "first",
        "jobset.sigs.k8s.io/job-index": "0",
        "batch.kubernetes.io/job-completion-index": "0",
    }


def test_a_refusal_of_xpk_tells_why():
    printed = "[XPK] Starting xpk\n[XPK] first already exists\n[XPK] XPK failed, error code 1\n"
    result = subprocess.CompletedProcess(["xpk"], 1, printed, "a warning of a library\n")
    assert reason(result) == "first already exists"


def test_a_missing_kubectl_is_one_line(tmp_path):
    result = submit(f"--image={IMAGE}", "--yes", PATH=str(tmp_path))
    assert result.returncode == 2
    assert result.stderr.startswith("error: kubectl is not installed here: install it")
    assert len(result.stderr.splitlines()) == 1


def test_a_flag_that_means_nothing_there_is_refused():
    result = submit(f"--image={IMAGE}", "--do=status")
    assert result.stderr == "error: --do means nothing for gke: leave it out\n"
