"""launch/submit.py slurm: what its script does in a job, without SLURM (see tests/scale)."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_jax.errors import UserError
from jepa_jax.submission.code import ROOT, Code
from jepa_jax.submission.slurm import Slurm, check, plan, script, submit
from jepa_jax.submission.training import Training

SRUN = f"""#!{sys.executable}
import json, os, sys
note = {{"words": sys.argv[1:], "environment": dict(os.environ)}}
print(json.dumps(note))
sys.exit(int(os.environ.get("EXIT_CODE", 0)))
"""


def slurm(in_folder: pathlib.Path, **changes) -> Slurm:
    arguments = {
        "name": "first",
        "folder": in_folder,
        "code": Code(40 * "0"),
        "training": Training("configs/some.py", "runs/a"),
        "nodes": 2,
        "python": "/usr/bin/python",
    }
    return Slurm(**arguments | changes)


def executed(job: Slurm, state: str = "RUNNING", **environment: str) -> subprocess.CompletedProcess:
    """The script, with stand-ins for the commands of SLURM."""
    programs = {
        "srun": SRUN,
        "squeue": f"#!/bin/sh\necho {state}\n",
        "scontrol": "#!/bin/sh\necho scontrol $@ >&2\n",
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, text in programs.items():
            file = pathlib.Path(folder, name)
            file.write_text(text)
            file.chmod(0o755)
        given_words = {"PATH": f"{folder}:/usr/bin:/bin", "SLURM_JOB_ID": "7"} | environment
        command = ["bash", "-c", script(job)]
        return subprocess.run(command, env=given_words, capture_output=True, text=True)


TEXT = st.text(st.characters(exclude_categories=("Cc", "Cs")))


@given(st.lists(TEXT, max_size=3), TEXT, TEXT)
@settings(deadline=None, max_examples=50)
def test_every_argument_arrives_as_it_is(words, workdir, folder):
    training = Training("configs/some.py", workdir, tuple(words))
    job = slurm(pathlib.Path("/", folder), training=training)
    note = json.loads(executed(job).stdout)
    start = note["words"].index("/usr/bin/python")
    assert note["words"][start + 1 :] == [
        f"{job.unpacked}/launch/train.py",
        *training.arguments(root=f"{job.unpacked}/"),
    ]
    assert note["environment"]["PYTHONPATH"] == str(job.unpacked)


@pytest.mark.parametrize(
    ("code", "restarts", "state", "again"),
    [
        ("75", "0", "RUNNING", True),
        ("75", "1", "RUNNING", True),
        ("124", "0", "RUNNING", True),  # for want of the other tasks
        ("143", "0", "RUNNING", True),  # at a signal before it could save
        ("75", "2", "RUNNING", False),  # often enough
        ("75", "0", "COMPLETING", False),  # cancelled
        ("1", "0", "RUNNING", False),
        ("2", "0", "RUNNING", False),
        ("0", "0", "RUNNING", False),
    ],
)
def test_what_was_stopped_and_saved_is_queued_again(tmp_path, code, restarts, state, again):
    environment = {"EXIT_CODE": code, "SLURM_RESTART_COUNT": restarts}
    result = executed(slurm(tmp_path, restarts=2), state, **environment)
    assert ("scontrol requeue 7" in result.stderr) == again
    assert result.returncode == (0 if again else int(code))


def test_the_first_start_is_no_restart(tmp_path):
    assert "scontrol requeue 7" in executed(slurm(tmp_path, restarts=1), EXIT_CODE="75").stderr


@pytest.mark.parametrize(
    "setup",
    ["export A=1; false", "false; export A=1", "false\ntrue", "false && true", "false | true"],
)
def test_a_setup_that_fails_ends_the_job(tmp_path, setup):
    result = executed(slurm(tmp_path, setup=setup))
    assert (result.returncode, result.stdout) == (1, "")


def test_what_a_setup_exports_reaches_the_tasks(tmp_path):
    ran = executed(slurm(tmp_path, setup="export A=1"), SLURM_CPUS_PER_TASK="4")
    note = json.loads(ran.stdout)
    assert note["environment"]["A"] == "1"
    assert "--cpus-per-task=4" in note["words"]


def test_only_variables_that_are_named_pass_and_none_is_shown(tmp_path):
    job = slurm(tmp_path, environment={"SOME_TOKEN": "sesame"}, options=("--time=1:00:00",))
    assert submit(job)[2] == "--export=PATH,HOME,USER,LANG,SOME_TOKEN"
    assert not [line for line in plan(job) if "sesame" in line]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folder": pathlib.Path("/a%b")}, "--folder=/a%b: SLURM gives"),
        ({"folder": pathlib.Path("/a\nb")}, "control character"),
        ({"gpus": 8, "tasks": 2}, "take one task a node"),
        ({"options": ("-N2",)}, "is none of sbatch"),
        ({"options": ("--nodes=3",)}, "is what other flags say"),
        ({"options": ("--export=ALL",)}, "is what other flags say"),
        ({"options": ("--array=0-3",)}, "is what other flags say"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as why:
        check(slurm(tmp_path, **changes))
    assert "\n" not in str(why.value)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs the git checkout")
def test_a_missing_sbatch_is_one_line(tmp_path):
    command = ["launch/submit.py", "slurm", "--config=configs/digits.py", "--workdir=runs/a"]
    result = subprocess.run(
        [
            sys.executable,
            *command,
            "--name=first",
            "--commit=HEAD",
            f"--folder={tmp_path}",
            "--yes",
        ],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PATH": str(git_alone(tmp_path))},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert result.stderr.startswith("error: sbatch is not installed here: submit where SLURM is")
    assert len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.glob("jepa_jax-*"))


def git_alone(folder: pathlib.Path) -> pathlib.Path:
    """A folder of programs with nothing but git."""
    programs = folder / "bin"
    programs.mkdir()
    (programs / "git").write_text(f'#!/bin/sh\nPATH={os.environ["PATH"]} exec git "$@"\n')
    (programs / "git").chmod(0o755)
    return programs
