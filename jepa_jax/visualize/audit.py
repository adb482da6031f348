"""The mask auditor: which patches a mask setting shows and asks for, and how often."""

import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from ml_collections import ConfigDict
from rich.table import Table

from jepa_jax import masks
from jepa_jax.config import mask_spec
from jepa_jax.console import new_console, say
from jepa_jax.masks import MaskSpec
from jepa_jax.validation import validate
from jepa_jax.visualize import figures

BATCHES, IMAGES = 64, 64  # that are drawn: styles may draw some numbers once for a batch

# Beyond these is warned. What stands behind was measured with `audit`, at the defaults on grids
# of 4×4 to 32×32, and at style "reference", whose faults are known.
UNEVEN = 1 / 3  # least / most seen third of rows or columns. Defaults .55–.75, reference 0–.23.
REDRAWN = 0.1  # of the draws, which bends them. Defaults .0005–.02, reference up to 7×7 .17–.20.
CUT = 0.6  # share of the context block that is thrown away. Defaults .45–.55.
BLOCKS = 4  # the paper's ablation (1 % of ImageNet's labels): 1 block 9.0, 2 22.0, 3 48.5, 4 54.2 %
SPARSE = 1 / 8  # K / N: half of the paper's quarter. A rule of thumb; nothing was measured.


class Audit(NamedTuple):
    """Shares are of the drawn images."""

    spec: MaskSpec
    in_context: Float[np.ndarray, "R C"]  # share in which the encoder sees the patch
    in_target: Float[np.ndarray, "R C"]  # share in which some block asks for it
    available: Int[np.ndarray, "n"]  # patches that a draw leaves of the context block, before K
    block_size: Int[np.ndarray, "m"]  # patches of the target blocks

    @property
    def redrawn(self) -> float:
        """Share of the draws that leave fewer than K patches."""
        return float((self.available < self.spec.num_context).mean())

    @property
    def cut(self) -> float:
        """Share of a context block, minus its targets, that is thrown away to have K patches."""
        enough = self.available[self.available >= self.spec.num_context]
        return float((1 - self.spec.num_context / enough).mean())

    @property
    def evenness(self) -> float:
        """How often the least seen third of the rows, or columns, is seen, over the most seen."""
        thirds = [
            [part.mean() for part in np.array_split(self.in_context.mean(axis), 3) if len(part)]
            for axis in (0, 1)
        ]
        return float(min(min(shares) / max(shares) for shares in thirds))


def audit(spec: MaskSpec, seed: int = 0) -> Audit:
    """Draws the masks of 4,096 images as training does, and counts."""
    with masks.on_host():
        keys = jax.random.split(jax.random.key(seed), BATCHES)
        images = jnp.arange(IMAGES, dtype=jnp.int32)

        @jax.jit
        def available(key):
            one = lambda i: masks.draw(key, i, jnp.int32(0), spec).context.sum()  # noqa: E731
            return jax.vmap(one)(images)

        left = np.concatenate([np.asarray(available(key)) for key in keys])
    drawn = [masks.sample(key, spec, IMAGES) for key in keys]
    context, targets, lengths = map(np.concatenate, zip(*drawn, strict=True))
    real = np.arange(targets.shape[-1]) < lengths[..., None]
    asked = np.zeros((len(targets), spec.num_patches), bool)
    image = np.broadcast_to(np.arange(len(targets))[:, None, None], targets.shape)
    asked[image[real], targets[real]] = True
    seen = np.bincount(context.ravel(), minlength=spec.num_patches) / len(context)
    return Audit(
        spec, seen.reshape(spec.grid), asked.mean(0).reshape(spec.grid), left, lengths.ravel()
    )


def warnings(found: Audit) -> list[str]:
    """What is poor about the setting, a sentence each, with what to do; none for a sound one."""
    spec, lines = found.spec, []
    remedy = ', as in the published code: masks.style="paper" reaches all, evenly'
    remedy = remedy if spec.style == "reference" else ""
    for share, what in ((found.in_context, "seen by the encoder"), (found.in_target, "predicted")):
        if missing := int((share == 0).sum()):
            lines.append(f"{missing} of {spec.num_patches} patches are never {what}{remedy}")
    if found.evenness < UNEVEN:
        lines.append(
            f"a third of the image is seen {found.evenness:.2f} times as often as another{remedy}"
        )
    if found.redrawn > REDRAWN:
        lines.append(
            f"{found.redrawn:.0%} of the draws are drawn again, for they leave fewer than"
            f" {spec.num_context} context patches, which favours small blocks at the border:"
            " a lower masks.num_context avoids it"
        )
    if found.cut > CUT:
        lines.append(
            f"{found.cut:.0%} of the context block is thrown away: a higher masks.num_context"
            f" keeps more of it (the largest possible is {masks.largest_context(spec)})"
        )
    if spec.num_context < SPARSE * spec.num_patches:
        lines.append(
            f"the encoder sees {spec.num_context} of {spec.num_patches} patches, less than an"
            " eighth: the paper's sees a quarter"
        )
    if spec.num_targets < BLOCKS and spec.style in ("paper", "reference"):
        lines.append(
            f"{spec.num_targets} target blocks are fewer than 4: in the paper, features got"
            " worse with every block less (54.2, 48.5, 22.0 and 9.0 % for 4, 3, 2 and 1)"
        )
    return lines


def audit_table(found: Audit) -> Table:
    """The numbers, to print."""
    spec, percent = found.spec, "{:.1%} to {:.1%}".format
    quantiles = "{:.0f}, {:.0f}, {:.0f}".format
    table = Table(title=f"Masks of {len(found.available):,} images", title_justify="left")
    table.add_column("of a grid of {}×{} patches".format(*spec.grid))
    table.add_column(f'style "{spec.style}"', justify="right")
    for name, value in (
        ("context patches that the encoder sees, K", f"{spec.num_context}"),
        (
            "available for it (least, median, most)",
            quantiles(*np.quantile(found.available, (0, 0.5, 1))),
        ),
        ("of these thrown away", f"{found.cut:.1%}"),
        ("draws with fewer than K, drawn again", f"{found.redrawn:.1%}"),
        ("a patch is seen in", percent(found.in_context.min(), found.in_context.max())),
        ("least seen third of rows or columns / most seen", f"{found.evenness:.2f}"),
        ("a patch is predicted in", percent(found.in_target.min(), found.in_target.max())),
        (
            f"patches of one of the {spec.num_targets} target blocks",
            f"{found.block_size.min()} to {found.block_size.max()}",
        ),
    ):
        table.add_row(name, value)
    return table


def draw_audit(found: Audit, path: str | os.PathLike) -> None:
    """Draws how often each patch is seen and asked for, and how many are left for the context."""
    spec = found.spec
    fig = figures.figure(8.4, 2.7)
    maps, targets, lengths = fig.subplots(1, 3, width_ratios=(1, 1, 1.25))
    _heat(maps, found.in_context, "seen by the encoder, % of images")
    _heat(targets, found.in_target, "in a target block, % of images")
    low, high = found.available.min(), found.available.max()
    bins = np.arange(low, high + 2) - 0.5
    lengths.hist(found.available, bins, color="#2f5d8a", rwidth=0.9)
    lengths.axvline(spec.num_context, color="#c8682a", linewidth=1.5)
    lengths.annotate(
        f"K = {spec.num_context}",
        (spec.num_context, 0.97),
        xycoords=("data", "axes fraction"),
        xytext=(4, 0),
        textcoords="offset points",
        color="#c8682a",
        fontsize=8,
        va="top",
    )
    lengths.set_title("patches available for the context", fontsize=8, color=figures.INK)
    lengths.set_ylabel("draws", fontsize=8, color=figures.INK)
    lengths.spines[["top", "right"]].set_visible(False)
    lengths.tick_params(labelsize=7, colors="#666666")
    lengths.margins(y=0.12)
    figures.save(fig, path)


def _heat(axis: Axes, share: Float[np.ndarray, "R C"], title: str) -> None:
    picture = axis.imshow(100 * share, cmap="viridis", vmin=0)
    axis.set_title(title, fontsize=8, color=figures.INK)
    axis.set_xticks([])
    axis.set_yticks([])
    for row, column in np.argwhere(share == 0):
        axis.text(column, row, "×", color="#ff5a4d", ha="center", va="center", fontsize=8)
    bar = axis.figure.colorbar(picture, ax=axis, shrink=0.8, pad=0.02)
    bar.ax.tick_params(labelsize=7, colors="#666666")
    bar.outline.set_visible(False)


def inspect_masks(config: ConfigDict, folder: epath.PathLike) -> None:
    """Prints what the config's masks are like, warns of what is poor, and writes `masks.png`.

    Raises:
      UserError: if the config is impossible.
    """
    validate(config, jax.device_count())
    found = audit(mask_spec(config), config.seed)
    console = new_console()
    say(console, audit_table(found))
    lines = warnings(found)
    for line in lines:
        say(console, f"warning: {line}")
    if not lines:
        say(console, "every patch is seen and predicted; nothing to warn of")
    picture = epath.Path(folder).expanduser() / "masks.png"
    draw_audit(found, picture)
    say(console, f"where, and how many: {picture}")
