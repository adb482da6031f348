"""The few pieces of HTML that a report is made of. What they are given as text is escaped."""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from typing import Any

from etils import epath
from PIL import Image

WIDEST = 1600  # pixels of a picture


def text(value: Any) -> str:
    return html.escape(str(value))


def section(title: str, *parts: str) -> str:
    """A heading and what stands under it; nothing, if that is nothing."""
    body = "\n".join(filter(None, parts))
    name = title.lower().replace(" ", "-")
    return f'<section id="{name}"><h2>{text(title)}</h2>\n{body}</section>' if body else ""


def paragraph(words: str) -> str:
    return f'<p class="pale">{text(words)}</p>'


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], marked: Sequence[str] = ()) -> str:
    """Rows that begin with what they are of; those whose beginning is in `marked` stand out."""
    lines = []
    for first, *others in rows:
        kind = ' class="differs"' if first in marked else ""
        cells = "".join(f"<td>{text(value)}</td>" for value in others)
        lines.append(f'<tr{kind}><th scope="row">{text(first)}</th>{cells}</tr>')
    if not lines:
        return ""
    columns = "".join(f'<th scope="col">{text(name)}</th>' for name in head)
    body = "\n".join(lines)
    return (
        f'<div class="wide"><table><thead><tr>{columns}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def details(summary: str, body: str) -> str:
    """What is shown when it is asked for."""
    return f"<details><summary>{text(summary)}</summary>{body}</details>" if body else ""


def picture(file: epath.Path, caption: str) -> str:
    """An image inside the page, made smaller if it is very large; or that it can't be read."""
    try:
        with file.open("rb") as opened, Image.open(opened) as image:
            shown = image.convert("RGB")
    except (OSError, SyntaxError) as error:  # the latter is Pillow's for damage within
        return paragraph(f"{file.name} can't be shown: {error}")
    shown.thumbnail((WIDEST, 10 * WIDEST))
    data = io.BytesIO()
    shown.save(data, "WEBP", quality=85)
    source = "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode()
    width, height = shown.size
    return (
        f'<figure><img src="{source}" width="{width}" height="{height}" alt="{text(caption)}">'
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )
