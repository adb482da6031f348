"""The pages of docs/ and the README: each builds, each snippet runs, each command exists."""

import importlib.util
import re
import subprocess
import sys

import numpy as np
import pytest

from jepa_jax.evaluation.options import choose
from jepa_jax.evaluation.protocols import PROTOCOLS
from jepa_jax.validation import validate
from tests.snippets import PAGES, ROOT, SOURCES, all_commands, blocks, execute, parsed

NAMES = [page.name for page in PAGES]

# Commands that are only parsed, as they want what isn't here: large models, other data, a cluster.
DEAR = re.compile("vit|cifar|pth|fashion|compile|benchmark|submit|scale")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder as the pages think of it: the repository's files, and the README's first run."""
    folder = tmp_path_factory.mktemp("world")
    for name in ("configs", "launch"):
        (folder / name).symlink_to(ROOT / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        execute(["launch/train.py", "--config=configs/digits.py", "--workdir=runs/digits"])
    return folder


@pytest.fixture
def here(world, monkeypatch):
    monkeypatch.chdir(world)
    return world


@pytest.mark.parametrize("source", SOURCES, ids=[source.name for source in SOURCES])
def test_every_command_has_the_flags_and_settings_that_it_is_shown_with(here, source):
    for words in all_commands(source):
        with parsed(words) as command:
            if command.config is not None:
                mesh = command.config.mesh
                sizes = (mesh.replica, mesh.fsdp, mesh.tensor)
                validate(command.config, int(np.prod(np.maximum(sizes, 1))))
        if words[0] == "launch/evaluate.py":
            given = [word.removeprefix("--set=") for word in words if word.startswith("--set=")]
            names = [word.partition("=")[2] for word in words if word.startswith("--protocol=")]
            choose(names[0].split(",") if names else ["knn", "linear"], given, PROTOCOLS)


@pytest.mark.parametrize("source", SOURCES, ids=[source.name for source in SOURCES])
def test_every_module_that_is_run_is_there(source):
    for module in re.findall(r"python3? -m ([\w.]+)", source.read_text()):
        assert importlib.util.find_spec(module), module


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_snippets_run(here, page, capsys):
    """In their order: Python in one namespace, and of the commands those that are cheap."""
    names = {"__name__": page.stem}
    for block in blocks(page):
        if block.language == "python":
            exec(compile(block.text, page.name, "exec"), names)


def test_the_site_builds(tmp_path):
    """Without a warning: links between pages and to files, headings, docstrings."""
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "-qWE", "--keep-going", ROOT / "docs", tmp_path],
        capture_output=True,
        text=True,
    )
    assert not built.returncode, built.stderr
