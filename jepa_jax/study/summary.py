"""What a study found: a table of its records, in Markdown, and a picture."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from etils import epath

from jepa_jax.atomic import write_text
from jepa_jax.console import clock
from jepa_jax.study.figure import draw, draw_curves
from jepa_jax.study.plan import Planned
from jepa_jax.study.record import Record, read
from jepa_jax.training.loop import TRAINED
from jepa_jax.training.workdir import storage_of

PROBES = {"knn": "k-NN", "linear": "linear probe"}


class Found(NamedTuple):
    """What is known of a variant, over its seeds."""

    factor: str
    variant: str
    records: list[Record]  # of runs that came to their end
    failed: int

    def scores(self, probe: str) -> list[float]:
        """Accuracies in %, a seed each."""
        return [100 * record["accuracy"][TRAINED][probe] for record in self.records]


def collect(runs: Sequence[Planned], records: epath.Path) -> list[Found]:
    """What there is of the planned runs, in their order; variants of which nothing is are out."""
    found: dict[tuple[str, str], Found] = {}
    for planned in runs:
        file = records / f"{planned.name}.json"
        if not file.exists():
            continue
        record = read(file, planned)
        key = planned.factor, planned.variant
        each = found.setdefault(key, Found(*key, [], 0))
        if "failed" in record:
            found[key] = each._replace(failed=each.failed + 1)
        else:
            each.records.append(record)
    return list(found.values())


def summarize(
    title: str, command: str, runs: Sequence[Planned], records: epath.Path
) -> epath.Path | None:
    """Writes README.md and results.png beside the records; None if there are none.

    Args:
      title: what the study is about, for the head of the page.
      command: that repeats it.
    """
    found = collect(runs, records)
    if not any(each.records for each in found):
        return None
    page = records / "README.md"
    draw(found, records / "results.png")
    curves = draw_curves(found, records / "curves.png")
    parts = [
        f"# {title}",
        f"```bash\n{command}\n```",
        *_circumstances(found),
        table(found),
        *_peers(found),
        "![Accuracies of the variants](results.png)",
        *(["![Accuracies over the steps](curves.png)"] if curves else []),
    ]
    with storage_of(page):
        write_text(page, "\n\n".join(parts) + "\n")
    return page


def table(found: Sequence[Found]) -> str:
    """One line for each variant: accuracies in % and what they have more than the centre's."""
    centre = _centre(found)
    head = ["", "", *(name for label in PROBES.values() for name in (label, "Δ")), "seeds", "time"]
    lines = [f"| {' | '.join(head)} |", "|---|---|" + "---:|" * (len(head) - 2)]
    factor = ""
    for each in found:
        cells = [each.factor if each.factor != factor else "", each.variant]
        factor = each.factor
        for probe in PROBES:
            cells += _score_cells(each, centre, probe)
        failed = f", {each.failed} failed" if each.failed else ""
        seconds = [record["seconds"] for record in each.records]
        cells += [
            f"{len(each.records)}{failed}",
            clock(statistics.mean(seconds)) if seconds else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _centre(found: Sequence[Found]) -> Found | None:
    return next((each for each in found if not each.factor and each.records), None)


def _score_cells(each: Found, centre: Found | None, probe: str) -> list[str]:
    scores = each.scores(probe)
    if not scores:
        return ["", ""]
    mean = statistics.mean(scores)
    spread = f" ± {statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
    more = ""
    if centre and each is not centre:
        more = f"{mean - statistics.mean(centre.scores(probe)):+.1f}"
    return [f"{mean:.1f}{spread}", more]


def _circumstances(found: Sequence[Found]) -> list[str]:
    records = [record for each in found for record in each.records]
    hardware = ", ".join(sorted({record["hardware"] for record in records}))
    versions = sorted({tuple(record["versions"].items()) for record in records})
    said = "; ".join(", ".join(f"{name} {number}" for name, number in each) for each in versions)
    seconds = sum(record["seconds"] for record in records)
    runs = f"{len(records)} run{'s' * (len(records) > 1)}"
    more = "; Δ is how much more than the centre" * (_centre(found) is not None)
    return [
        f"{runs} on {hardware}, {clock(seconds)} in all, {said}. Accuracy in %, mean"
        f" and deviation over seeds{more}."
    ]


def _peers(found: Sequence[Found]) -> list[str]:
    """Other features under the same probes, where a run compared itself with them."""
    lines = {}
    for each in found:
        for record in each.records:
            for name, scores in record["accuracy"].items():
                if name != TRAINED:
                    cells = (f"{100 * scores[probe]:.1f}" for probe in PROBES)
                    lines.setdefault(name, f"| {name} | {' | '.join(cells)} |")
    if not lines:
        return []
    head = f"| to compare | {' | '.join(PROBES.values())} |"
    return ["\n".join([head, "|---|---:|---:|", *lines.values()])]
