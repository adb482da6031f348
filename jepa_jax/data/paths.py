"""`data.path`, a template with globs, to the files and folders that it names."""

import difflib
import glob
import os
from pathlib import Path

from jepa_jax.errors import UserError


def find(template: str, split: str) -> list[Path]:
    """The files and folders that `template` names for `split`, at least one, sorted.

    `{split}` is replaced first, `~` is expanded, and so are glob patterns unless a file of that
    very name exists. A path that isn't there raises UserError, with what is there instead.
    """
    text = os.path.expanduser(template.replace("{split}", split))
    if text and os.path.exists(text):
        return [Path(text)]
    if glob.has_magic(text) and (found := sorted(glob.glob(text, recursive=True))):
        return [Path(path) for path in found]
    reason = "matches nothing" if glob.has_magic(text) else "isn't there"
    hints = [_neighbours(Path(text))]
    if "{split}" not in template:
        hints.append("{split} in data.path stands for the split's name")
    raise UserError(f"data.path {text!r} {reason}: {'; '.join(hints)}")


def _neighbours(missing: Path) -> str:
    """What stands where `missing` was looked for, the most similar name if there is one."""
    while not missing.parent.is_dir():
        missing = missing.parent
    parent = missing.parent
    try:
        names = sorted(name for name in os.listdir(parent) if not name.startswith("."))
    except OSError as error:
        return f"{parent} can't be listed ({error.strerror})"
    if near := difflib.get_close_matches(missing.name, names, n=1):
        return f"did you mean {parent / near[0]}?"
    if not names:
        return f"{parent} is empty"
    return f"{parent} has {', '.join(names[:5])}{', …' if len(names) > 5 else ''}"
