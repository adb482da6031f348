"""Files that are never half written."""

import contextlib

from etils import epath


def write_text(file: epath.PathLike, text: str) -> None:
    """Either the old text or the new one is there, also after a crash or on a full disk."""
    write_bytes(file, text.encode())


def write_bytes(file: epath.PathLike, content: bytes) -> None:
    """The same of bytes."""
    file = epath.Path(file)
    temporary = file.with_name(f"{file.name}.new")
    try:
        temporary.write_bytes(content)
        temporary.replace(file)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
