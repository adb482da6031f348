"""The sections of a report, each a pure function of the runs."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jepa_jax.config import defaults
from jepa_jax.console import clock
from jepa_jax.training import doctor
from jepa_jax.training.doctor import diagnosed
from jepa_jax.training.goodput import LINES
from jepa_jax.visualize.report import html
from jepa_jax.visualize.report.charts import chart, color
from jepa_jax.visualize.report.record import (
    Record,
    all_keys,
    differences,
    is_number,
    plain_settings,
)

# Curves with words of their own, in their order; the others follow under the names they have.
CURVES = {
    "loss": "loss",
    "knn": "k-NN accuracy on held-out images",
    "linear": "linear probe accuracy on held-out images",
    "gradient_norm": "gradient norm",
    "images_per_second": "images a second",
    "input_wait": "share of time spent waiting for images",
    "learning_rate": "learning rate",
    "weight_decay": "weight decay",
    "momentum": "EMA momentum",
}
BAD, SOUND = (doctor.WARNING, doctor.ILL), "It found nothing wrong."
COUNTS = ("step", "skipped", "skipped_in_a_row", "broken_images")  # told in the overview
CAPTIONS = {
    "masks": "What the encoder sees of an image, and the blocks that it has to predict.",
    "features": "The first three principal components of patch features, as colours.",
    "steps": "The same at the checkpoints of the run, in colours that stay.",
    "attention": "What one patch looks at, by head of the last block, and what all patches do.",
    "similarity": "How like one patch the patches of all images are: cosine, red 1, blue -1.",
    "predictions": "Predicted against true features of each block: cosine, red 1, blue -1.",
    "retrieval": "Predicted blocks as collages of the real patches with the nearest features.",
    "map": "Images with like features lie together (t-SNE); labels are only colours.",
}
# Of what time went to, in the order of LINES.
COLORS = ("#0072B2", "#56B4E9", "#009E73", "#CC79A7", "#999999", "#E69F00", "#555555")
COLORS += ("#D55E00", "#F0E442", "#8a5a2b", "#332288")


def overview(runs: Sequence[Record], price: float | None, currency: str) -> str:
    """What came out of each run, and what it took."""
    rows: dict[str, list[str]] = {}

    def row(name: str, values: Iterable[Any], form: str = "{}") -> None:
        values = list(values)
        if any(value is not None for value in values):
            rows[name] = ["–" if value is None else form.format(value) for value in values]

    row("state", (_state(run) for run in runs))
    row("steps", (run.rows[-1]["step"] if run.rows else 0 for run in runs), "{:,}")
    row("loss at the end", (_last(run, "loss") for run in runs), "{:.4f}")
    for name in ("knn", "linear"):
        row(CURVES[name], (_last(run, name) for run in runs), "{:.1%}")
    for name, words in (("skipped", "steps left out"), ("broken_images", "unreadable images")):
        row(words, (_last(run, name) for run in runs), "{:,.0f}")
    row("images a second (median)", (_median(run, "images_per_second") for run in runs), "{:,.0f}")
    accounts = [run.account for run in runs]
    row("time in all", (account and clock(account.total) for account in accounts))
    row("goodput", (account and account.goodput for account in accounts), "{:.1%}")
    row("device hours", (run.device_hours for run in runs), "{:,.2f}")
    if price is not None:
        costs = [None if run.device_hours is None else run.device_hours * price for run in runs]
        row(f"cost at {price:g} {currency} a device hour", costs, "{:,.2f} " + currency)
    head = ["", *(run.name for run in runs)]
    return html.section("Overview", html.table(head, ([k, *v] for k, v in rows.items())))


def verdicts(runs: Sequence[Record]) -> str:
    """What the doctor said, in its words, and when that was over."""
    parts = []
    for run in runs:
        looks, said = len(diagnosed(run.rows)), run.of("verdict")
        if not (looks or said):
            continue
        parts.append(f"<h3>{html.text(run.name)}</h3>")
        healthy = "" if any(verdict.get("severity") in BAD for verdict in said) else SOUND
        parts.append(html.paragraph(f"The doctor looked {looks:,} times. {healthy}"))
        for verdict in said:
            kind, name = html.text(verdict.get("severity", "")), verdict.get("name", "")
            words = verdict.get("text") or "no longer so"
            parts.append(
                f'<div class="verdict {kind}"><strong>{kind}</strong> '
                + html.text(f"step {verdict.get('step', 0):,}, {name}: {words}")
                + "</div>"
            )
    return html.section("Verdicts", *parts)


def curves(runs: Sequence[Record]) -> str:
    """Every number of metrics.jsonl that two steps have, over steps, all runs in one chart."""
    known = dict.fromkeys(
        name for run in runs for row in run.rows for name, v in row.items() if is_number(v)
    )
    names = [name for name in CURVES if name in known]
    names += [name for name in known if name not in CURVES and name not in COUNTS]
    drawn = []
    for name in names:
        found = {i: points for i, run in enumerate(runs) if (points := run.series(name))}
        if any(len(points) > 1 for points in found.values()):
            title = CURVES.get(name, name.replace("_", " "))
            drawn.append(chart(title, found))
    return html.section("Curves", f'<div class="charts">{"".join(drawn)}</div>' if drawn else "")


def probes(runs: Sequence[Record]) -> str:
    """What the features were good for at the end, beside what was there before."""
    scores = {
        f"{features}, {CURVES.get(probe, probe)}": {}
        for run in runs
        if run.results
        for features, found in run.results["accuracy"].items()
        for probe in found
    }
    for i, run in enumerate(runs):
        for features, found in (run.results or {"accuracy": {}})["accuracy"].items():
            for probe, score in found.items():
                scores[f"{features}, {CURVES.get(probe, probe)}"][i] = f"{score:.1%}"
    rows = (
        [name, *(found.get(i, "–") for i in range(len(runs)))] for name, found in scores.items()
    )
    return html.section("Probes", html.table(["", *(run.name for run in runs)], rows))


def time_spent(runs: Sequence[Record]) -> str:
    """Where the time went, over all starts."""
    known = [(run, run.account) for run in runs if run.account]
    if not known:
        return ""
    shades = dict(zip(LINES, COLORS, strict=True))
    parts = []
    for run, account in known:
        shares = {k: v / account.total for k, v in account.seconds.items() if v and account.total}
        bars = "".join(
            f'<div style="width:{100 * share:.3f}%;background:{shades[name]}"'
            f' title="{html.text(LINES[name])}: {share:.1%}"></div>'
            for name, share in shares.items()
            if name in shades
        )
        parts.append(f'<h3>{html.text(run.name)}</h3><div class="bar">{bars}</div>')
    used = [name for name in LINES if any(account.seconds.get(name) for _, account in known)]
    keys = "".join(
        f'<span><span class="key" style="background:{shades[name]}"></span> '
        f"{html.text(LINES[name])}</span>"
        for name in used
    )
    rows = [
        [LINES[n], *(f"{clock(a.seconds[n])} ({a.seconds[n] / a.total:.1%})" for _, a in known)]
        for n in used
    ]
    rows.append(["starts", *(account.starts for _, account in known)])
    numbers = html.table(["", *(run.name for run, _ in known)], rows)
    return html.section("Time", *parts, f'<div class="runs pale">{keys}</div>', numbers)


def settings(runs: Sequence[Record]) -> str:
    """The configs: what differs between the runs, or from the defaults, and the rest on demand."""
    head = ["setting", *(run.name for run in runs)]
    tables = [run.config for run in runs]
    usual = plain_settings(defaults())
    own = [key for key in differences([usual, *tables]) if any(key in table for table in tables)]
    between = differences(tables)
    if len(runs) > 1:
        words = (
            "Those that are marked differ between the runs; the others differ from the defaults."
            if between
            else "The runs have the same config. It differs from the defaults in these."
        )
    else:
        words = "What the recipe says otherwise than the defaults."
    rows = [
        [key, *(_shown(table.get(key)) for table in tables)] for key in all_keys([usual, *tables])
    ]
    return html.section(
        "Config",
        html.paragraph(words),
        html.table(head, (row for row in rows if row[0] in own), between),
        html.details("All settings", html.table(head, rows, between)),
    )


def environment(runs: Sequence[Record]) -> str:
    """Machines and versions, of the newest checkpoint; what differs is marked."""
    tables = [run.environment for run in runs]
    rows = ([key, *(_shown(table.get(key)) for table in tables)] for key in all_keys(tables))
    head = ["", *(run.name for run in runs)]
    return html.section("Environment", html.table(head, rows, differences(tables)))


def incidents(runs: Sequence[Record]) -> str:
    """What went otherwise than straight on: changes, roll-backs, steps left out."""
    plain = ("start", "restore", "compile", "step", "alive", "checkpoint", "evaluation")
    plain += ("verdict", "end")
    parts = []
    for run in runs:
        rows = [
            [event["event"], "; ".join(f"{k} {v}" for k, v in event.items() if k not in HIDDEN)]
            for event in run.events
            if event["event"] not in plain
        ]
        if rows:
            number = f"{run.name}: {len(rows):,}"
            parts.append(html.details(number, html.table(["event", "what"], rows[:200])))
    return html.section("Incidents", *parts)


HIDDEN = ("time", "event", "seconds")


def pictures(runs: Sequence[Record]) -> str:
    """The pictures in each run's folder; the loss is among the curves already."""
    parts = []
    for run in runs:
        shown = {name: file for name, file in run.pictures.items() if name != "loss"}
        if shown:
            parts.append(f"<h3>{html.text(run.name)}</h3>")
        order = [*CAPTIONS, *(name for name in shown if name not in CAPTIONS)]
        parts += [
            html.picture(shown[name], CAPTIONS.get(name, name)) for name in order if name in shown
        ]
    return html.section("Pictures", *parts)


def legend(runs: Sequence[Record]) -> str:
    """Which colour is which run."""
    names = "".join(
        f'<span><span class="key" style="background:{color(i)}"></span>'
        f" {html.text(run.name)}</span>"
        for i, run in enumerate(runs)
    )
    return f'<div class="runs">{names}</div>'


def _state(run: Record) -> str:
    if run.results:
        return "finished"
    return f"last event: {run.account.last}" if run.account else "not started"


def _last(run: Record, name: str) -> float | None:
    points = run.series(name)
    return points[-1][1] if points else None


def _median(run: Record, name: str) -> float | None:
    values = [value for _, value in run.series(name)]
    return float(np.median(values)) if values else None


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    return f"({', '.join(map(str, value))})" if isinstance(value, list) else str(value)
