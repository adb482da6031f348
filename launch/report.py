"""Reports on runs in one HTML file, which needs no network and reads on a phone too.

    python launch/report.py runs/digits
    python launch/report.py runs/digits runs/digits_slow --out=report.html --price=1.2

What came out, verdicts, curves, probes, pictures, where the time went, what it cost, config and
environment; of several runs, one beside the other, with what differs marked. Runs may be under way.
`launch/visualize.py` draws more pictures, which the next report shows. Exit codes: 0 finished, 2
wrong input, 74 a file can't be read or written.
"""

import os

from jepa_jax import cli
from jepa_jax.cli import flags

OUT = flags.DEFINE_string("out", None, "The file; report.html in the first folder, if none.")
PRICE = flags.DEFINE_float("price", None, "Of an hour of one device; without it no cost is told.")
CURRENCY = flags.DEFINE_string("currency", "USD", "Of the price.")


def main(*workdirs: str) -> None:
    from jepa_jax.visualize.report.page import write_report

    out = OUT.value or os.path.join(workdirs[0], "report.html")
    write_report(workdirs, out, PRICE.value, CURRENCY.value)


if __name__ == "__main__":
    cli.run(main, several="WORKDIR, such as runs/digits")
