"""Packages that only exchange with other implementations needs."""

import importlib
from types import ModuleType

from jepa_jax.errors import UserError


def extra(package: str) -> ModuleType:
    """The package, imported.

    Raises:
      UserError: if it is not installed; says how to.
    """
    try:
        return importlib.import_module(package)
    except ImportError:
        root = package.partition(".")[0]
        raise UserError(
            f"this needs another package: pip install {root}, or all that the extra brings:"
            " pip install 'jepa_jax[interop]'"
        ) from None
