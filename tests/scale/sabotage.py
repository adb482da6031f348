"""Healthy runs and spoilt ones on real images, and what the doctor says of each.

    python -m tests.scale.sabotage --data='data/fashion_mnist_{split}.npz' --out=runs/sabotage

Each of the seven is 400 steps of 64 images; a run that is finished is not made again. Prints when
each verdict came, and the numbers at the end.
"""

import argparse
import contextlib
import pathlib
from collections.abc import Callable, Iterator
from unittest import mock

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from jepa_jax import losses, masks
from jepa_jax.config import defaults
from jepa_jax.training.doctor import diagnosed, drift_per_half_life
from jepa_jax.training.loop import train
from jepa_jax.training.workdir import Workdir

STEPS, EPOCH = 400, 937  # of 64 images
NUMBERS = ("loss", "over_mean", "feature_std", "patch_cosine", "rank", "target_scale", "overlap")


def recipe(data: str) -> ConfigDict:
    c = defaults()
    c.data.source, c.data.path, c.data.test_split = "npz", data, "test"
    c.data.image_size, c.data.channels, c.data.eval_crop = (28, 28), 1, 1.0
    c.data.mean, c.data.std = (0.286,), (0.353,)
    c.data.threads = 1
    c.model.patch_size, c.model.dtype, c.model.unroll = 4, "float32", 3
    c.model.width, c.model.depth, c.model.heads = 64, 3, 2
    c.predictor.width, c.predictor.depth = 32, 2
    c.optim.learning_rate, c.optim.start_learning_rate = 5e-4, 1e-4
    c.optim.final_weight_decay, c.optim.schedule_scale = 0.04, 1.25
    c.train.batch_size, c.train.log_every = 64, 25
    c.train.epochs, c.train.warmup_epochs = STEPS / EPOCH, 0.05
    c.probe.every_epochs = 100 / EPOCH
    c.probe.train_images, c.probe.test_images = 2000, 1000
    c.doctor.every = 20
    return c


@contextlib.contextmanager
def healthy(c: ConfigDict) -> Iterator[None]:
    yield


@contextlib.contextmanager
def healthy_l2(c: ConfigDict) -> Iterator[None]:
    c.seed, c.loss = 1, "l2"
    yield


@contextlib.contextmanager
def healthy_reference(c: ConfigDict) -> Iterator[None]:
    c.seed, c.masks.style = 2, "reference"
    yield


@contextlib.contextmanager
def target_follows_at_once(c: ConfigDict) -> Iterator[None]:
    c.optim.ema = (0.0, 0.0)
    yield


@contextlib.contextmanager
def learning_rate_times_30(c: ConfigDict) -> Iterator[None]:
    c.optim.learning_rate *= 30
    c.optim.start_learning_rate *= 30
    yield


@contextlib.contextmanager
def targets_not_normalised(c: ConfigDict) -> Iterator[None]:
    with mock.patch.object(losses, "normalize_targets", lambda features: features):
        yield


@contextlib.contextmanager
def targets_in_the_context(c: ConfigDict) -> Iterator[None]:
    sample = masks.sample

    def careless(key, spec, size, start=0):
        """K patches of the whole grid, whether they are targets or not."""
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist())
        draws = [rng.permutation(spec.num_patches)[: spec.num_context] for _ in range(size)]
        return sample(key, spec, size, start)._replace(context=np.sort(draws, 1).astype(np.int32))

    with mock.patch.object(masks, "sample", careless):
        yield


CASES: tuple[Callable, ...] = (
    healthy,
    healthy_l2,
    healthy_reference,
    target_follows_at_once,
    learning_rate_times_30,
    targets_not_normalised,
    targets_in_the_context,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="data/fashion_mnist_{split}.npz")
    parser.add_argument("--out", default="runs/sabotage")
    arguments = parser.parse_args()
    table = Table(title=f"{STEPS} steps of 64 images", title_justify="left")
    for column in ("run", "verdicts: step", *NUMBERS, "drift", "linear, %"):
        table.add_column(column)
    for case in CASES:
        folder = pathlib.Path(arguments.out) / case.__name__
        c = recipe(arguments.data)
        jax.clear_caches()  # a program that was traced with what was replaced must not serve again
        with case(c):
            train(c, str(folder))
        run = Workdir(folder, writes=False)
        last = diagnosed(run.rows())[-1]
        said = [row for row in run.events() if row["event"] == "verdict"]
        table.add_row(
            case.__name__.replace("_", " "),
            "\n".join(f"{row['name']} ({row['severity']}): {row['step']}" for row in said) or "–",
            *(f"{last[name]:.3g}" for name in NUMBERS),
            f"{drift_per_half_life(last):.2f}",
            f"{100 * run.rows()[-1]['linear']:.1f}",
        )
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
