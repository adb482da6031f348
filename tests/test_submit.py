"""What is checked before anything is submitted, and what the command answers."""

import os
import pathlib
import shutil
import subprocess

import pytest

from jepa_jax.config import defaults
from jepa_jax.errors import UserError
from jepa_jax.submission.code import ROOT, pinned
from jepa_jax.submission.environment import allowed
from jepa_jax.submission.queued import queued_resource
from jepa_jax.submission.topology import GENERATIONS, parse
from jepa_jax.submission.training import (
    check_name,
    check_recipe,
    check_shared,
    training_of,
)
from tests.commands import launch

RECIPE = str(ROOT / "configs" / "digits.py")
needs_git = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs the git checkout")


def one_line(error: pytest.ExceptionInfo) -> bool:
    return "\n" not in str(error.value)


@pytest.fixture
def repository(tmp_path) -> pathlib.Path:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "some.py").write_text("one")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-q", "-m", "one")
    return tmp_path


def git(root: pathlib.Path, *words: str) -> None:
    subprocess.run(["git", "-C", str(root), *words], check=True)


def test_an_archive_has_the_commit_in_its_name_and_nothing_else(repository, tmp_path_factory):
    code = pinned(None, "configs/some.py:small", repository)
    file = tmp_path_factory.mktemp("out") / f"{code.name}.tar.gz"
    (repository / "configs" / "some.py").write_text("changed since")
    subprocess.run(code.archive(file), check=True)
    listed = subprocess.run(["tar", "-xOzf", file], capture_output=True, text=True, check=True)
    assert listed.stdout == "one"
    assert code.commit.startswith(code.name.removeprefix("jepa_jax-"))


@pytest.mark.parametrize("change", ["configs/some.py", "configs/new.py"])
def test_what_is_not_committed_is_not_forgotten(repository, change):
    (repository / change).write_text("two")
    with pytest.raises(UserError, match=rf"not committed would not travel \({change}\)") as why:
        pinned(None, "configs/some.py", repository)
    assert one_line(why)
    assert pinned("HEAD", "configs/some.py", repository)


def test_a_recipe_elsewhere_that_was_changed_is_not_forgotten(repository):
    (repository / "mine.py").write_text("one")
    git(repository, "add", ".")
    git(repository, "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-q", "-m", "two")
    assert pinned(None, "mine.py:small", repository)
    (repository / "mine.py").write_text("two")
    with pytest.raises(UserError, match=r"not committed would not travel \(mine.py\)"):
        pinned(None, "mine.py:small", repository)


@pytest.mark.parametrize(
    ("revision", "recipe", "message"),
    [
        ("HEAD", "configs/new.py", "configs/new.py is not part of commit"),
        ("mian", "configs/some.py", "--commit=mian is no commit here"),
        ("--all", "configs/some.py", "is no commit here"),
    ],
)
def test_commits_and_recipes_that_are_not_there(repository, revision, recipe, message):
    (repository / "configs" / "new.py").write_text("")
    with pytest.raises(UserError, match=message):
        pinned(revision, recipe, repository)


def test_code_without_history_has_no_name(tmp_path):
    with pytest.raises(UserError, match="git clone it"):
        pinned(None, "configs/some.py", tmp_path)


def test_settings_travel_as_they_were_given():
    words = ["tpu", f"--config={RECIPE}", "--config.seed=3", "--yes", "-config.data.path=a 'b'"]
    training = training_of(f"{RECIPE}:x", "w", words, ROOT)
    assert training.arguments("/code/") == [
        "--config=/code/configs/digits.py:x",
        "--workdir=w",
        "--config.seed=3",
        "-config.data.path=a 'b'",
    ]


@pytest.mark.parametrize(
    ("recipe", "workdir", "words", "message"),
    [
        (None, "w", [], "give a recipe and a folder"),
        (RECIPE, None, [], "give a recipe and a folder"),
        (RECIPE, "", [], "--workdir is empty"),
        ("/elsewhere/recipe.py", "w", [], "would not travel"),
        (RECIPE, "w", ["--config.seed", "3"], "--config.seed has no value: write"),
        (RECIPE, "w", ["--force", "optim.eps"], "--force has no value: write --force=VALUE"),
        (RECIPE, "w", ["--config.data.path=a\nb"], "line break"),
        (RECIPE, "w\x00", [], "control character"),
    ],
)
def test_commands_that_cannot_travel(recipe, workdir, words, message):
    with pytest.raises(UserError, match=message) as why:
        training_of(recipe, workdir, words, ROOT)
    assert one_line(why)


@pytest.mark.parametrize("name", [None, "", "Big", "a_b", "-a", "a-", "1a", 41 * "a", "a\n"])
def test_names_that_cannot_be(name):
    with pytest.raises(UserError, match="--name="):
        check_name(name)


def test_a_name_that_can_be():
    assert check_name("vith14-2") == "vith14-2"


@pytest.mark.parametrize("workdir", ["runs/a", "/mnt/a", "gs://bucket", "gs:///a"])
def test_a_workdir_that_would_be_lost(workdir):
    with pytest.raises(UserError, match="such as gs://BUCKET"):
        check_shared(training_of(RECIPE, workdir, [], ROOT))


@pytest.mark.parametrize(
    ("zone", "project", "message"),
    [
        (None, "my-proj", "--zone= is none"),
        ("us-east5", "my-proj", "such as us-east5-b"),
        ("us-east5-b; id", "my-proj", "such as us-east5-b"),
        ("us-east5-b", None, "--project="),
        ("us-east5-b", "My Project", "is no project's id"),
    ],
)
def test_zones_and_projects_that_cannot_be(zone, project, message):
    with pytest.raises(UserError, match=message):
        queued_resource("a", zone, project)


@pytest.mark.parametrize("text", [None, "v5e", "v7:2x2", "v5e:3x3", "v5e:2x2x1", "0xv5e:2x2"])
def test_topologies_that_are_not_offered(text):
    with pytest.raises(UserError, match="--topology="):
        parse(text)


def test_topologies_in_the_words_of_the_cloud():
    types = {text: parse(text).accelerator_type for text in ("v5e:16x16", "v5p:4x4x8", "v4:2x2x1")}
    assert types == {"v5e:16x16": "v5litepod-256", "v5p:4x4x8": "v5p-256", "v4:2x2x1": "v4-8"}
    for generation in GENERATIONS.values():
        chips = [parse(f"{generation.name}:{shape}").chips for shape in generation.shapes]
        assert chips == sorted(set(chips))  # a number means one shape


def test_a_mesh_must_suit_devices_and_slices():
    config = defaults()
    config.mesh.fsdp = 3
    with pytest.raises(UserError, match="does not make 8 devices"):
        check_recipe(config, 8)
    config.mesh.fsdp = 8
    check_recipe(config, 8)
    with pytest.raises(UserError, match="must divide the 4 chips of a slice"):
        check_recipe(config, 8, slices=2)


def test_only_variables_that_are_named_pass():
    source = {"A": "1", "B_TOKEN": "2", "C": "3"}
    assert allowed(["B_TOKEN", "A"], source) == {"B_TOKEN": "2", "A": "1"}


@pytest.mark.parametrize("name", ["A=1", "D", "", "A B", "BROKEN"])
def test_a_variable_that_cannot_pass_keeps_its_value_to_itself(name):
    with pytest.raises(UserError, match="--env") as why:
        allowed([name], {"A": "1", "BROKEN": "sesame\n"})
    assert "sesame" not in str(why.value)
    assert one_line(why)


def submit(*words: str, **environment: str) -> subprocess.CompletedProcess:
    return launch("submit", *words, timeout=None, **environment)


CLOUD = ("--zone=us-east5-b", "--project=my-proj", "--topology=v5e:2x4")
RUN = ("--config=configs/digits.py", "--workdir=gs://b/r", "--name=first", "--commit=HEAD")


@needs_git
def test_without_yes_nothing_is_done(tmp_path):
    (tmp_path / "gcloud").write_text(f"#!/bin/sh\ntouch {tmp_path}/called\n")
    (tmp_path / "gcloud").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    secret = {"SOME_TOKEN": "sesame", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    odd = "--config.data.path=:smile: [bold]"
    result = submit("tpu", *RUN, *CLOUD, odd, "--env=SOME_TOKEN", PATH=path, **secret)
    assert result.returncode == 0, result.stderr
    assert f"'{odd}')" in result.stdout  # exactly
    assert "gcloud compute tpus queued-resources create first" in result.stdout
    assert "export SOME_TOKEN='(hidden)'" in result.stdout
    assert "sesame" not in result.stdout
    assert sorted(file.name for file in tmp_path.iterdir()) == ["gcloud"]


@needs_git
def test_a_missing_gcloud_is_one_line(tmp_path):
    (tmp_path / "git").symlink_to(shutil.which("git"))
    result = submit("tpu", *RUN, *CLOUD, "--yes", PATH=str(tmp_path))
    assert result.returncode == 2
    assert result.stderr.startswith("error: gcloud is not installed here: install")
    assert len(result.stderr.splitlines()) == 1
