"""Compiles a recipe's train step, also for a TPU that is not there, and tells what it needs.

    python launch/compile.py --config=configs/vith14.py --topology=v5e:16x16
    python launch/compile.py --config=configs/vith14.py --topology=v6e:16x16 --search

Memory of a chip by kind and whether it fits, collectives, FLOPs and, at a stated share of the
chips' peak (--mfu), hours. --config.KEY=VALUE changes a setting, such as --config.mesh.fsdp=16.
Exit codes: 0 fits, or it is not known what memory there is; 1 does not fit, 2 wrong input.
"""

from jepa_jax import cli
from jepa_jax.cli import flags

CONFIG = cli.config_flag()
TOPOLOGY = flags.DEFINE_string(
    "topology", None, "Such as v5e:16x16 or v5p:4x4x8; without it, this machine's devices."
)
IMAGES = flags.DEFINE_integer("images", 1_281_167, "Of an epoch, for the hours (ImageNet-1k).", 1)
MFU = flags.DEFINE_float("mfu", 0.4, "Share of the peak, for the hours.", 0.01, 1.0)
SEARCH = flags.DEFINE_bool("search", False, "Look for the largest batch; compiles several times.")
MOVES = flags.DEFINE_bool("moves", False, "Tell large copies, and logits written to memory.")


def main() -> int:
    from jepa_jax.compilation.run import compile_recipe
    from jepa_jax.errors import UserError

    if CONFIG.value is None:
        raise UserError("give a recipe: --config=configs/vith14.py")
    fits = compile_recipe(
        CONFIG.value,
        TOPOLOGY.value,
        images=IMAGES.value,
        mfu=MFU.value,
        search=SEARCH.value,
        moves=MOVES.value,
    )
    return 0 if fits else 1


if __name__ == "__main__":
    cli.run(main)
