"""The code in README and docs: its blocks, and the commands of launch/, run for real."""

import contextlib
import pathlib
import re
import runpy
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict

from jepa_jax import cli

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = PAGES + [
    path
    for folder in ("launch", "configs", "configs/studies")
    for path in sorted((ROOT / folder).glob("*.py"))
]

# What makes a command short, unless it says otherwise; the pages' recipes have three heads.
SHORT = {
    "train": [
        f"--config.{setting}"
        for setting in (
            *(
                "model.width=24",
                "model.depth=4",
                "model.unroll=1",
                "predictor.width=24",
                "predictor.depth=1",
            ),
            *("train.epochs=1", "train.warmup_epochs=0", "probe.every_epochs=0", "doctor.every=0"),
            *("probe.train_images=128", "probe.test_images=32", "guard.hang_minutes=0"),
        )
    ],
    "evaluate": ["--train_images=120", "--test_images=32"],
    "extract": ["--count=32"],
    "visualize": ["--images=2", "--bank=16", "--what=features"],
    "inspect": ["--images=64"],
}


class Block(NamedTuple):
    language: str
    text: str


def blocks(page: pathlib.Path) -> list[Block]:
    """Of a page of Markdown, in its order."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [Block(*each) for each in found]


def commands(text: str) -> list[list[str]]:
    """The commands `python launch/…` of a shell's block, as words."""
    lines = text.replace("\\\n", " ").splitlines()
    words = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines]
    words = [each[1:] for each in words if each and each[0].endswith("python")]
    return [each for each in words if each[0].startswith("launch/")]


def all_commands(source: pathlib.Path) -> list[list[str]]:
    """Those in blocks, within sentences, and in the docstrings of scripts and recipes."""
    text = source.read_text()
    if source.suffix == ".py":
        text = text.split('"""')[1].replace("\\\\\n", "\\\n")
        return commands("\n".join(re.findall(r"^    (python launch/(?:.*\\\n)*.*)", text, re.M)))
    shell = [block.text for block in blocks(source) if block.language == "bash"]
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`(python launch/[^`…]*)`", prose)
    return commands("\n".join(shell)) + commands("\n".join(" ".join(s.split()) for s in inline))


class Parsed(NamedTuple):
    main: Callable[..., int | None]
    rest: list[str]
    config: ConfigDict | None


@contextlib.contextmanager
def parsed(words: list[str]) -> Iterator[Parsed]:
    """A command as its own script parses it: `main(*rest)` would do it.

    Raises:
      UserError: as on the command line.
    """
    known, arguments, path, run = set(flags.FLAGS), sys.argv, [*sys.path], cli.run
    asked: dict[str, Any] = {}

    def parse(main, words=(), config=None, several=None):
        asked.update(main=main, rest=cli._parse(words, config, several))

    cli.run, sys.argv = parse, list(words)
    try:
        with warnings.catch_warnings():  # config_flags reads a recipe as it should no more
            warnings.filterwarnings("ignore", "the load_module", DeprecationWarning)
            script = runpy.run_path(words[0], run_name="__main__")
        config = script["CONFIG"].value if "CONFIG" in script and "config" in flags.FLAGS else None
        yield Parsed(asked["main"], asked["rest"], config)
    finally:
        cli.run, sys.argv, sys.path[:] = run, arguments, path
        for name in set(flags.FLAGS) - known:
            delattr(flags.FLAGS, name)
        flags.FLAGS.unparse_flags()


def execute(words: list[str]) -> None:
    """Does what a command says, in this process and in short form.

    A training wants OMPI_COMM_WORLD_SIZE=1 in the environment: it looks for no others then.
    """
    given = {word.partition("=")[0] for word in words} - {"--config.probe.every_epochs"}
    short = SHORT.get(pathlib.PurePath(words[0]).stem, [])
    with parsed(words + [flag for flag in short if flag.partition("=")[0] not in given]) as command:
        command.main(*command.rest)
