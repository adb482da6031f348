"""Synthetic pictures of countable objects at known distances, drawn as they are asked for.

In the manner of sort-of-CLEVR: round, square and triangular objects of eight colours on a floor,
seen by a camera that looks down on it. Each picture is a pure function of (seed, split, index): no
download. They are no photographs, and scores on them say little of photographs: whatever is
measured with them is called synthetic.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from ml_collections import ConfigDict

from jepa_jax.data.protocol import Example, Indices, Labels
from jepa_jax.errors import UserError, did_you_mean

COUNTS = tuple(range(3, 11))  # how many objects a picture may have; all equally often, as in CLEVR
EDGES = (8.0, 8.5, 9.0, 9.5, 10.0)  # VTAB's limits of the nearest object's depth: 6 classes
SHAPES = ("circle", "square", "triangle")
CORNERS = (0, 4, 3)
COLOURS = np.float32(  # grey, red, blue, green, brown, purple, cyan, yellow; in 0..1
    [
        *([0.5, 0.5, 0.5], [0.8, 0.2, 0.2], [0.2, 0.35, 0.85], [0.15, 0.6, 0.2]),
        *([0.55, 0.35, 0.15], [0.55, 0.2, 0.7], [0.2, 0.75, 0.75], [0.95, 0.85, 0.2]),
    ]
)
LABELS = ("count", "distance")
SIZES = {"train": 20_000, "test": 5_000}  # pictures of the two splits

# The camera, in CLEVR's units: it looks at the floor from CAMERA away, at 40 degrees down.
CAMERA, SINE, COSINE = 11.0, 0.643, 0.766
FOCAL = 1.15  # in heights of the picture
LOWERED = 0.07  # how far the point that it looks at lies below the picture's middle, likewise
NEAR, FAR = 7.5, 16.0  # depths of objects
RADII = (0.55, 0.9)
APART = 0.8  # two objects' distance in the picture, at least, in sums of their radii
TRIES = 64  # places that are tried for an object, of which the freest is taken if none is free


class Scene(NamedTuple):
    """What a picture shows: n objects, the farthest first. Lengths in heights of the picture."""

    centre: Float[np.ndarray, "n 2"]  # x to the right, y downwards, from the picture's middle
    radius: Float[np.ndarray, " n"]
    depth: Float[np.ndarray, " n"]  # along the camera's axis, in CLEVR's units
    shape: Int[np.ndarray, " n"]
    colour: Int[np.ndarray, " n"]
    turn: Float[np.ndarray, " n"]  # radians


class Outline(NamedTuple):
    """What the labels say of a scene; it is drawn first, so that they cost little."""

    objects: int
    nearest: float  # depth

    @property
    def count(self) -> int:
        """The class of VTAB's counting task: 0 for three objects, … 7 for ten."""
        return self.objects - COUNTS[0]

    @property
    def distance(self) -> int:
        """The class of VTAB's distance task: in which of six intervals the nearest object is."""
        return int(np.searchsorted(EDGES, self.nearest, side="right"))


def outline(rng: np.random.Generator) -> Outline:
    """Number of objects and class of distance are uniform, and independent."""
    limits = (NEAR, *EDGES, EDGES[-1] + 0.5)
    interval = int(rng.integers(len(limits) - 1))
    objects = int(rng.integers(COUNTS[0], COUNTS[-1] + 1))
    return Outline(objects, float(rng.uniform(*limits[interval : interval + 2])))


def scene(rng: np.random.Generator, aspect: float = 1.0) -> Scene:
    """Draws a scene as its `outline`; objects may hide up to a third of each other.

    Args:
      aspect: width / height of the picture.
    """
    count, nearest = outline(rng)
    placed = np.empty((0, 4))  # x, y, radius in the picture, depth
    for size in rng.choice(RADII, count):
        depth = nearest if not len(placed) else rng.uniform(nearest, FAR, TRIES)
        radius = FOCAL * size / depth * np.ones(TRIES)
        along = (depth - CAMERA + size * SINE) / COSINE  # on the floor, away from the camera
        y = -FOCAL * (along * SINE + size * COSINE) / depth + LOWERED
        x = rng.uniform(-1, 1, TRIES) * (aspect / 2 - radius)
        places = np.stack(np.broadcast_arrays(x, y, radius, depth), axis=1)
        free = _freedom(places, placed)
        placed = np.append(placed, places[[np.argmax(np.minimum(free, APART))]], axis=0)
    placed = placed[np.argsort(-placed[:, 3])]
    return Scene(
        *(placed[:, :2], placed[:, 2], placed[:, 3]),
        shape=rng.integers(len(SHAPES), size=count),
        colour=rng.integers(len(COLOURS), size=count),
        turn=rng.uniform(0, 2 * np.pi, count),
    )


def _freedom(places: np.ndarray, placed: np.ndarray) -> np.ndarray:
    """For each place, the distance to the worst neighbour, in sums of the two radii."""
    between = np.linalg.norm(places[:, None, :2] - placed[None, :, :2], axis=2)
    return np.min(between / (places[:, None, 2] + placed[None, :, 2]), axis=1, initial=np.inf)


def draw(
    what: Scene, rng: np.random.Generator, size: tuple[int, int]
) -> tuple[UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "H W"]]:
    """The picture of a scene, and its mask: 0 floor, 1 circle, 2 square, 3 triangle.

    Args:
      rng: draws the light, the floor's colour and the noise.
      size: height, width in pixels.
    """
    height, width = size
    y, x = np.mgrid[:height, :width].astype(np.float32) + 0.5
    x, y = (x - width / 2) / height, y / height - np.float32(0.5)
    light = rng.uniform(0.75, 1.1)
    floor = rng.uniform(0.5, 0.7) + rng.uniform(-0.06, 0.06, 3)
    image = (floor + 0.15 * y[..., None]).astype(np.float32)
    mask = np.zeros(size, np.uint8)
    for centre, radius, shape, colour, turn in zip(
        what.centre, what.radius, what.shape, what.colour, what.turn, strict=True
    ):
        reach = 1.8 * radius * height + 1  # pixels, the shadow included
        column, row = (centre + np.array([width / height / 2, 0.5])) * height
        part = (
            slice(max(0, int(row - reach)), max(0, int(row + reach) + 1)),
            slice(max(0, int(column - reach)), max(0, int(column + reach) + 1)),
        )
        dx, dy = (x[part] - centre[0]) / radius, (y[part] - centre[1]) / radius
        shadow = np.hypot((dx - 0.3) / 1.3, (dy - 0.8) / 0.6)
        image[part] *= (1 - 0.45 * np.clip(2 * (1 - shadow), 0, 1))[..., None]
        # Half of the pixels along its outline are mixed with what is behind: no stairs.
        cover = np.clip(0.5 - _outside(dx, dy, shape, turn) * radius * height, 0, 1)
        shaded = COLOURS[colour] * (light * _shade(dx, dy, shape))[..., None]
        image[part] += cover[..., None] * (shaded - image[part])
        mask[part][cover > 0.5] = shape + 1
    image += rng.normal(0, 0.02, image.shape).astype(np.float32)
    return np.uint8(np.clip(255 * image, 0, 255)), mask


def _outside(dx: np.ndarray, dy: np.ndarray, shape: int, turn: float) -> np.ndarray:
    """How far a point is beyond the outline of a shape in the unit circle; negative inside."""
    if not CORNERS[shape]:
        return np.hypot(dx, dy) - 1
    sector = 2 * np.pi / CORNERS[shape]
    angle = (np.arctan2(dy, dx) - turn) % sector - sector / 2  # from the nearest side's middle
    return np.hypot(dx, dy) * np.cos(angle) - np.cos(sector / 2)


def _shade(dx: np.ndarray, dy: np.ndarray, shape: int) -> np.ndarray:
    """Brightness of an object that is lit from above and the left: round, or flat."""
    lit = -0.4 * dx - 0.6 * dy
    if shape:
        return 0.85 + 0.2 * lit
    towards = np.sqrt(np.clip(1 - dx**2 - dy**2, 0, 1))
    diffuse = np.clip(lit + 0.7 * towards, 0, 1)
    return 0.4 + 0.7 * diffuse + 0.5 * diffuse**12


@dataclasses.dataclass(frozen=True)
class SyntheticSource:
    """Pictures of one split, drawn when they are asked for.

    Attributes:
      label: what the labels are: the class of the count, or of the nearest object's distance.
      size: height, width in pixels.
    """

    split: str  # train | test
    label: str = "count"  # count | distance
    size: tuple[int, int] = (64, 64)
    seed: int = 0

    labelled = masked = True
    mask_classes = ("floor", *SHAPES)

    @property
    def classes(self) -> tuple[str, ...]:
        if self.label == "count":
            return tuple(f"{count} objects" for count in COUNTS)
        return (*(f"nearer than {edge:g}" for edge in EDGES), f"{EDGES[-1]:g} or farther")

    def __len__(self) -> int:
        return SIZES[self.split]

    def __getitem__(self, index: int) -> Example:
        image, _ = self._draw(index)
        return Example(image, self._label(index), f"synthetic {self.split}[{index}]")

    def labels(self, indices: Indices) -> Labels:
        return np.array([self._label(int(index)) for index in indices], np.int32)

    def mask(self, index: int) -> UInt8[np.ndarray, "H W"]:
        """Which of `mask_classes` each pixel of a picture shows."""
        return self._draw(index)[1]

    def _draw(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        what = scene(self._rng(index, "scene"), self.size[1] / self.size[0])
        return draw(what, self._rng(index, "picture"), self.size)

    def _label(self, index: int) -> int:
        return getattr(outline(self._rng(index, "scene")), self.label)

    def _rng(self, index: int, purpose: str) -> np.random.Generator:
        """For one use of randomness in one picture."""
        index = range(len(self))[index]
        split = list(SIZES).index(self.split)
        return np.random.default_rng((self.seed, split, index, purpose == "picture"))


def open_synthetic(data: ConfigDict, split: str) -> SyntheticSource:
    """The pictures of `data.train_split` or `data.test_split`, of `data.image_size`.

    `data.name` says what the labels are: "count" (the default) or "distance".
    """
    if split not in (data.train_split, data.test_split):
        splits = f"{data.train_split!r} and {data.test_split!r}"
        raise UserError(f"synthetic has no split {split!r}: the config names {splits}")
    label = data.name or LABELS[0]
    if label not in LABELS:
        known = f"{' or '.join(LABELS)}{did_you_mean(label, LABELS)}"
        raise UserError(f"data.name {label!r} is no label of the synthetic pictures: say {known}")
    if data.channels != 3:
        raise UserError(
            f"synthetic pictures have colours: set data.channels, now {data.channels}, to 3"
        )
    own = "test" if split == data.test_split else "train"
    return SyntheticSource(own, label, tuple(data.image_size))
