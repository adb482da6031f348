"""Text files that are never half written."""

from etils import epath


def write_text(file: epath.PathLike, text: str) -> None:
    """Either the old text or the new one is there, whenever the process dies."""
    file = epath.Path(file)
    temporary = file.with_name(f"{file.name}.new")
    temporary.write_text(text)
    temporary.replace(file)
