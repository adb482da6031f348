"""Sketches of a checkpoint: what `launch/train_decoder.py` does."""

import dataclasses
import json
from typing import Any

import numpy as np
from etils import epath
from rich.console import Console
from rich.table import Table

from jepa_jax import masks
from jepa_jax.atomic import write_text
from jepa_jax.config import mask_spec
from jepa_jax.console import new_console, say
from jepa_jax.data.loader import evaluation_images
from jepa_jax.data.sources import Source, open_source
from jepa_jax.data.subset import spread, subset
from jepa_jax.training.signals import StopWish
from jepa_jax.training.workdir import storage_of
from jepa_jax.visualize.decoder.agreement import Agreement, agreement
from jepa_jax.visualize.decoder.batches import key_of
from jepa_jax.visualize.decoder.fit import Settings, fit
from jepa_jax.visualize.decoder.picture import sketch_overview
from jepa_jax.visualize.decoder.sketches import Artist
from jepa_jax.visualize.trained import Trained, read_trained, untrained

MEASURED = 8  # sketches of each block that is measured


@dataclasses.dataclass(frozen=True)
class Asked:
    """What to draw, and to measure.

    Attributes:
      images: to show, of the split that is held out, if there is one.
      samples: sketches of each block that is shown.
      test_images: on which agreement is measured.
      untrained: whether to do the same with the model that the run started from.
    """

    images: int = 6
    samples: int = 4
    test_images: int = 256
    untrained: bool = False


def train_decoder(
    path: epath.PathLike,
    out: epath.PathLike | None = None,
    settings: Settings | None = None,
    asked: Asked | None = None,
    data: dict[str, Any] | None = None,
    stop: StopWish | bool = False,
) -> dict[str, Agreement]:
    """Trains decoders, and writes sketches.png and results.json.

    Args:
      path: the run's folder, or one of its checkpoints; else it is the newest.
      out: the folder to write into; None: `decoder` in the run's.
      data: what differs from the data section of the run's config, such as {"path": …}.
      stop: is looked at while decoders are trained.

    Returns:
      What was measured, by "trained" and "untrained"; nothing if it was stopped.

    Raises:
      UserError: if checkpoint, images or the folder's decoder can't be read, or do not fit.
      StorageError: if the folder can't be written.
    """
    settings, asked = settings or Settings(), asked or Asked()
    trained = read_trained(path)
    out = epath.Path(out).expanduser() if out else trained.folder.parent.parent / "decoder"
    with trained.config.unlocked():
        trained.config.data.update(data or {})
    config, console = trained.config.data, new_console()
    models = {"trained": trained} | ({"untrained": untrained(trained)} if asked.untrained else {})
    source = open_source(config, config.train_split)
    artists = {}
    for name, model in models.items():
        say(console, f"decoder of the {name} model, in {out / name}")
        decoder, state = fit(model, source, settings, out / name, console, stop)
        if state.step < settings.steps:
            say(console, f"stopped and saved after step {state.step}; the same command goes on")
            return {}
        artists[name] = Artist(decoder, model.params, state)

    held_out = open_source(config, config.test_split) if config.test_split else source
    key, seed = key_of(settings.seed, "drawing"), trained.config.seed
    shown = spread(len(held_out), asked.images)
    drawn = _images_and_masks(trained, held_out, shown, settings)
    sketch_overview(artists, *drawn, asked.samples, key, out / "sketches.png")
    measured = subset(len(held_out), asked.test_images, seed)
    drawn = _images_and_masks(trained, held_out, measured, settings)
    found = {name: agreement(artist, *drawn, MEASURED, key) for name, artist in artists.items()}
    _report(console, trained, settings, found, len(measured), out)
    return found


def _images_and_masks(
    trained: Trained, source: Source, index: np.ndarray, settings: Settings
) -> tuple[np.ndarray, masks.Masks]:
    images = evaluation_images(source, trained.config.data, index)
    key = key_of(settings.seed, "drawing", len(index))
    return images, masks.sample(key, mask_spec(trained.config), len(images))


def _report(
    console: Console,
    trained: Trained,
    settings: Settings,
    found: dict[str, Agreement],
    images: int,
    out: epath.Path,
) -> None:
    results = {
        "step": trained.step,
        "decoder": dataclasses.asdict(settings),
        "images": images,
        "sketches": MEASURED,
        **{name: measured._asdict() for name, measured in found.items()},
    }
    with storage_of(out / "results.json"):
        write_text(out / "results.json", json.dumps(results, indent=2) + "\n")
    table = Table(title=f"Sketches and true blocks of {images} images", title_justify="left")
    table.add_column("mean of blocks")
    for name in found:
        table.add_column(name, justify="right")
    for field in Agreement._fields:
        table.add_row(field, *(f"{getattr(measured, field):.4g}" for measured in found.values()))
    say(console, table)
    say(console, f"sketches.png and results.json are in {out}")
