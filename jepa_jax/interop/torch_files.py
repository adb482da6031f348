"""PyTorch's files of weights, without running the code that such a file may hold."""

import os
import pathlib
import pickle
import re
from typing import Any

from jepa_jax.errors import UserError
from jepa_jax.interop.extras import extra
from jepa_jax.training.storage import summary
from jepa_jax.training.workdir import storage_of


def read_torch(path: os.PathLike) -> Any:
    """What the file holds; tensors stay on disk until they are used, where its format allows.

    Raises:
      UserError: if it is damaged, or holds anything but tensors, numbers, texts and containers.
    """
    torch = extra("torch")
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:  # files from before PyTorch 1.6 cannot be mapped
            if "mmap can only be used" not in str(error):
                raise
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        if asked:
            raise UserError(
                f"{path} holds more than weights: to read it would run {asked[1]}, and so it was"
                " not read; save its state dicts alone"
            ) from None
        raise UserError(f"{path} is no file of PyTorch's, or damaged") from None
    except Exception as error:  # whatever reading a damaged archive may raise
        reason = str(error).strip().split("\n")[0].split(". ")[0] or type(error).__name__
        raise UserError(
            f"{path} is damaged, or no file of PyTorch's ({reason}): copy it again"
        ) from None


def write_torch(path: os.PathLike, content: Any) -> None:
    """Writes a file that is either whole or not there.

    Raises:
      StorageError: if it cannot be written.
    """
    path, torch = pathlib.Path(path), extra("torch")
    temporary = path.with_name(f"{path.name}.new")
    with storage_of(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                torch.save(content, file)
            temporary.replace(path)
        except RuntimeError as error:  # PyTorch's, while it handles the one of the disk
            raise OSError(summary(error.__context__ or error)) from None
        finally:
            temporary.unlink(missing_ok=True)
