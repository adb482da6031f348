"""FLOPs of a training step, counted from the sizes of its matrix products."""

from ml_collections import ConfigDict

from jepa_jax.config import architecture, grid, mask_spec
from jepa_jax.models.predictor import Predictor


def step_flops(config: ConfigDict) -> int:
    """FLOPs of the matrix products of one step over the whole batch, on all devices together."""
    return config.train.batch_size * sum(flops_by_part(config).values())


def flops_by_part(config: ConfigDict) -> dict[str, int]:
    """Those of one image: of the target encoder, the context encoder and the predictor.

    A product of (m, k) and (k, n) is 2·m·k·n. The backward pass has two products for each one of
    the forward pass; the images need no gradient, and the target encoder has no backward pass.
    Padding of the target blocks counts, as it is computed. What remat computes again does not
    count, so that a utilisation from this number (MFU) is of useful work.
    """
    size, spec = architecture(config), mask_spec(config)
    width, draws = size["width"], config.train.draws
    rows, columns = grid(config)
    pixels = config.model.patch_size**2 * config.data.channels
    encoder = {key: size[key] for key in ("width", "depth", "mlp_ratio")}
    predictor = {
        "width": config.predictor.width,
        "depth": config.predictor.depth,
        "mlp_ratio": Predictor.mlp_ratio,
    }

    def embed(patches: int) -> int:
        return 2 * patches * pixels * width

    full = embed(rows * columns) + transformer_flops(rows * columns, **encoder)
    target, predicted = (0, pixels) if config.targets == "pixels" else (full, width)
    context = 2 * embed(spec.num_context) + 3 * transformer_flops(spec.num_context, **encoder)
    if config.regularizer.covariance:
        context += 3 * 2 * spec.num_context * width**2
    asked, seen = spec.num_targets * spec.block_length, spec.num_context
    if config.predictor.one_pass:
        # The context's tokens attend to the context, a block's to the context and the block.
        stack = transformer_flops(asked + seen, **predictor, last=asked, attended=0)
        attention = asked * (seen + spec.block_length) * predictor["depth"]
        attention += seen * seen * (predictor["depth"] - 1)
        stack += 4 * attention * predictor["width"]
    else:
        length = seen + spec.block_length  # of [context | block]
        stack = spec.num_targets * transformer_flops(length, **predictor, last=spec.block_length)
    # Tokens in and out of the predictor; all of it has a backward pass.
    predict = 3 * (2 * (seen * width + asked * predicted) * config.predictor.width + stack)
    return {
        "target encoder": target,
        "context encoder": draws * context,
        "predictor": draws * predict,
    }


def transformer_flops(
    tokens: int,
    width: int,
    depth: int,
    mlp_ratio: float,
    last: int | None = None,
    attended: int | None = None,
) -> int:
    """Forward FLOPs of a stack of blocks over one sequence of so many tokens.

    Args:
      last: of how many tokens the last block gives the result; None: of all.
      attended: to how many tokens each attends; None: to all.
    """
    qkv = 3 * width**2  # of a block's kernels, a token
    rest = width**2 + 2 * width * round(width * mlp_ratio)
    attended = tokens if attended is None else attended
    attention = 2 * attended * width  # logits and their mix, a token
    full = tokens * (qkv + rest + attention)
    final = full if last is None else tokens * qkv + last * (rest + attention)
    return 2 * ((depth - 1) * full + final)
