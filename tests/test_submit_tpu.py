"""launch/submit.py tpu, against a stand-in for gcloud."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_jax.errors import UserError
from jepa_jax.submission.code import ROOT, Code, pinned
from jepa_jax.submission.gcloud import ask
from jepa_jax.submission.queued import QueuedResource
from jepa_jax.submission.supervise import Supervisor
from jepa_jax.submission.topology import parse
from jepa_jax.submission.tpu import Tpu, check, plan
from jepa_jax.submission.training import Training

HERE = pathlib.Path(__file__).parent
WAITING = ["CREATING", "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING"]
ODD = 'it\'s $HOME `id` "two"  spaces \\ ; & | > * ? ~ # é'


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> pathlib.Path:
    """A commit of a recipe."""
    root = tmp_path_factory.mktemp("repository")
    (root / "configs").mkdir()
    (root / "configs" / "some.py").write_text("")
    (root / "launch").mkdir()
    (root / "launch" / "train.py").write_text("")
    author = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    for words in (("init", "-q"), ("add", "."), (*author, "commit", "-q", "-m", "one")):
        subprocess.run(["git", "-C", str(root), *words], check=True)
    return root


class Cloud:
    """What the stand-in plays, and what it saw."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.said: list[str] = []

    def plays(self, *lives: list[str], exit_codes=(0,), **more) -> None:
        scenario = {
            "lives": lives,
            "exit_codes": exit_codes,
            "failures": {},
            "offered": ["v5litepod-8"],
            "quota": [],
            "reason": "",
        }
        (self.folder / "scenario.json").write_text(json.dumps(scenario | more))

    def supervisor(self, pause=lambda: None) -> Supervisor:
        return Supervisor(QueuedResource("first", "us-east5-b", "my-proj"), self.said.append, pause)

    @property
    def calls(self) -> list[str]:
        file = self.folder / "calls"
        return [shlex.join(json.loads(line)) for line in file.read_text().splitlines()]

    def count(self, words: str) -> int:
        return sum(words in call for call in self.calls)

    @property
    def trained(self) -> list[dict]:
        """The notes of each start of launch/train.py, by host and number."""
        return [json.loads(file.read_text()) for file in sorted(self.folder.glob("trained-*"))]

    @property
    def states(self) -> list[str]:
        return [line.split()[1].strip(",") for line in self.said if line.startswith("first: ")]


@pytest.fixture
def cloud(tmp_path, monkeypatch) -> Cloud:
    programs = tmp_path / "bin"
    programs.mkdir()
    gcloud = programs / "gcloud"
    gcloud.write_text(f'#!/bin/sh\nexec {sys.executable} -S {HERE}/stand_in_gcloud.py "$@"\n')
    gcloud.chmod(0o755)
    folder = tmp_path / "stand_in"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    monkeypatch.setenv("STAND_IN", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Cloud(folder)


@pytest.fixture
def tpu(repository) -> Tpu:
    return Tpu(
        resource=QueuedResource("first", "us-east5-b", "my-proj"),
        topology=parse("v5e:2x4"),
        code=pinned(None, "configs/some.py", repository),
        training=Training("configs/some.py", "gs://b/r", (f"--config.data.path={ODD}",)),
        spot=True,
        environment={"SOME_TOKEN": "sesame '$1"},
    )


def other(tpu: Tpu, **changes) -> Tpu:
    return Tpu(**{**vars(tpu), **changes})


def test_from_the_queue_to_the_end(cloud, tpu):
    cloud.plays([*WAITING, "ACTIVE"])
    assert cloud.supervisor().run(tpu) == 0
    assert cloud.states == ["GONE", *WAITING, "ACTIVE", "DELETING", "GONE"]
    assert cloud.count("queued-resources create") == 1
    words = ["--config=configs/some.py", "--workdir=gs://b/r", f"--config.data.path={ODD}"]
    assert [note["words"] for note in cloud.trained] == 2 * [["launch/train.py", *words]]
    assert all(note["folder"].endswith("/code") for note in cloud.trained)


def test_a_variable_that_may_pass_arrives_and_is_shown_nowhere(cloud, tpu, capfd):
    cloud.plays(["ACTIVE"])
    cloud.supervisor().run(tpu)
    assert {note["environment"]["SOME_TOKEN"] for note in cloud.trained} == {"sesame '$1"}
    assert all("XDG_CACHE_HOME" not in note["environment"] for note in cloud.trained)
    seen = [*cloud.calls, *cloud.said, *plan(tpu), *capfd.readouterr()]
    assert not [text for text in seen if "sesame" in text]
    assert not tpu.staging.exists()


def test_a_plan_shows_the_very_commands(cloud, tpu):
    cloud.plays(["ACTIVE"])
    planned = plan(tpu)
    cloud.supervisor().run(tpu)
    assert {f"gcloud {call}" for call in cloud.calls} == {
        line for line in planned if line.startswith("gcloud ")
    }


def test_after_a_preemption_it_is_asked_for_again(cloud, tpu):
    first = ["WAITING_FOR_RESOURCES", "ACTIVE", "SUSPENDING", "SUSPENDED"]
    cloud.plays(first, ["ACTIVE"], exit_codes=(255, 0))
    assert cloud.supervisor().run(other(tpu, restarts=1)) == 0
    assert cloud.count("queued-resources create") == 2
    assert cloud.count("queued-resources delete") == 2
    assert len(cloud.trained) == 4


def test_preemptions_are_counted(cloud, tpu):
    cloud.plays(["SUSPENDED"], ["SUSPENDED"], ["ACTIVE"])
    with pytest.raises(UserError, match="taken away, after 1 restarts: the same command goes on"):
        cloud.supervisor().run(other(tpu, restarts=1))
    assert cloud.supervisor().run(other(tpu, restarts=1)) == 0  # as it says


def test_after_the_last_preemption_nothing_is_said_to_cost(cloud, tpu):
    cloud.plays(["ACTIVE", "SUSPENDING", "SUSPENDED"], exit_codes=(75,))
    with pytest.raises(UserError, match="taken away, after 0 restarts"):
        cloud.supervisor().run(other(tpu, restarts=0))
    assert not [line for line in cloud.said if "costs" in line]


def test_a_refusal_tells_why_and_what_to_do(cloud, tpu):
    cloud.plays(["CREATING", "FAILED"], reason="no capacity\nin the zone")
    with pytest.raises(UserError, match=r"refused: no capacity in the zone; delete it with") as why:
        cloud.supervisor().run(tpu)
    assert "\n" not in str(why.value)
    cloud.supervisor().delete()
    assert cloud.states[-1] == "GONE"


def test_a_state_that_is_not_known_is_waited_for(cloud, tpu):
    cloud.plays(["STATE_UNSPECIFIED", "SOMETHING_NEW", "ACTIVE"])
    assert cloud.supervisor().run(tpu) == 0


class Interrupted(Exception):
    pass


def test_a_second_call_waits_on(cloud, tpu):
    def interrupt():
        raise Interrupted

    cloud.plays(["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"])
    with pytest.raises(Interrupted):
        cloud.supervisor(interrupt).run(tpu)
    assert cloud.supervisor().run(tpu) == 0
    assert cloud.count("queued-resources create") == 1


def test_a_second_call_finds_what_runs_and_what_is_finished(cloud, tpu):
    cloud.plays(["ACTIVE"])
    for _ in range(2):
        assert cloud.supervisor().run(other(tpu, keep=True)) == 0
    assert cloud.count("worker.sh start") == 2
    assert len(cloud.trained) == 2  # once on each host
    cloud.supervisor().status()
    assert cloud.supervisor().logs() == 0


def test_another_command_is_not_run_beside_the_first(cloud, tpu):
    cloud.plays(["ACTIVE"])
    slow = other(tpu, setup="until [[ -e $STAND_IN/go ]]; do sleep 0.1; done")
    supervisor = cloud.supervisor()
    supervisor._stream = lambda command: 0  # does not wait for the end
    supervisor.run(other(slow, keep=True))
    with pytest.raises(UserError, match="runs other arguments or another commit"):
        supervisor.run(tpu)
    (cloud.folder / "go").touch()


def test_a_run_that_fails_begins_again(cloud, tpu):
    cloud.plays(["ACTIVE"], exit_codes=(1, 75, 0))
    assert cloud.supervisor().run(tpu) == 0
    assert len(cloud.trained) == 6
    assert cloud.count("queued-resources create") == 1


def test_a_run_that_always_fails_ends_with_its_exit_code(cloud, tpu, capfd):
    cloud.plays(["ACTIVE"], exit_codes=(7,))
    assert cloud.supervisor().run(other(tpu, restarts=1)) == 7
    assert "still there, and costs" in cloud.said[-1]
    assert cloud.count("queued-resources delete") == 0
    assert "exit code 7" in capfd.readouterr().out  # of the log


def test_wrong_input_is_not_tried_again(cloud, tpu):
    cloud.plays(["ACTIVE"], exit_codes=(2,))
    assert cloud.supervisor().run(tpu) == 2
    assert len(cloud.trained) == 2


def test_a_host_that_cannot_be_set_up_is_no_wrong_input(cloud, tpu):
    cloud.plays(["ACTIVE"])
    broken = other(tpu, setup="bash -c 'exit 2'; true", restarts=0)
    assert cloud.supervisor().run(broken) == 1
    assert not cloud.trained


def test_a_setup_brings_what_a_recipe_needs_more(cloud, tpu):
    """As docs/submitting.md says it for Weights & Biases."""
    cloud.plays(["ACTIVE"])
    page = (ROOT / "docs" / "submitting.md").read_text()
    [setup] = re.findall('`--setup="(tools/.*)"`', page)
    assert cloud.supervisor().run(other(tpu, setup=setup)) == 0
    hosts = [file.read_text() for file in cloud.folder.glob("hosts/*/jepa_jax/*/uv_calls")]
    assert len(hosts) == 2
    for calls in hosts:
        *_, first, more = calls.splitlines()
        assert first.endswith("--python venv/bin/python -e ./code[tpu,fast]")
        assert more == "pip install --python venv/bin/python -e ./code[wandb]"


def test_hosts_and_image_have_the_same_extras():
    files = ROOT / "jepa_jax" / "submission" / "worker.sh", ROOT / "Dockerfile"
    extras = [re.findall(r"\[(tpu.*)\]'", file.read_text()) for file in files]
    assert extras == 2 * [["tpu,fast"]]


def test_several_slices(cloud, tpu):
    cloud.plays(["ACTIVE"])
    assert cloud.supervisor().run(other(tpu, topology=parse("2xv5e:2x4"))) == 0
    assert len(cloud.trained) == 4


def test_a_tpu_of_another_size_is_left_alone(cloud, tpu):
    cloud.plays(["PROVISIONING", "ACTIVE"])
    ask(other(tpu, topology=parse("2xv5e:2x4")).create(), pause=lambda: None)
    with pytest.raises(UserError, match="is there as 2 × v5litepod-8, not 1 × v5litepod-8"):
        cloud.supervisor().run(tpu)


QUOTA = [
    {
        "quotaId": "TPUV5sPreemptibleLitepodPerProjectPerZoneForTPUAPI",
        "dimensionsInfos": [
            {
                "dimensions": {"zone": "us-east5-b"},
                "details": {"value": "4"},
                "applicableLocations": ["us-east5-b"],
            },
            {"details": {"value": "1000"}, "applicableLocations": ["us-east5-a", "us-east5-b"]},
        ],
    }
]


@pytest.mark.parametrize(
    ("scenario", "message"),
    [
        ({"offered": []}, "us-east5-b has no v5litepod-8: take another --zone"),
        ({"quota": QUOTA}, r"us-east5-b is 4 \(TPUV5sPreemptibleLitepod.*8 chips are asked for"),
        (
            {"failures": {"create": ["RESOURCE_EXHAUSTED: Quota 'X' exhausted. Limit 4"]}},
            "exhausted. Limit 4: ask for more quota",
        ),
        (
            {"failures": {"describe": ["You do not currently have an active account selected."]}},
            "active account selected.: gcloud auth login",
        ),
        (
            {"failures": {"describe": ["PERMISSION_DENIED: Permission 'x' denied"]}},
            "denied: ask for the role",
        ),
        ({"failures": {"describe": 20 * ["UNAVAILABLE: try later"]}}, "UNAVAILABLE: try later"),
    ],
)
def test_what_the_cloud_refuses_is_one_line_with_what_to_do(cloud, tpu, scenario, message):
    cloud.plays(["ACTIVE"], **scenario)
    with pytest.raises(UserError, match=message) as why:
        cloud.supervisor().run(tpu)
    assert "\n" not in str(why.value)
    assert "ERROR" not in str(why.value)


def test_a_service_that_does_not_answer_is_asked_again(cloud, tpu):
    cloud.plays(
        ["ACTIVE"],
        failures={"describe": ["UNAVAILABLE: x", "", "INTERNAL: x"], "list": ["no such API"]},
    )
    assert cloud.supervisor().run(tpu) == 0


@pytest.mark.parametrize(
    "error",
    [
        "There was a problem refreshing your current auth tokens: HTTPSConnectionPool("
        "host='oauth2.googleapis.com', port=443): Max retries exceeded (Caused by NameResolution"
        "Error: Failed to resolve 'oauth2.googleapis.com')) gcloud auth login",
        "('Connection aborted.', ConnectionResetError(104, 'Connection reset by peer'))",
        "Unable to find the server at tpu.googleapis.com",
    ],
)
def test_a_moment_without_network_ends_nothing(cloud, tpu, error):
    cloud.plays(["ACTIVE"], failures={"describe": [error, error]})
    assert cloud.supervisor().run(tpu) == 0


def test_a_lost_connection_is_not_the_end_of_the_run(cloud, tpu):
    lost = "Connection closed by remote host"
    # Of the folder, the start, the log (twice) and the end (twice).
    cloud.plays(["ACTIVE"], failures={"ssh": ["", "", lost, "", lost]})
    assert cloud.supervisor().run(other(tpu, restarts=0)) == 0
    assert cloud.count("worker.sh start") == 1
    assert cloud.count("follow") == cloud.count("wait") == 2


def test_a_run_that_ends_with_the_code_of_a_lost_connection_has_ended(cloud, tpu):
    cloud.plays(["ACTIVE"], exit_codes=(255,))
    assert cloud.supervisor().run(other(tpu, restarts=0)) == 1


def test_a_request_whose_answer_was_lost_is_found(cloud, tpu):
    cloud.plays(["ACTIVE"], failures={"describe": ["NOT_FOUND: not yet"]})
    ask(tpu.create(), pause=lambda: None)
    assert cloud.supervisor().run(tpu) == 0
    assert cloud.count("queued-resources create") == 2


@pytest.mark.parametrize("option", ["-q", "network=x", "--zone=us-east5-a", "--spot"])
def test_options_that_cannot_be_are_refused(tpu, option):
    with pytest.raises(UserError, match="--options: "):
        check(other(tpu, options=(option,)))


TEXT = st.text(st.characters(exclude_categories=("Cc", "Cs")))


@given(st.lists(TEXT, max_size=3), TEXT, TEXT)
@settings(max_examples=50, deadline=None)
def test_every_argument_arrives_as_it_is(words, workdir, setup):
    job = Tpu(
        resource=QueuedResource("first", "us-east5-b", "my-proj"),
        topology=parse("v5e:2x4"),
        code=Code(40 * "0"),
        training=Training("configs/some.py", workdir, tuple(words)),
        setup=setup,
        environment={"A": setup},
    )
    script = job.job + job.files()["environment"]
    show = f'{script}\nexec "$0" -c "$1" "$setup" "$A" "${{arguments[@]}}"'
    echo = "import json, sys; print(json.dumps(sys.argv[1:]))"
    seen = subprocess.run(["bash", "-c", show, sys.executable, echo], capture_output=True)
    assert json.loads(seen.stdout) == [setup, setup, *job.training.arguments()]
