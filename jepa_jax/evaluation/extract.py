"""Features of all images of a split or a folder, written to a file."""

import dataclasses
import shutil

import jax
import numpy as np
from ml_collections import ConfigDict

from jepa_jax.config import defaults
from jepa_jax.console import new_console, say
from jepa_jax.data.sources import Source, open_source, other_images
from jepa_jax.data.splits import check_classes
from jepa_jax.errors import UserError
from jepa_jax.evaluation.extractor import Extractor
from jepa_jax.evaluation.features_file import Content, check_suffix, write
from jepa_jax.evaluation.opening import How, check_names, check_recipe, open_backbone
from jepa_jax.evaluation.splits import ALL, drawn
from jepa_jax.parallel.processes import is_first, wait_for_all
from jepa_jax.parallel.sharding import make_mesh
from jepa_jax.training.storage import local_path


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is asked for.

    Attributes:
      checkpoint: see `opening.open_backbone`.
      out: the file, .npz or .array_record.
      config: whose section `data` tells of the images, unless `images` does.
      images: a folder, zip or tar file of images, in class folders or not.
      split: of the section `data`; "" for the training split.
      layers, patches: see `Task.features`.
      count: at most so many images, at random; always the same ones.
    """

    checkpoint: str
    out: str
    config: ConfigDict | None = None
    images: str = ""
    split: str = ""
    layers: int = 1
    patches: bool = False
    count: int = ALL
    how: How = dataclasses.field(default_factory=How)


def extract(asked: Asked) -> None:
    """Computes the features and writes them, with labels where there are any.

    What is computed lies in a folder beside the file until that is written, from which the same
    call goes on after a stop.

    Raises:
      UserError: for whatever is wrong with what is asked.
    """
    console = new_console(quiet=not is_first())
    out = local_path(asked.out)
    check_suffix(out)
    check_names([asked.checkpoint])
    config = _config(asked)
    name = asked.split or config.data.train_split
    source = open_source(config.data, name)
    if asked.images:
        check_classes(source.classes, asked.images, "name one of them, as in --images=photos/val")
    split = drawn(name, source, asked.count, seed=0, labelled=source.labelled)
    backbone = open_backbone(asked.checkpoint, config, asked.how)
    mesh = make_mesh((jax.device_count(), 1, 1))
    parts = out.with_name(f"{out.name}.parts")
    found = Extractor(backbone, config.data, mesh, parts, console)(
        split, asked.layers, asked.patches
    )
    if is_first():
        sound = np.flatnonzero(found.index == split.index)  # the others: their neighbours instead
        values, kept = found.values, split
        if len(sound) < len(split):
            values, kept = values[sound], split.take(sound)
            say(console, f"{len(split) - len(sound)} images can't be read and are left out")
        write(out, Content(values, kept.labels, _names(split.source, kept.index), kept.classes))
        shutil.rmtree(parts)
        labels = "with labels" if split.labels is not None else "without labels"
        shape = " × ".join(map(str, values.shape))
        say(console, f"{out} has features of {backbone.name}: {shape}, {labels}")
    wait_for_all("extract")


def _config(asked: Asked) -> ConfigDict:
    if not asked.images and asked.config is None:
        raise UserError("say which images: --images=photos, or --config=configs/digits.py")
    if asked.config is not None:
        check_recipe(asked.config)
    config = (asked.config or defaults()).copy_and_resolve_references()
    if asked.images:
        if asked.split:
            raise UserError(
                "--split is of --config, and --images names all there are: leave one out"
            )
        there = {"source": "folder", "path": asked.images, "train_split": "images"}
        config.data = other_images(config.data, **there)
    return config


def _names(source: Source, index: np.ndarray) -> np.ndarray:
    """Paths of files within what holds them, or what else a source calls its examples."""
    known = getattr(source, "names", None)
    return np.array([known[i] if known else source[i].name for i in index.tolist()], str)
