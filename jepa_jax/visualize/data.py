"""A recipe's images before the run: what they are, and what the model would see of them."""

import collections

import jax
from etils import epath
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from jepa_jax import masks
from jepa_jax.config import grid, mask_spec
from jepa_jax.console import new_console
from jepa_jax.data.loader import TrainBatches
from jepa_jax.data.sources import Source, open_source
from jepa_jax.data.subset import subset
from jepa_jax.data.survey import PERCENTILES, Survey, survey
from jepa_jax.training.setup import purpose_key
from jepa_jax.validation import validate
from jepa_jax.visualize.masks import mask_overlay

ROWS = 8  # images on the picture
LISTED = 20  # names of a kind


def inspect_data(config: ConfigDict, folder: epath.PathLike, most: int) -> None:
    """Prints what the splits hold and writes `batch.png` into the folder.

    Args:
      most: images of a split to look at; if there are more, they are drawn at random.

    Raises:
      UserError: for a config or data that cannot be trained with.
    """
    validate(config, jax.device_count())
    console = new_console()
    for split in filter(None, (config.data.train_split, config.data.test_split)):
        source = open_source(config.data, split)
        index = subset(len(source), most, config.seed)
        found = survey(source, index, config.data.channels, config.data.threads)
        _report(console, split, source, found, config)
    picture = epath.Path(folder).expanduser() / "batch.png"
    draw_batch(config, picture)
    console.print(f"what the model would see is in {picture}", markup=False)


def draw_batch(config: ConfigDict, path: epath.Path) -> None:
    """The first images of the first batch as the run would crop them, with their first masks."""
    source = open_source(config.data, config.data.train_split)
    size = min(config.train.batch_size, len(source))
    batches = TrainBatches(source, config.data, seed=config.seed, batch_size=size)
    with masks.on_host():
        key = jax.random.fold_in(purpose_key(config.seed, "masks"), 0)
    images = batches[0]["images"][:ROWS]
    draws = config.train.draws
    drawn = masks.sample(key, mask_spec(config), len(images), draws=draws)
    if draws > 1:
        drawn = masks.Masks(*(x[:, 0] for x in drawn))
    mask_overlay(images, drawn, grid(config), path)


def _report(
    console: Console, split: str, source: Source, found: Survey, config: ConfigDict
) -> None:
    looked = found.images + len(found.broken)
    of = "" if looked == len(source) else f", of which {looked:,} were looked at"
    console.print(f"\n{split}: {len(source):,} images{of}", markup=False, style="bold")
    table = Table(
        "", *("least" if p == 0 else "most" if p == 100 else f"{p} %" for p in PERCENTILES)
    )
    for name, values, form in (
        ("height", found.heights, ".0f"),
        ("width", found.widths, ".0f"),
        ("width / height", found.aspects, ".2f"),
    ):
        table.add_row(name, *(f"{value:{form}}" for value in values))
    console.print(table)
    _list_classes(console, found.classes)
    _list_names(console, "can't be read", found.broken)
    _list_names(
        console,
        "files that are there more than once",
        [" = ".join(same) for same in found.duplicates],
    )
    if split == config.data.train_split:
        for key, values in (("mean", found.mean), ("std", found.std)):
            numbers = ", ".join(f"{value:.3f}" for value in values)
            comma = "," if len(values) == 1 else ""
            console.print(f"c.data.{key} = ({numbers}{comma})", markup=False)


def _list_classes(console: Console, classes: dict[str, int]) -> None:
    if not classes:
        console.print("no labels")
        return
    ranked = collections.Counter(classes).most_common()
    shown = ranked if len(ranked) <= LISTED else [*ranked[: LISTED // 2], *ranked[-LISTED // 2 :]]
    names = ", ".join(f"{name} {count:,}" for name, count in shown)
    rest = "" if len(shown) == len(ranked) else " (the largest and the smallest)"
    console.print(f"{len(ranked)} classes: {names}{rest}", markup=False)


def _list_names(console: Console, what: str, names: list[str]) -> None:
    console.print(f"{len(names)} {what}{':' if names else ''}", markup=False)
    for name in names[:LISTED]:
        console.print(f"  {name}", markup=False)
    if len(names) > LISTED:
        console.print(f"  … and {len(names) - LISTED:,} more", markup=False)
