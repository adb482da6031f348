"""What the pictures share: figures without pyplot, and images on panels."""

import io
import os

import numpy as np
from etils import epath
from jaxtyping import Float, Int, UInt8
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from jepa_jax.atomic import write_bytes
from jepa_jax.errors import UserError
from jepa_jax.training.workdir import storage_of

PANEL = 1.4  # inches: the width of one image in a grid of panels
INK = "#333333"  # of text and axes
MARK = "#D55E00"  # of a patch that is meant


def figure(width: float, height: float) -> Figure:
    """A figure of so many inches that works without a display and in any thread."""
    result = Figure((width, height), layout="constrained")
    FigureCanvasAgg(result)
    return result


def save(fig: Figure, path: str | os.PathLike) -> None:
    """Writes a PNG; makes the folder if need be.

    Raises:
      StorageError: if it cannot be written; a picture that was there is there still.
    """
    path, data = epath.Path(path), io.BytesIO()
    fig.savefig(data, format="png", dpi=200)
    with storage_of(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, data.getvalue())


def panels(rows: int, titles: list[str], aspect: float) -> tuple[Figure, np.ndarray]:
    """A figure of (rows, len(titles)) axes for images of `aspect` = height / width."""
    columns = len(titles)
    fig = figure(columns * PANEL * 1.04, rows * PANEL * aspect * 1.04 + 0.2)
    fig.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)
    axes = fig.subplots(rows, columns, squeeze=False)
    for column, title in zip(axes[0], titles, strict=True):
        column.set_title(title, fontsize=8, color=INK, pad=4)
    for axis in axes.flat:
        axis.set_axis_off()
    return fig, axes


def show(axis: Axes, image: Float[np.ndarray, "H W 3"], size: tuple[int, int]) -> None:
    """Draws an image, or a map of another resolution, on a panel of `size` = (H, W) pixels.

    The axes' coordinates are the pixels of `size`, with 0, 0 at the top left corner.
    """
    # An image smaller than its panel keeps its pixels; one larger is averaged down.
    height, width = size
    small = image.shape[1] < 200
    axis.imshow(
        image,
        extent=(0, width, height, 0),
        interpolation="nearest" if small else "antialiased",
    )


def outline_patch(axis: Axes, patch: int, grid: tuple[int, int], size: tuple[int, int]) -> None:
    """Frames a patch, in raster order, on a panel of `size` pixels."""
    row, column = divmod(int(patch), grid[1])
    height, width = size[0] / grid[0], size[1] / grid[1]
    corner = (column * width, row * height)
    for color, line in (("white", 2.4), (MARK, 1.2)):
        axis.add_patch(Rectangle(corner, width, height, fill=False, color=color, linewidth=line))


def note(axis: Axes, text: str) -> None:
    """A few characters in the lower left corner of a panel."""
    box = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1}
    axis.text(0.03, 0.04, text, transform=axis.transAxes, fontsize=6, color=INK, bbox=box)


def colored(
    values: Float[np.ndarray, "R S"], name: str, low: float, high: float
) -> Float[np.ndarray, "R S 3"]:
    """Numbers in the colours of a map of matplotlib's that goes from `low` to `high`."""
    share = (values - low) / max(high - low, np.finfo(np.float32).tiny)
    return colormaps[name](np.nan_to_num(share))[..., :3]


def as_rgb(images: UInt8[np.ndarray, "n H W C"]) -> Float[np.ndarray, "n H W 3"]:
    """Images in 0..1; other channels than red, green and blue are averaged into grey."""
    images = np.asarray(images)
    if images.ndim != 4:
        raise UserError(f"images have shape {images.shape}: give (n, height, width, channels)")
    return three_channels(images.astype(np.float32) / 255)


def three_channels(pixels: Float[np.ndarray, "... C"]) -> Float[np.ndarray, "... 3"]:
    """Red, green and blue as they are; other channels averaged into grey."""
    if pixels.shape[-1] == 3:
        return pixels
    return np.repeat(pixels.mean(-1, keepdims=True), 3, axis=-1)


def as_image(
    patches: Float[np.ndarray, "N F"], grid: tuple[int, int], channels: int
) -> Float[np.ndarray, "H W C"]:
    """Patches in raster order, put together."""
    (rows, columns), side = grid, round((patches.shape[-1] / channels) ** 0.5)
    cut = patches.reshape(rows, columns, side, side, channels)
    return cut.swapaxes(1, 2).reshape(rows * side, columns * side, channels)


def on_image(
    real: Float[np.ndarray, "N F"],
    index: Int[np.ndarray, "q"],
    drawn: Float[np.ndarray, "q F"],
    grid: tuple[int, int],
    channels: int,
) -> Float[np.ndarray, "H W C"]:
    """The image of these patches, some of them as they are drawn."""
    patches = np.array(real)
    patches[index] = drawn
    return as_image(patches, grid, channels)
