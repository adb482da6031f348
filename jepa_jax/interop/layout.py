"""Tensors of another implementation, as parts of our parameters: read strictly, and written.

A layout is a table with a line for each of their tensors. One table serves both directions.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jepa_jax.errors import UserError

TOLERANCE = 1e-5  # of values that are known beforehand


class Tensor(NamedTuple):
    """A tensor of theirs, and the part of one of our parameters that it is."""

    name: str
    shape: tuple[int, ...]
    path: str  # of our parameter, such as "transformer/blocks/mlp/hidden/kernel"
    part: tuple = ()  # the index of the part: of block i, (i,)
    split: tuple[int, ...] | None = None  # their shape, with their axes split as ours are
    axes: tuple[int, ...] | None = None  # the order that the split axes have in ours

    def to_ours(self, value: np.ndarray, ours: np.ndarray) -> None:
        """Fills in its part of our parameter."""
        part = ours[self.part]
        part[...] = value.reshape(self._split).transpose(self._axes).reshape(part.shape)

    def to_theirs(self, ours: np.ndarray) -> np.ndarray:
        """A contiguous copy of its part of our parameter."""
        split = tuple(self._split[axis] for axis in self._axes)
        value = np.asarray(ours[self.part], np.float32).reshape(split)
        return np.array(value.transpose(np.argsort(self._axes)).reshape(self.shape), order="C")

    @property
    def _split(self) -> tuple[int, ...]:
        return self.split or self.shape

    @property
    def _axes(self) -> tuple[int, ...]:
        return self.axes or tuple(range(len(self._split)))


class Fixed(NamedTuple):
    """A tensor of theirs that is no parameter of ours, as its values are known beforehand."""

    name: str
    value: np.ndarray
    what: str  # it holds


Layout = Sequence[Tensor | Fixed]


def read(tensors: Mapping[str, Any], layout: Layout, shapes: Any, what: str) -> Any:
    """Our parameters, of these tensors.

    Args:
      tensors: name -> what `np.asarray` takes.
      shapes: the tree of our parameters, as `jax.eval_shape` gives it.
      what: it is that is read, for the message.

    Raises:
      UserError: naming every tensor that is missing, unknown, of another shape or not of floats.
    """
    params = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), shapes)
    leaves = _by_path(params)
    wrong = [(name, "is unknown") for name in tensors.keys() - {line.name for line in layout}]
    for line in layout:
        if line.name not in tensors:
            wrong.append((line.name, "is missing"))
            continue
        value = np.asarray(tensors[line.name])
        shape = line.value.shape if isinstance(line, Fixed) else line.shape
        if value.shape != shape:
            wrong.append((line.name, f"is {value.shape}, not {shape}"))
        elif not jnp.issubdtype(value.dtype, np.floating):  # NumPy itself knows no bfloat16
            wrong.append((line.name, f"is {value.dtype}, not of floats"))
        elif isinstance(line, Tensor):
            line.to_ours(value, leaves[line.path])
        elif not np.allclose(value, line.value, rtol=0, atol=TOLERANCE):
            wrong.append((line.name, f"does not hold {line.what}"))
    if wrong:
        raise UserError(f"these weights are not of {what}: " + "; ".join(_summary(wrong)))
    return params


def write(params: Any, layout: Layout) -> dict[str, np.ndarray]:
    """Their tensors, float32 and contiguous, in the order of the layout."""
    leaves = _by_path(params)
    return {
        line.name: line.value if isinstance(line, Fixed) else line.to_theirs(leaves[line.path])
        for line in layout
    }


def linear(name: str, path: str, outputs: int, inputs: int, part: tuple = ()) -> list[Tensor]:
    """A matrix that is (out, in) there and (in, out) here, and its bias."""
    return [
        Tensor(f"{name}.weight", (outputs, inputs), f"{path}/kernel", part, axes=(1, 0)),
        Tensor(f"{name}.bias", (outputs,), f"{path}/bias", part),
    ]


def norm(name: str, path: str, width: int, part: tuple = ()) -> list[Tensor]:
    return [
        Tensor(f"{name}.weight", (width,), f"{path}/scale", part),
        Tensor(f"{name}.bias", (width,), f"{path}/bias", part),
    ]


def patch_embedding(name: str, width: int, channels: int, size: int) -> list[Tensor]:
    """A convolution over patches there, channels first; a matrix here, channels last."""
    kernel = (width, channels, size, size)
    return [
        Tensor(f"{name}.weight", kernel, "patch_embed/kernel", axes=(2, 3, 1, 0)),
        Tensor(f"{name}.bias", (width,), "patch_embed/bias"),
    ]


def _by_path(tree: Any) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _summary(wrong: Iterable[tuple[str, str]]) -> list[str]:
    """Complaints; what is said alike of the same tensor of several blocks is said once.

    >>> _summary([("blocks.0.norm.bias", "is missing"), ("blocks.1.norm.bias", "is missing")])
    ['blocks.{0,1}.norm.bias is missing']
    """
    alike: dict[tuple[str, str], list[str]] = {}
    for name, complaint in sorted(wrong, key=lambda item: (_numbers(item[0]), item)):
        block = re.search(r"\.(\d+)\.", name)
        pattern = name if block is None else f"{name[: block.start(1)]}{{}}{name[block.end(1) :]}"
        alike.setdefault((pattern, complaint), []).append(block[1] if block else "")
    return sorted(
        f"{pattern.replace('{}', numbers[0] if len(numbers) == 1 else _set(numbers))} {complaint}"
        for (pattern, complaint), numbers in alike.items()
    )


def _numbers(name: str) -> float:
    block = re.search(r"\.(\d+)\.", name)
    return int(block[1]) if block else math.inf


def _set(numbers: list[str]) -> str:
    """'{0,1,5}', or '{0..31}' if none is left out."""
    if len(numbers) > 2 and int(numbers[-1]) - int(numbers[0]) == len(numbers) - 1:
        return f"{{{numbers[0]}..{numbers[-1]}}}"
    return f"{{{','.join(numbers)}}}"
