"""What shall run elsewhere: a command of launch/train.py, known to be one that can run."""

import dataclasses
import pathlib
import re
import unicodedata
from collections.abc import Sequence

from ml_collections import ConfigDict

from jepa_jax.config import mesh_shape
from jepa_jax.errors import UserError
from jepa_jax.validation import validate


@dataclasses.dataclass(frozen=True)
class Training:
    """Arguments of launch/train.py.

    Attributes:
      recipe: path of the recipe in the repository, perhaps with ":ARGUMENT".
      workdir: of the run.
      overrides: --config.KEY=VALUE and --force, as they were given.
    """

    recipe: str
    workdir: str
    overrides: tuple[str, ...] = ()

    def arguments(self, root: str = "") -> list[str]:
        """For launch/train.py, with the repository at `root`."""
        return [f"--config={root}{self.recipe}", f"--workdir={self.workdir}", *self.overrides]


def training_of(
    recipe: str | None, workdir: str | None, words: Sequence[str], root: pathlib.Path
) -> Training:
    """The training that a command line describes.

    Args:
      recipe: value of --config.
      words: the command line, whose --config.KEY=VALUE and --force are taken.
      root: the repository.

    Raises:
      UserError: if something is missing, or cannot travel.
    """
    if recipe is None or workdir is None:
        raise UserError("give a recipe and a folder: --config=configs/vitb16.py --workdir=runs/b")
    if not workdir:
        raise UserError("--workdir is empty: give a folder")
    overrides = [word for word in words if re.match(r"--?((no)?config\.|force(=|$))", word)]
    for word in overrides:
        if "=" not in word and not re.match(r"--?no", word):
            raise UserError(f"{word} has no value: write {word}=VALUE")
    path, colon, argument = recipe.partition(":")
    try:
        inside = pathlib.Path(path).resolve().relative_to(root.resolve())
    except ValueError:
        raise UserError(
            f"--config={path} is outside {root}, and would not travel: put it in configs/"
        ) from None
    training = Training(f"{inside.as_posix()}{colon}{argument}", workdir, tuple(overrides))
    for word in training.arguments():
        refuse_control_characters(word)
    return training


def check_recipe(config: ConfigDict, devices: int, slices: int = 1) -> None:
    """Whether the recipe can run on so many devices, of so many slices.

    Raises:
      UserError: naming what cannot be.
    """
    validate(config, devices)
    replica, fsdp, tensor = mesh_shape(config, devices)
    if replica % slices:
        raise UserError(
            f"mesh.fsdp × mesh.tensor = {fsdp * tensor} must divide the {devices // slices} chips"
            " of a slice: take mesh.replica=-1 and a smaller mesh.fsdp"
        )


def check_shared(training: Training) -> None:
    """Whether the workdir outlives the machines, and all of them see it.

    Raises:
      UserError: if it would lie on their own disks.
    """
    if not re.match(r"gs://[^/]+/.", training.workdir):
        raise UserError(
            f"--workdir={training.workdir} would lie on the disk of each host and go with it:"
            " take a folder of a bucket, such as gs://BUCKET/runs/b"
        )


def check_name(name: str | None) -> str:
    """A name that is also one of a node, a pod and a label.

    Raises:
      UserError: if it is not.
    """
    if not name or len(name) > 40 or not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        raise UserError(
            f"--name={name or ''}: take up to 40 small letters, digits and hyphens that begin with"
            " a letter, such as --name=vith14-first"
        )
    return name


def refuse_control_characters(word: str) -> None:
    """Raises a UserError for text that not every shell, file and scheduler carries unchanged."""
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in word):
        raise UserError(f"{word!r} has a line break or another control character: leave it out")
