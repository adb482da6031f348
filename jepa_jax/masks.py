"""Which patches the encoder sees, and which blocks it has to predict (paper, section 3 and fig. 4).

    spec = MaskSpec(grid=(14, 14))                       # checks that the setting is possible
    masks = sample(jax.random.key(0), spec, batch_size=8)

Sampling runs on the host CPU, one call for a batch. What image `i` gets depends on the key and on
`i` alone, so hosts that hold different parts of a batch need not talk to each other. Needs only jax
and numpy.
"""

import dataclasses
import functools
import numbers
from contextlib import AbstractContextManager
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

MULTI_BLOCK = {
    "num_targets": 4,
    "target_scale": (0.15, 0.2),
    "target_aspect": (0.75, 1.5),
    "context_scale": (0.85, 1.0),
    "context_choice": "random",
}
COMPLEMENT = MULTI_BLOCK | {
    "num_targets": 1,
    "target_scale": (0.6, 0.6),
    "context_scale": (1.0, 1.0),
}
QUARTERS = COMPLEMENT | {"num_targets": 3, "target_scale": (0.25, 0.25)}

# What each style is unless told otherwise; the last three are of the paper's ablation (table 6).
STYLES = {
    "paper": MULTI_BLOCK,
    "reference": MULTI_BLOCK | {"context_choice": "raster"},
    "block": COMPLEMENT,
    "random": COMPLEMENT,
    "rasterized": QUARTERS,
}
UNREAD = {  # by some styles, which take no other value than their own
    "random": ("target_aspect",),
    "rasterized": ("num_targets", "target_scale", "target_aspect", "context_scale"),
}
CONTEXT_CHOICES = ("random", "raster", "block")

MAX_TRIES = 100  # draws for an image before it takes the one that is known to do
RANDOM_BITS = 23  # of a random number in [0, 1)
SURVEY = 2048  # draws that decide whether a setting is possible
LEAST_SHARE = 0.1  # of the draws that must leave enough context: redrawing shall not bend them


class Masks(NamedTuple):
    """Patches of B images, as indices into the grid in raster order (int32)."""

    context: Array  # (B, K) always full, ascending
    targets: Array  # (B, M, P) M blocks, padded to P, the largest that can occur
    target_length: Array  # (B, M) how many of the P are real

    @property
    def real(self) -> Array:
        """(B, M, P) bool: which of a block's P patches are no padding."""
        length = self.target_length[..., None]
        place = np.arange(self.targets.shape[-1], dtype=np.int32)
        return length > place.reshape((1,) * (length.ndim - 1) + (-1,))


class Draw(NamedTuple):
    """One draw for one image, before K context patches are chosen."""

    context: Array  # (N,) bool: inside the context block and in no target
    targets: Array  # (M, P) int32
    target_length: Array  # (M,) int32


@dataclasses.dataclass(frozen=True)
class MaskSpec:
    """A mask setting, checked: what `sample` needs to know.

    Attributes:
      grid: rows and columns of patches.
      style: how blocks are drawn.

        * "paper": a size for each image, scale and aspect ratio independent, blocks anywhere on the
          grid, K of the remaining context patches kept at random.
        * "reference": the published code's. One size for the whole batch; one random number sets
          scale and aspect ratio; a block's last possible row and column are never used; the
          context is cut in raster order. (The published code cuts to the shortest of each batch;
          here K is the same in every batch, so that the step compiles once.)
        * "block": one large target block; the context is the rest, cut to what the largest leaves.
        * "random": a target of scattered patches; the context is the rest. No target_aspect.
        * "rasterized": a quarter of the grid is the context, the other three are the targets. Of
          what stands below it takes num_context and context_choice.
      num_targets: M, blocks to predict. None, here and below: as the style has it.
      target_scale: least and largest share of the grid's patches in a target block.
      target_aspect: least and largest height / width of a target block.
      context_scale: as target_scale. The context block has the grid's own aspect ratio; in the
        reference it is a square.
      num_context: K, the patches that the encoder sees. None: a quarter of the grid for the
        multi-block styles, in multiples of 8 on large grids; all that is left for the others.
      context_choice: which K of the patches that are left of the context block: "random" ones, the
        first in "raster" order as the published code does, or a compact "block" about one of them.

    What is not given is filled in at once: for another grid or style make a new one, as
    `dataclasses.replace` would keep what the old ones came to.

    Raises:
      ValueError: if the setting cannot be met; the message names the largest K that can.
    """

    grid: tuple[int, int]
    style: str = "paper"
    num_targets: int | None = None
    target_scale: tuple[float, float] | None = None
    target_aspect: tuple[float, float] | None = None
    context_scale: tuple[float, float] | None = None
    num_context: int | None = None
    context_choice: str | None = None

    def __post_init__(self):
        if self.style not in STYLES:
            raise ValueError(f"style {self.style!r} is none of {', '.join(STYLES)}")
        put = functools.partial(object.__setattr__, self)
        for name, value in STYLES[self.style].items():
            if getattr(self, name) is None:
                put(name, value)
        for name in ("grid", "target_scale", "target_aspect", "context_scale"):
            put(name, _pair(name, getattr(self, name)))
        _check_values(self)
        if self.num_context is None:
            put("num_context", self._default_context())
            if 0 < (largest := largest_context(self)) < self.num_context:  # on narrow grids
                put("num_context", largest)
        _check_feasible(self)

    def _default_context(self) -> int:
        patches = self.num_patches
        if self.style == "rasterized":
            return max(1, int(_quarters(self)[1].prod(axis=1).min()))
        if STYLES[self.style] is COMPLEMENT:
            return max(1, patches - self.block_length)
        quarter = patches // 4
        return max(1, quarter if patches < 100 else quarter // 8 * 8)

    @property
    def num_patches(self) -> int:
        """N, patches on the grid."""
        return self.grid[0] * self.grid[1]

    @property
    def block_length(self) -> int:
        """P, patches in the largest target block that can occur."""
        return int(_target_sizes(self).prod(axis=1).max())


def sample(key: Array, spec: MaskSpec, batch_size: int, start: int = 0, *, draws: int = 1) -> Masks:
    """Masks for the images `start`, ..., `start + batch_size - 1` of a batch.

    The batch of a step is the same whether it is drawn in one piece or in parts. An image's blocks
    are drawn again until they leave K context patches, at most MAX_TRIES times; after that the
    image gets a fixed draw that does. At the largest K that a MaskSpec accepts this happens to one
    image in (1 - LEAST_SHARE)^-MAX_TRIES, nearly 40,000; at the default K never in practice.

    Args:
      key: a typed key (`jax.random.key`) for this batch.
      spec: the setting.
      batch_size: B, images.
      start: position of the first of them in the whole batch.
      draws: masks of each image. With more than one the arrays have an axis for them after the
        first: (B, draws, K), (B, draws, M, P), (B, draws, M).

    Returns:
      Masks of numpy arrays on the host.

    Raises:
      ValueError: if there is to be no draw, or it is called while jax traces a function.
    """
    if draws < 1:
        raise ValueError(f"draws={draws}: an image has one or more")
    if isinstance(key, jax.core.Tracer):
        raise ValueError("masks are drawn on the host: call sample outside of jit")
    survey(spec)  # known already, unless the spec came from another process
    with on_host(), jax.enable_x64(False):  # the same draws in a program that has turned it on
        masks = _sample(key, spec, draws * batch_size, jnp.int32(draws * start))
    rows = (-1,) if draws == 1 else (-1, draws)
    return Masks(*(np.asarray(x).reshape(*rows, *x.shape[1:]) for x in masks))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _sample(key: Array, spec: MaskSpec, batch_size: int, start: Array) -> Masks:
    # Of another kind of generator, what vmap draws for an image would depend on its batch.
    key = jax.random.wrap_key_data(jax.random.key_data(key)[:2], impl="threefry2x32")
    position = start + jnp.arange(batch_size, dtype=jnp.int32)
    return jax.vmap(lambda i: _sample_one(key, i, spec))(position)


def _sample_one(key: Array, position: Array, spec: MaskSpec) -> Masks:
    def enough(drawn: Draw):
        return drawn.context.sum() >= spec.num_context

    nothing = Draw(
        context=jnp.zeros(spec.num_patches, bool),
        targets=jnp.zeros((spec.num_targets, spec.block_length), jnp.int32),
        target_length=jnp.zeros(spec.num_targets, jnp.int32),
    )
    _, drawn = jax.lax.while_loop(
        lambda carry: (carry[0] < MAX_TRIES) & ~enough(carry[1]),
        lambda carry: (carry[0] + 1, draw(key, position, carry[0], spec)),
        (jnp.int32(0), nothing),
    )
    found = enough(drawn)
    drawn = jax.tree.map(lambda new, spare: jnp.where(found, new, spare), drawn, survey(spec).spare)

    rank = _context_rank(_key(key, position, MAX_TRIES), drawn.context, spec)
    if spec.context_choice == "random":
        # Rank and patch in one whole number: XLA sorts those five times as fast as pairs.
        bits = (spec.num_patches - 1).bit_length()
        whole = (rank * 2**RANDOM_BITS).astype(jnp.uint32) >> max(0, RANDOM_BITS + bits - 32)
        pair = whole << bits | jnp.arange(spec.num_patches, dtype=jnp.uint32)
        pair = jnp.sort(jnp.where(drawn.context, pair, jnp.uint32(2**32 - 1)))
        order = pair & jnp.uint32(2**bits - 1)
    else:
        order = jnp.argsort(jnp.where(drawn.context, rank, jnp.inf))
    context = jnp.sort(order[: spec.num_context]).astype(jnp.int32)
    return Masks(context, drawn.targets, drawn.target_length)


def _context_rank(key: Array, context: Array, spec: MaskSpec) -> Array:
    """(N,) float32: those of the context with the least are kept."""
    patch = jnp.arange(spec.num_patches, dtype=jnp.int32)
    if spec.context_choice == "raster":
        return patch.astype(jnp.float32)
    number = jax.random.uniform(key, (spec.num_patches,))
    if spec.context_choice == "random":
        return number
    place = jnp.stack(jnp.divmod(patch, spec.grid[1]), axis=-1)
    middle = place[jnp.where(context, number, -1.0).argmax()]
    distance = jnp.square(place - middle[None]).sum(-1).astype(jnp.float32)
    return distance + number  # of patches equally far away, random ones


def _key(key: Array, position: Array, attempt: Array | int) -> Array:
    _, images = jax.random.split(key)
    return jax.random.fold_in(images, position * (MAX_TRIES + 1) + attempt)


def draw(
    key: Array,
    position: Array,
    attempt: Array,
    spec: MaskSpec,
    sizes: tuple[np.ndarray, np.ndarray] | None = None,
) -> Draw:
    """Target blocks and the context block of one image, minus the targets; K is not looked at.

    `sizes` of target and context block are drawn too, unless they are given.
    """
    whole_batch, _ = jax.random.split(key)
    own = _key(key, position, attempt)
    # Every number of a draw from one call: hashing is what sampling costs.
    numbers = jax.random.uniform(own, (2 + 2 * (spec.num_targets + 1),))
    if sizes is None:
        pair = jax.random.uniform(whole_batch, (2,)) if spec.style == "reference" else numbers[:2]
        sizes = _pick(_target_sizes(spec), pair[0]), _pick(_context_sizes(spec), pair[1])
    target_size, context_size = map(jnp.asarray, sizes)
    places = numbers[2:].reshape(-1, 2)

    if spec.style == "rasterized":
        order = (jnp.arange(4) + (4 * numbers[0]).astype(jnp.int32)) % 4
        corners, sizes = (jnp.asarray(table)[order] for table in _quarters(spec))
        inside, quarters = jax.vmap(lambda *block: _block(*block, spec))(corners, sizes)
        return Draw(inside[0], quarters[1:], sizes[1:].prod(axis=1))
    context, _ = _place(places[0], context_size, spec)
    if spec.style == "random":
        ranks = jax.random.uniform(jax.random.fold_in(own, 1), (spec.num_targets, spec.num_patches))
        inside, targets = jax.vmap(lambda rank: _scatter(rank, target_size.prod(), spec))(ranks)
    else:
        inside, targets = jax.vmap(lambda place: _place(place, target_size, spec))(places[1:])
    length = jnp.broadcast_to(target_size.prod(), (spec.num_targets,))
    return Draw(context & ~inside.any(axis=0), targets, length)


def _pick(table: np.ndarray, number: Array) -> Array:
    """The row of the table that a number in [0, 1) falls on."""
    return jnp.asarray(table)[(number * len(table)).astype(jnp.int32)]


def _place(place: Array, size: Array, spec: MaskSpec) -> tuple[Array, Array]:
    """A block of `size` (rows, columns) somewhere: (N,) bool, and its (P,) patch indices.

    `place` is two numbers in [0, 1): how far down and how far right.
    """
    room = jnp.asarray(spec.grid, jnp.int32) - size
    room += int(spec.style != "reference")  # the reference's bound is exclusive
    corner = (place * jnp.maximum(room, 1).astype(jnp.float32)).astype(jnp.int32)
    return _block(corner, size, spec)


def _block(corner: Array, size: Array, spec: MaskSpec) -> tuple[Array, Array]:
    """The same of the block that begins at `corner`."""
    columns = spec.grid[1]
    patch = jnp.stack(jnp.divmod(jnp.arange(spec.num_patches, dtype=jnp.int32), columns), axis=-1)
    inside = ((patch >= corner[None]) & (patch < (corner + size)[None])).all(axis=-1)

    nth = jnp.arange(spec.block_length, dtype=jnp.int32)
    nth = jnp.where(nth < size.prod(), nth, 0)  # padding repeats the block's first patch
    row, column = jnp.divmod(nth, size[1])
    return inside, (corner[0] + row) * columns + corner[1] + column


def _quarters(spec: MaskSpec) -> tuple[np.ndarray, np.ndarray]:
    """The grid's four: corners (4, 2) and sizes (4, 2), int32."""
    rows, columns = (((0, side // 2), (side // 2, side - side // 2)) for side in spec.grid)
    both = [(*zip(row, column, strict=True),) for row in rows for column in columns]
    corners, sizes = np.array(both, np.int32).transpose(1, 0, 2)
    return corners, sizes


def _scatter(rank: Array, count: Array, spec: MaskSpec) -> tuple[Array, Array]:
    """The `count` patches that come first by rank, as from `_place`."""
    order = jnp.argsort(rank).astype(jnp.int32)
    inside = jnp.argsort(order) < count
    nth = jnp.arange(spec.block_length, dtype=jnp.int32)
    return inside, jnp.where(nth < count, order[: spec.block_length], order[0])


# Sizes. A finite table of equally likely (scale, aspect) pairs, computed once in float64, stands
# for the continuous range: its largest entry is P exactly, and no device rounds it another way.

STEPS = 200  # of a range


def _shares(steps: int) -> np.ndarray:
    return (np.arange(steps) + 0.5) / steps


@functools.cache
def _target_sizes(spec: MaskSpec) -> np.ndarray:
    """(S, 2) int32: equally likely heights and widths of a target block."""
    if spec.style == "rasterized":
        return _quarters(spec)[1]
    if spec.style == "random":  # a number of patches without a shape
        low, high = spec.target_scale
        count = np.maximum((low + _shares(STEPS) * (high - low)) * spec.num_patches, 1)
        return np.stack([count, np.ones_like(count)], axis=1).astype(np.int32)
    return _sizes(spec, spec.target_scale, spec.target_aspect)


@functools.cache
def _context_sizes(spec: MaskSpec) -> np.ndarray:
    """(S, 2) int32, of the context block."""
    aspect = 1.0 if spec.style == "reference" else spec.grid[0] / spec.grid[1]
    return _sizes(spec, spec.context_scale, (aspect, aspect))


def _sizes(spec: MaskSpec, scales: tuple, aspects: tuple) -> np.ndarray:
    """Heights and widths of blocks that cover a share of the grid, rounded as published."""
    rows, columns = spec.grid
    shares = np.meshgrid(_shares(STEPS), _shares(STEPS))
    if spec.style == "reference":  # one number sets both
        shares = [_shares(STEPS**2)] * 2
    scale, aspect = (
        low + share.ravel() * (high - low)
        for share, (low, high) in zip(shares, (scales, aspects), strict=True)
    )
    area = np.floor(scale * rows * columns + 1e-9)
    height, width = np.sqrt(area * aspect), np.sqrt(area / aspect)
    if spec.style == "reference":
        limit = [max(rows - 1, 1), max(columns - 1, 1)]
    else:
        limit = [rows, columns]
        # A block too long for the grid grows broader instead.
        height, width = (
            np.where(width > columns, area / columns, height),
            np.where(height > rows, area / rows, width),
        )
    sizes = np.stack([height, width], axis=1).round()
    return np.clip(sizes, 1, limit).astype(np.int32)


# Feasibility, decided once.


def on_host() -> AbstractContextManager:
    """A context in which jax computes on the host's CPU, whatever the default device is.

    Raises:
      ValueError: if JAX_PLATFORMS leaves the CPU out.
    """
    try:
        cpu = jax.local_devices(backend="cpu")[0]
    except Exception as error:  # of another type in every release
        raise ValueError(
            "jax has no CPU backend here, and masks are drawn on the CPU: add it to JAX_PLATFORMS,"
            " such as JAX_PLATFORMS=cuda,cpu"
        ) from error
    return jax.default_device(cpu)


def _pair(name: str, value) -> tuple:
    pair = np.asarray(value, object)
    if pair.shape != (2,) or not all(isinstance(number, numbers.Real) for number in pair):
        raise ValueError(f"{name}={value}: give two numbers")
    return tuple(pair.tolist())  # which can be hashed, as a list can't


def _check_values(spec: MaskSpec):
    for name in ("grid", "num_targets", "num_context"):
        value = getattr(spec, name)
        counts = () if value is None else value if name == "grid" else (value,)
        if not all(isinstance(count, numbers.Integral) and count >= 1 for count in counts):
            raise ValueError(f"{name}={value!r}: give whole numbers, 1 or more")
    if spec.context_choice not in CONTEXT_CHOICES:
        known = ", ".join(CONTEXT_CHOICES)
        raise ValueError(f"context_choice {spec.context_choice!r} is none of {known}")
    for name in UNREAD.get(spec.style, ()):
        value, own = getattr(spec, name), STYLES[spec.style][name]
        if value != own:
            raise ValueError(f"style {spec.style!r} takes no {name}={value}: leave it at {own}")
    if spec.style == "rasterized" and min(spec.grid) < 2:
        raise ValueError(f"style 'rasterized': a grid of {spec.grid} has no quarters")
    for name, top in (("target_scale", 1.0), ("context_scale", 1.0), ("target_aspect", 1e6)):
        low, high = getattr(spec, name)
        if not 0 < low <= high <= top:
            raise ValueError(f"{name}={low, high}: it must be 0 < low <= high <= {top:g}")


def _check_feasible(spec: MaskSpec):
    largest = largest_context(spec)
    rows, columns = spec.grid
    if largest < 1:
        raise ValueError(
            f"a grid of {rows}×{columns} patches is too small for {spec.num_targets} target blocks"
            " beside a context; take a smaller patch size, a larger image or a smaller target_scale"
        )
    if spec.num_context > largest:
        raise ValueError(
            f"num_context={spec.num_context} is too much on a grid of {rows}×{columns}: the"
            f" largest possible is {largest}, what the context block minus its targets leaves"
            f" in {LEAST_SHARE:.0%} of the draws"
        )


def largest_context(spec: MaskSpec) -> int:
    """The largest K that a tenth of all draws can meet; 0 if none can."""
    return int(np.sort(survey(spec).lengths)[-int(LEAST_SHARE * SURVEY)])


class Survey(NamedTuple):
    """What many draws leave of the context block, before any is cut or redrawn."""

    lengths: np.ndarray  # (SURVEY,) int32 patches
    spare: Draw  # the draw that leaves most, as numpy arrays


@functools.cache
def survey(spec: MaskSpec) -> Survey:
    """Draws from many batches, always the same ones."""
    sizes = None
    if spec.style == "reference":  # the worst, as no redrawing gets a batch out of its sizes
        targets, contexts = _target_sizes(spec), _context_sizes(spec)
        sizes = targets[targets.prod(1).argmax()], contexts[contexts.prod(1).argmin()]
    with on_host(), jax.enable_x64(False), jax.ensure_compile_time_eval():
        keys = jax.random.split(jax.random.key(0, impl="threefry2x32"), SURVEY)
        start = jnp.int32(0)
        draws = jax.jit(jax.vmap(lambda key: draw(key, start, start, spec, sizes)))(keys)
    draws = jax.tree.map(np.asarray, draws)
    lengths = draws.context.sum(axis=1)
    return Survey(lengths, jax.tree.map(lambda x: x[lengths.argmax()], draws))
