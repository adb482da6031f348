"""Says in plain words whether a run learns or collapses, from the numbers of `metrics.py`.

Each rule is a pure function of the rows so far, so that a run that goes on, and whoever reads
metrics.jsonl later, comes to the same verdicts. Where the thresholds come from is told with them.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from jepa_jax.errors import RunFailed
from jepa_jax.training.guard import Diverged

Row = Mapping[str, Any]  # of metrics.jsonl, with a diagnosis

# Measured on healthy and spoilt runs of a small recipe, see docs/doctor.md.
SEEN = 0.01  # overlap
SCALE = 0.003  # of target_scale from 1; a layer norm stays below a thousandth
DRIFT = 0.3  # of the target encoder in a half-life of its average
FALLEN = 1 / 3  # what is left of the largest feature_std of the run, when features collapse
ALIKE = 0.98  # patch_cosine
LEARNED = 0.98  # over_mean, below which a predictor tells images apart
PLACED = 1.0  # over_place, above which a predictor knows the place of a patch and nothing else
PATIENCE = 10  # looks after which it should
RISEN, DOUBTFUL = 1.05, 1.5  # the loss, over its least

SLOWER = "lower optim.learning_rate and optim.start_learning_rate"

NORMAL, WARNING, ILL = "normal", "warning", "ill"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a rule has to say at a step."""

    name: str
    severity: str  # NORMAL: explains, WARNING: may be wrong, ILL: the run learns nothing like this
    text: str

    def __str__(self):
        return f"{self.severity}: {self.text}" if self.severity != NORMAL else self.text


@dataclasses.dataclass(frozen=True)
class Looks:
    """A run so far, as the rules see it.

    Attributes:
      last: its last three rows with a diagnosis.
      best: the largest feature_std.
      least: the row of the least loss.
    """

    count: int = 0
    last: tuple[Row, ...] = ()
    best: float = 0.0
    least: Row = dataclasses.field(default_factory=dict)

    def then(self, row: Row) -> "Looks":
        """With one more."""
        return Looks(
            self.count + 1,
            (*self.last[-2:], row),
            max(self.best, _value(row, "feature_std")),
            min(self.least or row, row, key=_loss),
        )


def verdicts(looks: Looks) -> list[Verdict]:
    """On the last look, in the light of those before it."""
    found = [verdict for rule in RULES if (verdict := rule(looks))] if looks.count else []
    if any(verdict.severity == ILL for verdict in found):  # which nothing is normal beside
        return [verdict for verdict in found if verdict.severity != NORMAL]
    return found


def diagnosed(rows: Iterable[Row]) -> list[Row]:
    """Those of metrics.jsonl that hold a diagnosis."""
    return [row for row in rows if "over_mean" in row]


def _same_encoder(looks: Looks) -> Verdict | None:
    if looks.last[-1]["target_gap"] == 0:
        return Verdict(
            "same_encoder",
            ILL,
            "the target encoder is the context encoder itself: it must follow slowly, or all"
            " features may become the same; set optim.ema, such as (0.996, 1.0)",
        )


def _overlap(looks: Looks) -> Verdict | None:
    if (share := _last(looks, "overlap")) > SEEN:
        return Verdict(
            "overlap",
            ILL,
            f"{share:.0%} of the target patches are in the context: the predictor may copy them"
            " instead of understanding the image; take targets out of the context",
        )


def _scale(looks: Looks) -> Verdict | None:
    if abs((scale := _last(looks, "target_scale")) - 1) > SCALE:
        return Verdict(
            "scale",
            ILL,
            f"targets have a root mean square of {scale:.4g} instead of 1: the loss follows their"
            " scale; pass them through losses.normalize_targets",
        )


def _drift(looks: Looks) -> Verdict | None:
    if (drift := drift_per_half_life(looks.last[-1])) > DRIFT:
        return Verdict(
            "drift",
            ILL,
            f"the target encoder changes by {drift:.0%} in a half-life of its average: it runs"
            f" away from what the predictor learns; {SLOWER}",
        )


def _collapse(looks: Looks) -> Verdict | None:
    """Two looks in a row, as one batch says little."""
    if looks.count < 2:
        return None
    before, now = (_signs(row, looks.best) for row in looks.last[-2:])
    if before & now:
        return Verdict(
            "collapse",
            ILL,
            f"features collapse: their spread over patches and images is"
            f" {_last(looks, 'feature_std'):.2g} and was {looks.best:.2g}, the mean cosine between"
            f" patches of an image is {_last(looks, 'patch_cosine'):.3f}; {SLOWER}, or take"
            " a slower target encoder (optim.ema)",
        )


def _signs(row: Row, best: float) -> set[str]:
    """Of collapse, in one look."""
    found = {
        "fallen": _value(row, "feature_std") < FALLEN * best,
        "alike": _value(row, "patch_cosine", 1.0) > ALIKE,
    }
    return {name for name, holds in found.items() if holds}


def _constant(looks: Looks) -> Verdict | None:
    if looks.count >= PATIENCE and all(_value(row, "over_mean") > LEARNED for row in looks.last):
        return Verdict(
            "constant",
            WARNING,
            f"the predictor is no better than the mean target (its loss is"
            f" {_last(looks, 'over_mean'):.2f} of that): it does not tell one image from another",
        )


def _placed(looks: Looks) -> Verdict | None:
    """What the mean over all does not tell: features hold their place, which is easy to predict."""
    if looks.count >= PATIENCE and all(_value(row, "over_place") > PLACED for row in looks.last):
        return Verdict(
            "placed",
            WARNING,
            f"the predictor's loss is {_last(looks, 'over_place'):.2f} times that of the mean"
            " target of each place: it goes by where a block is, and not by what is around it; look"
            " at the probes (probe.every_epochs), and whether more epochs change it",
        )


def _rising(looks: Looks) -> Verdict | None:
    """The loss against its least, where features are now richer, or are not."""
    least = _loss(looks.least)
    times = [_loss(row) / least for row in looks.last]
    if min(times[-2:]) < RISEN:
        return None
    for name, words in (("rank", "effective rank"), ("feature_std", "spread")):
        if _last(looks, name) > _value(looks.least, name):
            return Verdict(
                "rising",
                NORMAL,
                f"the loss rises while the {words} of the features rises: normal in this phase, as"
                " richer targets are harder to predict",
            )
    if min(times) > DOUBTFUL:
        return Verdict(
            "rising_alone",
            WARNING,
            f"the loss is {times[-1]:.1f} times its least, and features are no richer than then:"
            f" look at the probes (probe.every_epochs), and {SLOWER} if they fall",
        )


RULES: tuple[Callable[[Looks], Verdict | None], ...] = (
    _same_encoder,
    _overlap,
    _scale,
    _drift,
    _collapse,
    _constant,
    _placed,
    _rising,
)


def drift_per_half_life(row: Row) -> float:
    """How far θ̄ moves, as a share of its norm, while half of it is replaced.

    θ̄ follows θ as an average whose weights sum to 1 / (1 - m) steps, so where θ̄ moves by v a step,
    θ is v / (1 - m) ahead of it; a half-life is ln 2 / (1 - m) steps.
    """
    return math.log(2) * _value(row, "target_gap")


def _value(row: Row, name: str, missing: float = 0.0) -> float:
    """A number that was not finite is missing."""
    value = row.get(name)
    return missing if value is None else value


def _last(looks: Looks, name: str) -> float:
    return _value(looks.last[-1], name)


def _loss(row: Row) -> float:
    return _value(row, "loss", math.inf)


class Doctor:
    """Tells each verdict when it first holds, and acts as the config says.

    Args:
      settings: `config.doctor`.
      rows: of metrics.jsonl so far.
      say, record: are called with what is new, and with the name of an event and its fields.
    """

    def __init__(
        self,
        settings: ConfigDict,
        rows: Iterable[Row],
        say: Callable[[str], None],
        record: Callable[..., Any],
    ):
        self._action, self._say, self._record = settings.action, say, record
        self._looks = Looks()
        self._known = set()
        self._explained = set()  # what is normal is told once, and not when it is over
        self._well = 0  # the last step that was looked at and showed nothing of illness
        for row in diagnosed(rows):
            self._judge(row)

    def look(self, row: Row, batch: int) -> None:
        """At one more row.

        Args:
          batch: of its step, by its place in the run's row of batches.

        Raises:
          RunFailed: if the run is ill and the config says to stop.
          Diverged: if it is ill and the config says to roll back.
        """
        before = self._known
        found = self._judge(row)
        for verdict in found:
            if verdict.name not in before:
                self._record("verdict", step=row["step"], **dataclasses.asdict(verdict))
                self._say(f"step {row['step']}: {verdict}")
        for name in before - self._known:
            self._record("verdict", step=row["step"], name=name, severity="over", text="")
            self._say(f"step {row['step']}: no longer so ({name})")
        ill = _ill(found)
        if ill and self._action == "stop":
            raise RunFailed(
                f"stopped at step {row['step']}, as the doctor was told to (doctor.action): {ill}"
            )
        if ill and self._action == "roll_back":
            raise Diverged(row["step"], self._well, batch, ill, spoilt=True)

    def _judge(self, row: Row) -> list[Verdict]:
        self._looks = self._looks.then(row)
        found = verdicts(self._looks)
        self._explained |= {verdict.name for verdict in found if verdict.severity == NORMAL}
        self._known = self._explained | {verdict.name for verdict in found}
        if not (_ill(found) or _signs(row, self._looks.best)):
            self._well = row["step"]
        return found


def _ill(found: Sequence[Verdict]) -> str:
    """What makes a run ill; empty if nothing does."""
    return "; ".join(verdict.text for verdict in found if verdict.severity == ILL)
