"""An encoder in the names and layouts of Hugging Face's `IJepaModel`.

The names are those on the hub, which all versions of transformers write; newer ones have others in
memory. Queries, keys and values have a matrix each.
"""

from jepa_jax.interop.layout import Layout, Tensor, linear, norm, patch_embedding
from jepa_jax.interop.reference import encoder_positions
from jepa_jax.models.vit import Encoder

POSITIONS = "embeddings.position_embeddings"


def huggingface_layout(encoder: Encoder, channels: int, grid: tuple[int, int]) -> Layout:
    width, patch_size = encoder.width, encoder.patch_size
    blocks = [_block(encoder, f"encoder.layer.{i}", (i,)) for i in range(encoder.depth)]
    return [
        encoder_positions(POSITIONS, encoder, grid),
        *patch_embedding("embeddings.patch_embeddings.projection", width, channels, patch_size),
        *(line for block in blocks for line in block),
        *norm("layernorm", "transformer/norm", width),
    ]


def _block(encoder: Encoder, name: str, part: tuple[int]) -> list[Tensor]:
    path, width = "transformer/blocks", encoder.width
    hidden, projection = round(width * encoder.mlp_ratio), f"{path}/attention/projection"
    qkv = [
        line
        for which, word in enumerate(("query", "key", "value"))
        for line in _projection(encoder, f"{name}.attention.attention.{word}", which, part)
    ]
    return [
        *norm(f"{name}.layernorm_before", f"{path}/norm_attention", width, part),
        *qkv,
        *linear(f"{name}.attention.output.dense", projection, width, width, part),
        *norm(f"{name}.layernorm_after", f"{path}/norm_mlp", width, part),
        *linear(f"{name}.intermediate.dense", f"{path}/mlp/hidden", hidden, width, part),
        *linear(f"{name}.output.dense", f"{path}/mlp/output", width, hidden, part),
    ]


def _projection(encoder: Encoder, name: str, which: int, part: tuple[int]) -> list[Tensor]:
    """Of the queries, keys or values: a third of our (width, heads, 3, width a head)."""
    path, width, heads = "transformer/blocks/attention/qkv", encoder.width, encoder.heads
    all_of = slice(None)
    return [
        Tensor(
            f"{name}.weight",
            (width, width),
            f"{path}/kernel",
            (*part, all_of, all_of, which),
            split=(heads, width // heads, width),
            axes=(2, 0, 1),
        ),
        Tensor(
            f"{name}.bias",
            (width,),
            f"{path}/bias",
            (*part, all_of, which),
            split=(heads, width // heads),
        ),
    ]
