"""The doctor: what is said of which numbers, once, and what is done about it."""

import functools

import pytest
from ml_collections import ConfigDict

from jepa_jax.errors import UserError
from jepa_jax.training.doctor import Doctor, Looks, diagnosed, drift_per_half_life, verdicts
from jepa_jax.training.guard import Diverged

WELL = {
    "loss": 0.1,
    "feature_std": 0.4,
    "patch_cosine": 0.7,
    "target_scale": 1.0,
    "over_mean": 0.6,
    "over_place": 0.8,
    "over_copy": 0.7,
    "overlap": 0.0,
    "target_gap": 0.05,
    "rank": 20.0,
}


def rows(count: int = 12, **last) -> list[dict]:
    """A healthy run whose last two looks differ so."""
    found = [WELL | {"step": 100 * (look + 1)} for look in range(count)]
    return [row | (last if row["step"] > 100 * (count - 2) else {}) for row in found]


def names(found) -> list[tuple[str, str]]:
    looks = functools.reduce(Looks.then, found, Looks())
    return [(verdict.name, verdict.severity) for verdict in verdicts(looks)]


def test_nothing_is_said_of_a_healthy_run():
    for count in range(13):
        assert names(rows(count)) == []


@pytest.mark.parametrize(
    ("name", "severity", "last"),
    [
        ("same_encoder", "ill", {"target_gap": 0.0}),
        ("overlap", "ill", {"overlap": 0.3}),
        ("scale", "ill", {"target_scale": 0.5}),
        ("drift", "ill", {"target_gap": 0.9}),
        ("collapse", "ill", {"feature_std": 0.1}),
        ("collapse", "ill", {"patch_cosine": 0.99}),
        ("collapse", "ill", {"feature_std": None}),  # not finite
        ("rising", "normal", {"loss": 0.15, "rank": 25.0}),
        ("rising", "normal", {"loss": 0.15, "feature_std": 0.5}),
    ],
)
def test_each_illness_by_its_sign(name: str, severity: str, last: dict):
    assert names(rows(**last)) == [(name, severity)]


def test_one_odd_look_is_no_collapse():
    odd = rows(feature_std=0.1)
    odd[-2] = odd[-2] | {"feature_std": 0.4}
    assert names(odd) == []


def test_a_loss_that_rises_alone_is_told_when_it_has_risen_much():
    assert names(rows(loss=0.14)) == []
    risen = rows(loss=0.2)
    risen[-3] = risen[-3] | {"loss": 0.2}
    assert names(risen) == [("rising_alone", "warning")]


def test_nothing_is_normal_in_an_ill_run():
    assert names(rows(loss=0.15, rank=25.0, overlap=0.3)) == [("overlap", "ill")]


def test_what_is_normal_is_told_once():
    told = Told()
    risen, back = rows(12, loss=0.15, rank=25.0), WELL | {"loss": 0.08}
    told.look(*risen, *(back | {"step": 1300 + step} for step in range(3)), *risen)
    assert [event[2:] for event in told.events] == [("rising", "normal")]


def test_a_predictor_that_predicts_the_mean_is_told_after_a_while():
    constant = [row | {"over_mean": 1.01} for row in rows()]
    assert names(constant[:5]) == []
    assert names(constant) == [("constant", "warning")]


def test_a_predictor_that_goes_by_the_place_alone_is_told_after_a_while():
    placed = [row | {"over_place": 1.9} for row in rows()]
    assert names(placed[:5]) == []
    assert names(placed) == [("placed", "warning")]
    older = [{name: row[name] for name in row if name != "over_place"} for row in rows()]
    assert names(older) == []


def test_rows_without_a_diagnosis_are_left_out():
    assert diagnosed([{"step": 1, "loss": 1.0}, *rows(2)]) == rows(2)


def test_drift_of_a_steady_movement():
    """θ moves by 1 % of ‖θ̄‖ a step: in a half-life, θ̄ has moved by as many per cent."""
    momentum, target, online = 0.98, 1.0, 1.0
    for _ in range(1000):
        online += 0.01
        before = target
        target = momentum * target + (1 - momentum) * online
    half_life = 34.3  # ln ½ / ln .98
    moved = (target - before) * half_life / target
    assert drift_per_half_life({"target_gap": (online - target) / target}) == pytest.approx(
        moved, rel=0.02
    )


class Told:
    """A doctor, and what it says."""

    def __init__(self, action: str = "warn", before: list[dict] | None = None):
        self.lines, self.events = [], []
        settings = ConfigDict({"action": action})
        self.doctor = Doctor(settings, before or [], self.lines.append, self._record)

    def _record(self, event: str, **fields):
        self.events.append((event, fields["step"], fields["name"], fields["severity"]))

    def look(self, *rows):
        for row in rows:
            self.doctor.look(row, row["step"] - 1)


def test_a_verdict_is_told_when_it_begins_and_when_it_ends():
    told = Told()
    told.look(*rows(12, overlap=0.3), WELL | {"step": 1300}, WELL | {"step": 1400})
    assert told.events == [
        ("verdict", 1100, "overlap", "ill"),
        ("verdict", 1300, "overlap", "over"),
    ]
    assert len(told.lines) == 2
    assert told.lines[0].startswith("step 1100: ill: 30% of the target patches are in the context")


def test_a_run_that_goes_on_is_not_told_again():
    told = Told(before=rows(12, overlap=0.3))
    told.look(WELL | {"step": 1300, "overlap": 0.3})
    assert told.lines == []


def test_stop():
    told = Told("stop")
    with pytest.raises(UserError, match=r"stopped at step 1100.*doctor.action.*targets out of the"):
        told.look(*rows(12, overlap=0.3))


def test_roll_back_to_where_it_was_well():
    told = Told("roll_back", before=rows(5, overlap=0.3)[:4])
    with pytest.raises(Diverged) as caught:
        told.doctor.look(rows(5, overlap=0.3)[4], batch=511)
    assert (caught.value.before, caught.value.step, caught.value.batch) == (300, 500, 511)


def test_roll_back_to_before_the_first_sign_of_a_collapse():
    told = Told("roll_back")
    with pytest.raises(Diverged) as caught:
        told.look(*rows(12, feature_std=0.1))
    assert (caught.value.before, caught.value.step) == (1000, 1200)


def test_a_look_costs_the_same_however_many_were_before():
    looks = functools.reduce(Looks.then, rows(50), Looks())
    assert (looks.count, len(looks.last)) == (50, 3)


def test_warnings_stop_nothing():
    told = Told("stop")
    told.look(*rows(12), *(WELL | {"step": 1200 + step, "loss": 0.2} for step in range(3)))
    assert [severity for *_, severity in told.events] == ["warning"]
