"""What is asked of a preparation."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jepa_jax.data.prepare.encoding import Encoding
from jepa_jax.errors import UserError

HELD_OUT = "val"  # the split of held-out images
# Keys of a config's `data` that have no say in which images a source has. Others are remembered,
# so that a new key of a source can't be forgotten.
TRAINING = {
    *("image_size", "channels", "crop_scale", "crop_aspect", "interpolation", "resizer"),
    *("flip", "colour_jitter", "greyscale", "blur", "eval_crop", "mean", "std"),
    *("threads", "workers", "broken_share"),
}


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
      data: the section of a config that names the source.
      to: folder of the data set; its last part is the name.
      splits: of the source.
      encoding: what becomes of each image.
      held_out: share of the images of the only split, which make another one, 'val'.
      shard_mb: megabytes that a shard has at most, by estimate.
    """

    data: ConfigDict
    to: Path
    splits: tuple[str, ...]
    encoding: Encoding
    held_out: float = 0.0
    shard_mb: int = 256

    def __post_init__(self):
        if not re.fullmatch("[a-z][a-z0-9_]*", self.to.name):
            raise UserError(
                f"--to={self.to} must end with a name for the data set, of small letters, digits"
                " and _, such as data/photos"
            )
        for name in self.splits:
            if not re.fullmatch("[A-Za-z0-9_]+", name):
                raise UserError(f"split {name!r} must be made of letters, digits and _")
        if self.held_out and (len(self.splits) > 1 or HELD_OUT in self.splits):
            raise UserError(
                f"--held_out makes a split {HELD_OUT!r} of another one, but there are"
                f" {', '.join(self.splits)}: leave it out, or give --splits=train"
            )

    def asked(self) -> dict[str, Any]:
        """All that has a say in what is written."""
        data = json.loads(self.data.to_json_best_effort())  # as it is read from a file later
        return {
            **{key: value for key, value in data.items() if key not in TRAINING},
            "splits": ", ".join(self.splits),
            "held_out": self.held_out,
            **dataclasses.asdict(self.encoding),
            "shard_mb": self.shard_mb,
        }
