"""How far a run is: a live bar on a terminal, plain lines when the output goes elsewhere."""

import time
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict
from rich.console import RenderableType
from rich.table import Table

from jepa_jax import console
from jepa_jax.config import architecture
from jepa_jax.console import clock, new_console, progress_bar
from jepa_jax.parallel.processes import is_first
from jepa_jax.training.loggers import Loggers
from jepa_jax.training.metrics import Measures, eigenvalues


class Display:
    """Shows the steps of a run, on the first of its processes; to be used as a context.

    Args:
      loggers: what else is to get them.
    """

    def __init__(self, total: int, start: int, loggers: Loggers | None = None):
        self._loggers = loggers
        self.console = new_console(quiet=not is_first())
        self.total = total
        self._start, self._begun = start, time.monotonic()
        self._bar = progress_bar(self.console, "step")
        self._task = self._bar.add_task("", total=total, completed=start, values="compiling")

    def __enter__(self):
        self._bar.start()
        return self

    def __exit__(self, *_):
        self._bar.stop()

    def update(self, row: dict[str, Any]) -> None:
        """One row of metrics."""
        self.log(row["step"], row)
        loss = float("nan") if row["loss"] is None else row["loss"]
        values = (
            f"loss {loss:.4f}  {row['images_per_second'] or 0:,.0f} images/s"
            f"  learning rate {row['learning_rate']:.2e}"
        )
        self._bar.update(self._task, completed=row["step"], values=values)
        if not self.console.is_terminal:
            elapsed = time.monotonic() - self._begun
            left = elapsed / max(1, row["step"] - self._start) * (self.total - row["step"])
            self.say(
                f"step {row['step']:>{len(str(self.total))}}/{self.total}"
                f"  {values}  left {clock(left)}"
            )

    def probed(self, step: int, scores: dict[str, float]) -> None:
        """What the probes found."""
        self.log(step, scores)
        self.say(
            f"step {step}: k-NN {scores['knn']:.1%}, linear probe {scores['linear']:.1%}"
            " on held-out images"
        )

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Numbers for the loggers alone."""
        if self._loggers:
            self._loggers.scalars(step, values)

    def diagnosed(self, step: int, found: Measures) -> None:
        """The spread of the features' directions; their numbers come with the row."""
        if self._loggers and len(values := eigenvalues(found.gram)):
            self._loggers.histogram(step, "log10_eigenvalues", np.log10(values))

    def drawn(self, step: int, folder: epath.Path) -> None:
        """Pictures in a folder."""
        for file in sorted(folder.glob("*.png")) if self._loggers else ():
            self._loggers.image(step, file.stem, file)

    def say(self, text: RenderableType) -> None:
        """A line, or a table."""
        console.say(self.console, text)


def result_table(results: dict[str, dict[str, float]]) -> Table:
    """Accuracies by features, as a table to print."""
    table = Table(title="Accuracy on held-out images (%)", title_justify="left")
    table.add_column("features")
    table.add_column("k-NN", justify="right")
    table.add_column("linear probe", justify="right")
    for name, scores in results.items():
        table.add_row(name, f"{100 * scores['knn']:.1f}", f"{100 * scores['linear']:.1f}")
    return table


def _precision(model: ConfigDict) -> str:
    """Of products; of what blocks add up and of the target encoder's products, if unusual."""
    residual = f", sums in {model.residual}" if model.residual != "float32" else ""
    target = f", target encoder in {model.target_dtype}" if model.target_dtype else ""
    return f"{model.dtype}{residual}{target}"


def introduction(config: ConfigDict, params: dict[str, Any], loader: Any, total: int) -> str:
    """What is going to run, in two lines."""
    count = {
        part: sum(leaf.size for leaf in jax.tree.leaves(tree)) / 1e6
        for part, tree in params.items()
    }
    height, width = config.data.image_size
    size = architecture(config)
    return (
        f"{height}×{width} images in patches of {config.model.patch_size}: encoder"
        f" {size['width']} wide, {size['depth']} deep ({count['encoder']:.2f}M parameters),"
        f" predictor {config.predictor.width} wide, {config.predictor.depth} deep"
        f" ({count['predictor']:.2f}M); {_precision(config.model)}"
        f" on {jax.device_count()} {jax.devices()[0].platform} device(s)\n"
        f"{loader.steps_per_epoch * config.train.batch_size:,} images an epoch in batches of"
        f" {config.train.batch_size}: {total:,} steps"
    )
