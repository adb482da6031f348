"""Curves of several runs over each other, as SVG that scales with the page."""

import io
import re
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.ticker import EngFormatter, MaxNLocator

from jepa_jax.visualize import figures
from jepa_jax.visualize.curves import smooth
from jepa_jax.visualize.masks import COLORS

WIDTH, HEIGHT = 4.4, 2.3  # inches
POINTS = 300  # of a curve, at most
SMOOTHED = 60  # points from which on a curve is also shown smoothed
NOISE = 1e-3  # share of the largest value within which a curve is flat


def color(run: int) -> str:
    """That of a run, by its place."""
    return COLORS[run % len(COLORS)]


def chart(title: str, curves: Mapping[int, Sequence[tuple[int, float]]]) -> str:
    """An SVG element: a curve for each run, by its place among the runs.

    Long curves are averaged down to POINTS; where there are many points, they are pale and the
    mean over a twentieth of them stands out.
    """
    style = {"svg.fonttype": "none", "svg.hashsalt": title, "font.family": "sans-serif"}
    with matplotlib.rc_context(style):
        fig = figures.figure(WIDTH, HEIGHT)
        axis = fig.subplots()
        for run, points in curves.items():
            step, value = thinned(np.array(points, float).reshape(-1, 2)).T
            many = len(step) >= SMOOTHED
            marker = "." if len(step) <= 30 else None
            axis.plot(
                step, value, color=color(run), alpha=0.25 if many else 1, marker=marker, lw=1.2
            )
            if many:
                axis.plot(step, smooth(value), color=color(run), lw=1.6)
        axis.set_title(title, fontsize=10, color=figures.INK, loc="left")
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color("#999999")
        axis.tick_params(labelsize=9, colors="#666666")
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.grid(axis="y", color="#e6e6e6", linewidth=0.6)
        axis.margins(x=0.02)
        low, high = axis.dataLim.intervaly
        room = NOISE * max(abs(low), abs(high))
        if 0 < high - low < room:  # the last bits of a constant are no curve
            axis.set_ylim((low + high - room) / 2, (low + high + room) / 2)
        file = io.StringIO()
        fig.savefig(file, format="svg", metadata={"Date": None})
    return _element(file.getvalue(), title)


def thinned(points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "m 2"]:
    """Means of equally many neighbours, so that no more than POINTS are left."""
    if len(points) <= POINTS:
        return points
    return np.array([part.mean(0) for part in np.array_split(points, POINTS)])


def _element(svg: str, title: str) -> str:
    """What matplotlib writes as a file, for a page that has several."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="[a-z0-9.]+_\d+"', "", svg)  # the same in every figure
    size = re.compile(r'width="[\d.]+pt" height="[\d.]+pt"')
    return size.sub(f'role="img" aria-label="{title} over steps"', svg, count=1)
