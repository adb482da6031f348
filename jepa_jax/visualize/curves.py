"""The course of a run: its loss and what the probes found."""

import os
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from jepa_jax.errors import UserError
from jepa_jax.visualize import figures

LOSS = "#2f5d8a"
PROBES = {"linear": ("linear probe", "#2f5d8a"), "knn": ("k-NN", "#c8682a")}


def loss_curve(metrics: Sequence[Mapping[str, float]], path: str | os.PathLike) -> None:
    """Draws the loss over steps, raw and smoothed, and below it the probes where there are any.

    Args:
      metrics: the rows of metrics.jsonl, each with "step" and any of "loss", "linear" and "knn"
        (shares in 0..1). Of rows for the same step, as a resumed run leaves, the last counts.
      path: of the PNG.

    Raises:
      UserError: no row has a loss or a probe.
    """
    probes = [name for name in PROBES if len(_series(metrics, name))]
    loss = _series(metrics, "loss")
    count = int(len(loss) > 0) + int(len(probes) > 0)
    if not count:
        raise UserError("metrics: no row has a loss or a probe; give the rows of metrics.jsonl")
    fig = figures.figure(6.0, 0.4 + 2.3 * count)
    axes = list(fig.subplots(count, 1, sharex=True, squeeze=False)[:, 0])
    if len(loss):
        axis = axes[0]
        marker = "." if len(loss) == 1 else None  # a line needs two points to be seen
        axis.plot(*loss.T, color=LOSS, alpha=0.3, linewidth=0.8, marker=marker, label="logged")
        axis.plot(loss[:, 0], smooth(loss[:, 1]), color=LOSS, linewidth=1.6, label="smoothed")
        _style(axis, "loss")
    if probes:
        axis = axes[-1]
        for name in probes:
            label, color = PROBES[name]
            points = _series(metrics, name)
            axis.plot(*points.T, color=color, linewidth=1.4, marker="o", markersize=3, label=label)
        axis.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.4g} %")
        _style(axis, "accuracy")
    axes[-1].set_xlabel("step", color=figures.INK, fontsize=9)
    figures.save(fig, path)


def smooth(values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Mean over a centred window of a twentieth of the rows; at the ends, what there is of it.

    Values that are not finite are left out of the mean; without any other it is NaN.
    """
    finite = np.isfinite(values)
    window = np.ones(2 * (len(values) // 40) + 1)
    total = np.convolve(np.where(finite, values, 0), window, mode="same")
    number = np.convolve(finite, window, mode="same")
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def _series(metrics: Sequence[Mapping[str, float]], name: str) -> Float[np.ndarray, "n 2"]:
    """(step, value) of the rows that have the value, by step."""
    rows = {row["step"]: row[name] for row in metrics if row.get(name) is not None}
    return np.array(sorted(rows.items()), dtype=float).reshape(-1, 2)


def _style(axis: Axes, label: str) -> None:
    axis.set_ylabel(label, color=figures.INK, fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color("#999999")
    axis.tick_params(labelsize=8, colors="#666666")
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axis.grid(axis="y", color="#e6e6e6", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.margins(x=0.02)
    axis.legend(frameon=False, fontsize=8, labelcolor=figures.INK)
