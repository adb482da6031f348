"""A recipe for another batch size: what has to change with it, so that the rest may stay.

What a recipe counts in epochs, such as its length and warm-up, is in images already. Of what counts
in steps, learning rate, weight decay and `optim.ema` are brought to the new batch. Adam's averages
(`optim.b1`, `optim.b2`) and the intervals of logs, saves and the doctor stay as many steps.
"""

from typing import Any

from ml_collections import ConfigDict

from jepa_jax.errors import UserError, did_you_mean

RULES = {"sqrt": 0.5, "linear": 1.0}  # learning rate ~ batch ** …


def rescaling(config: ConfigDict, batch_size: int, rule: str = "sqrt") -> dict[str, Any]:
    """What is to change for a batch of so many images: key of the config -> value.

    * Learning rate: with the square root of the batch, as Adam's noise wants it (Malladi et al.
      2022, "On the SDEs and scaling rules for adaptive gradient algorithms"), or with the batch.
    * Momentum of the target encoder: m -> m ** ratio, so that its half-life in images stays
      (Busbridge et al. 2023, "How to scale your EMA").
    * Weight decay: so that what learning rate and decay take off a weight in an epoch stays.

    Raises:
      UserError: if a batch is empty, the new one or the recipe's, or the rule unknown.
    """
    for size in (batch_size, config.train.batch_size):
        if size < 1:
            raise UserError(f"a batch of {size} images: give 1 or more")
    if rule not in RULES:
        raise UserError(f"rule {rule!r} is none of {', '.join(RULES)}{did_you_mean(rule, RULES)}")
    ratio, optim = batch_size / config.train.batch_size, config.optim
    faster = ratio ** RULES[rule]
    rates = ("learning_rate", "start_learning_rate", "final_learning_rate")
    return {
        "train.batch_size": batch_size,
        **{f"optim.{key}": optim[key] * faster for key in rates},
        **{
            f"optim.{key}": optim[key] * ratio / faster
            for key in ("weight_decay", "final_weight_decay")
        },
        "optim.ema": tuple(momentum**ratio for momentum in optim.ema),
    }
