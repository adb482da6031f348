"""The page: its sections in order, its style, and nothing from outside."""

import pathlib
import re
from collections.abc import Sequence

from etils import epath

from jepa_jax.console import new_console, say
from jepa_jax.errors import UserError
from jepa_jax.training.workdir import storage_of
from jepa_jax.visualize.report import html, sections
from jepa_jax.visualize.report.record import Record, read_records

STYLE = (pathlib.Path(__file__).parent / "style.css").read_text()
# Even if something were linked, nothing would be fetched.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(runs: Sequence[Record], price: float | None = None, currency: str = "USD") -> str:
    """The report as HTML.

    Args:
      price: of an hour of one device.
    """
    parts = [
        sections.overview(runs, price, currency),
        sections.verdicts(runs),
        sections.curves(runs),
        sections.probes(runs),
        sections.pictures(runs),
        sections.time_spent(runs),
        sections.settings(runs),
        sections.environment(runs),
        sections.incidents(runs),
    ]
    body = "\n".join(filter(None, parts))
    links = "".join(
        f'<a href="#{name}">{title}</a>'
        for name, title in re.findall(r'<section id="([^"]*)"><h2>([^<]*)</h2>', body)
    )
    title = "I-JEPA: " + ", ".join(run.name for run in runs)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<link rel="icon" href="data:,">
<title>{html.text(title)}</title>
<style>
{STYLE}</style>
</head>
<body>
<h1>{html.text(title)}</h1>
{sections.legend(runs) if len(runs) > 1 else ""}
<nav>{links}</nav>
{body}
</body>
</html>
"""


def write_report(
    paths: Sequence[str], out: epath.PathLike, price: float | None = None, currency: str = "USD"
) -> None:
    """Writes the report of the runs in these folders, and says where.

    Raises:
      UserError: if one holds no run, or `out` is a folder.
      StorageError: if it cannot be written.
    """
    out = epath.Path(out).expanduser()
    if out.is_dir():
        raise UserError(f"--out={out} is a folder: give a file, such as report.html")
    text = page(read_records(paths), price, currency)
    with storage_of(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text)
    say(new_console(), f"{out}: {len(text) / 1e6:.1f} MB, to be opened in any browser")
