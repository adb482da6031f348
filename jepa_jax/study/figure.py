"""The pictures of a study: how far each variant is from the centre, and how they got there."""

import statistics

from etils import epath

from jepa_jax.study.plan import full_name
from jepa_jax.visualize import figures
from jepa_jax.visualize.curves import PROBES

CURVES = 6  # variants beyond which nobody tells them apart


def draw(found, path: epath.Path) -> None:
    """A line for each variant, a dot for each seed, a bar at the mean; the centre's mean all along.

    Args:
      found: variants, the centre first where there is one (see `summary.Found`).
      path: of the PNG.
    """
    found = [each for each in found if each.records]
    fig = figures.figure(7.0, 0.9 + 0.22 * len(found))
    axes = fig.subplots(1, len(PROBES), sharey=True, squeeze=False)[0]
    for axis, (probe, (label, color)) in zip(axes, reversed(PROBES.items()), strict=True):
        for place, each in enumerate(found):
            scores = each.scores(probe)
            axis.plot(scores, [place] * len(scores), "o", color=color, markersize=3.5)
            axis.plot(statistics.mean(scores), place, "|", color=figures.INK, markersize=9)
        if not found[0].factor:
            axis.axvline(statistics.mean(found[0].scores(probe)), color="#999999", linewidth=0.8)
        axis.set_xlabel(f"{label} (%)", color=figures.INK, fontsize=9)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.spines["bottom"].set_color("#999999")
        axis.tick_params(labelsize=8, colors="#666666", length=0)
        axis.grid(color="#eeeeee", linewidth=0.6)
        axis.set_axisbelow(True)
    axes[0].set_yticks(range(len(found)), [full_name(each.factor, each.variant) for each in found])
    axes[0].set_ylim(len(found) - 0.5, -0.5)
    figures.save(fig, path)


def draw_curves(found, path: epath.Path) -> bool:
    """The probes over the steps, a line for each run of up to CURVES variants; whether there are.

    Args:
      found: as for `draw`.
    """
    lines = [
        (each, [row for row in record["curve"] if "knn" in row])
        for each in found[:CURVES]
        for record in each.records
    ]
    lines = [(each, rows) for each, rows in lines if len(rows) > 2]
    if not lines:
        return False
    fig = figures.figure(7.0, 3.3)
    axes = fig.subplots(1, len(PROBES), squeeze=False)[0]
    for axis, (probe, (label, _)) in zip(axes, reversed(PROBES.items()), strict=True):
        seen = set()
        for each, rows in lines:
            name = full_name(each.factor, each.variant)
            steps, scores = [row["step"] for row in rows], [100 * row[probe] for row in rows]
            color = f"C{found.index(each)}"
            shown = None if name in seen else name
            axis.plot(steps, scores, color=color, marker="o", markersize=2.5, label=shown)
            seen.add(name)
        axis.set_xlabel("step", color=figures.INK, fontsize=9)
        axis.set_ylabel(f"{label} (%)", color=figures.INK, fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8, colors="#666666")
        axis.grid(axis="y", color="#eeeeee", linewidth=0.6)
        axis.set_axisbelow(True)
    handles, names = axes[0].get_legend_handles_labels()
    place = {"loc": "outside lower center", "ncols": 3, "frameon": False, "fontsize": 7}
    fig.legend(handles, names, labelcolor=figures.INK, **place)
    figures.save(fig, path)
    return True
