"""Where patches look: the attention of an encoder's last block."""

import functools
import os
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from jepa_jax import ijepa
from jepa_jax.models.transformer import Block, Transformer
from jepa_jax.pretrained import Backbone
from jepa_jax.visualize import figures

HEADS = 6  # that are drawn, at most


@functools.partial(jax.jit, static_argnums=0)
def attention_weights(
    backbone: Backbone, params: Any, images: UInt8[jax.Array, "n H W C"]
) -> Float[jax.Array, "n h N N"]:
    """How much each patch (third axis) takes from each (fourth) in the last block, by head.

    They sum to 1; `params` are the encoder's.
    """
    encoder, tokens = backbone.encoder, []

    def listen(call, args, kwargs, context):
        if isinstance(context.module, Transformer):
            tokens.append(args[0])
        return call(*args, **kwargs)

    with nn.intercept_methods(listen):
        ijepa.encode(backbone, params, images)
    # Blocks may be scanned, out of which nothing is heard: they are called again one by one.
    x, blocks = tokens[0], params["transformer"]["blocks"]
    module = Block(encoder.heads, encoder.mlp_ratio, encoder.dtype, kernel="xla")
    for i in range(encoder.depth):
        (x, _), heard = module.apply(
            {"params": jax.tree.map(lambda stacked, i=i: stacked[i], blocks)},
            x,
            None,
            capture_intermediates=lambda module, _: module.name == "qkv",
            mutable="intermediates",
        )
    [qkv] = heard["intermediates"]["attention"]["qkv"]["__call__"]
    query, key = (qkv[:, :, :, k].astype(jnp.float32) for k in (0, 1))  # (n, N, h, E)
    logits = jnp.einsum("nqhe,nkhe->nhqk", query, key) * query.shape[-1] ** -0.5
    return jax.nn.softmax(logits, axis=-1)


def attention_overview(
    images: UInt8[np.ndarray, "n H W C"],
    weights: Float[np.ndarray, "n h N N"],
    queries: Sequence[int],
    grid: tuple[int, int],
    path: str | os.PathLike,
) -> None:
    """Draws for each image what one patch of it looks at, by head, and what all look at.

    Each map is scaled to its own largest weight, whose multiple of an even share (1 / N) is noted.

    Args:
      queries: that patch of each image.
      grid: (rows, columns) of patches.
    """
    pixels = figures.as_rgb(images)
    size = pixels.shape[1:3]
    heads = min(HEADS, weights.shape[1])
    titles = ["patch", *(f"head {h + 1}" for h in range(heads)), "all heads", "of all patches"]
    fig, axes = figures.panels(len(pixels), titles, aspect=size[0] / size[1])
    for row, image, own, query in zip(axes, pixels, weights, queries, strict=True):
        looks = [*own[:heads, query], own[:, query].mean(0), own.mean((0, 1))]
        figures.show(row[0], image, size)
        figures.outline_patch(row[0], query, grid, size)
        for axis, look in zip(row[1:], looks, strict=True):
            shown = look.reshape(grid)
            figures.show(axis, figures.colored(shown, "magma", 0, shown.max()), size)
            figures.outline_patch(axis, query, grid, size)
            figures.note(axis, f"{look.max() * look.size:.1f}×")
    figures.save(fig, path)
