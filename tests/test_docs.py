"""The README and the pages of docs/: they build, their snippets run, their commands are real."""

import importlib.util
import re
import runpy
import subprocess
import sys

import numpy as np
import pytest

from jepa_jax.errors import UserError
from jepa_jax.evaluation.options import choose
from jepa_jax.evaluation.protocols import PROTOCOLS
from jepa_jax.validation import unknown_key, validate
from jepa_jax.visualize import audit
from tests.snippets import PAGES, ROOT, SOURCES, all_commands, blocks, commands, execute, parsed

# Only parsed, as they want what isn't here: large models, other data, another machine.
DEAR = re.compile(
    r"decoder|vit|cifar|pth|fashion|configs/studies|launch/(benchmark|compile|study|submit)|lowshot|attentive"
    r"|_(wide|probed)"
)
ALONE = "OMPI_COMM_WORLD_SIZE", "1"  # a training looks for no other processes

of_pages = pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
of_sources = pytest.mark.parametrize("source", SOURCES, ids=[source.name for source in SOURCES])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder as the pages think of it: the repository's, the first run in it, and photos."""
    folder = tmp_path_factory.mktemp("world")
    for name in ("configs", "launch"):
        (folder / name).symlink_to(ROOT / name)
    [photos, *_] = (block for block in blocks(ROOT / "docs" / "data.md") if block.language)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv(*ALONE)
        execute(["launch/train.py", "--config=configs/digits.py", "--workdir=runs/digits"])
        exec(photos.text, {})
    return folder


@pytest.fixture(scope="module")
def done() -> set[str]:
    """Commands that were executed. Of those on several pages, or for several runs, one is."""
    return {"launch/train.py --config=configs/digits.py --workdir=runs/digits"}


@pytest.fixture
def here(world, monkeypatch):
    monkeypatch.chdir(world)
    monkeypatch.setenv(*ALONE)
    return world


@of_pages
def test_snippets_run(here, page, done):
    """In their order: Python in one namespace, and of the commands those that are cheap."""
    names = {"__name__": page.stem}
    for block in blocks(page):
        if block.language == "python":
            if found := re.match(r"# (\w+\.py)\n", block.text):
                (here / found[1]).write_text(block.text)
            exec(compile(block.text, page.name, "exec"), names)
        for words in commands(block.text) if block.language == "bash" else ():
            kind = " ".join(words)
            if "train" not in words[0]:
                kind = kind.replace("runs/photos", "runs/digits")
            if not DEAR.search(kind) and kind not in done:
                execute(words)
                done.add(kind)


@of_sources
def test_commands_have_the_flags_and_settings_that_they_are_shown_with(here, source):
    for words in all_commands(source):
        if "--config=photos.py" in words:
            continue  # executed above
        with parsed(words) as command:
            if command.config is not None:
                mesh = command.config.mesh
                sizes = (mesh.replica, mesh.fsdp, mesh.tensor)
                validate(command.config, int(np.prod(np.maximum(sizes, 1))))
        if words[0] == "launch/evaluate.py":
            given = [word.removeprefix("--set=") for word in words if word.startswith("--set=")]
            names = [word.partition("=")[2] for word in words if word.startswith("--protocol=")]
            choose(names[0].split(",") if names else ["knn", "linear"], given, PROTOCOLS)


@of_sources
def test_modules_that_are_run_are_there(source):
    for module in re.findall(r"python3? -m (?!venv|pytest)([\w.]+)", source.read_text()):
        assert importlib.util.find_spec(module), module


@of_pages
def test_settings_that_are_named_exist(page):
    sections = "data|model|predictor|masks|optim|train|guard|doctor|probe|logging|mesh"
    text = page.read_text().split("## Its YAML")[0]  # whose keys are like ours
    named = re.findall(rf"`((?:{sections})\.[a-z0-9_]+)(?:=[^`]*)?`", text)
    files = re.compile(r"\.(png|py|safetensors)$")
    wrong = [unknown_key(key) for key in named if not files.search(key)]
    assert not any(wrong), list(filter(None, wrong))


@of_pages
def test_errors_are_quoted_as_they_are(here, page):
    for block in blocks(page):
        if block.text.startswith("$ python launch/"):
            command, quoted = block.text.split("\nerror: ")
            with pytest.raises(UserError) as caught:
                execute(*commands(command))
            told = " ".join(quoted.split())
            assert str(caught.value).startswith(told.removesuffix(", …")), page.name


def test_figures_are_drawn_and_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(audit, "BATCHES", 1)
    monkeypatch.setattr(audit, "IMAGES", 8)
    figures = runpy.run_path(str(ROOT / "docs" / "figures.py"))
    figures["draw"](tmp_path)
    drawn = {path.name for path in tmp_path.iterdir()}
    drawn |= {f"digits_{name}.png" for name in figures["OF_A_RUN"]}
    there = {path.name for path in figures["FOLDER"].iterdir()}
    assert drawn <= there
    assert there == set(re.findall(r"figures/(\w+\.png)", "".join(p.read_text() for p in PAGES)))


def test_the_site_builds(tmp_path):
    """Without a warning: links between pages and to files, headings, docstrings."""
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "-qWE", "--keep-going", ROOT / "docs", tmp_path],
        capture_output=True,
        text=True,
    )
    assert not built.returncode, built.stderr
