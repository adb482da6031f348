"""What the displays of long commands share: lines, and a bar on a terminal."""

import contextlib
import sys

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def new_console(quiet: bool = False) -> Console:
    """One that colours nothing by itself and leaves long lines whole."""
    return Console(highlight=False, soft_wrap=True, quiet=quiet)


def say(console: Console, text: RenderableType) -> None:
    """A line, or a table; seen at once, also in a pipe. Lost if it cannot be written."""
    with contextlib.suppress(OSError):  # such as a log on a disk that is full
        console.print(text, markup=False)
        sys.stdout.flush()


def progress_bar(console: Console, what: str) -> Progress:
    """A bar that counts `what` and shows the field `values`; nothing without a terminal."""
    return Progress(
        TextColumn(f"[bold]{what}"),
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("{task.fields[values]}"),
        TextColumn("[dim]left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def clock(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> clock(3725.4)
    '1:02:05'
    """
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
