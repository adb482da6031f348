"""The ledger of a run's time: every moment counts once, and events tell it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa_jax.training import ledger as module
from jepa_jax.training.ledger import Ledger

NAMES = ("compile", "step", "data_wait", "checkpoint")


class Clock:
    """Stands in for the module `time`."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    time = monotonic


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def events():
    return []


@pytest.fixture
def ledger(clock, events):
    return Ledger(lambda event, **fields: events.append({"event": event, **fields}), began=990.0)


def test_time_counts_as_what_was_going_on(ledger, clock, events):
    clock.now += 5
    ledger.record("start")
    ledger.enter("step")
    clock.now += 3
    with ledger("checkpoint", step=7):
        clock.now += 2
    clock.now += 1
    ledger.record("step", step=8)
    assert events == [
        {"event": "start", "seconds": {"start": 15.0}},
        {"event": "checkpoint", "step": 7, "seconds": {"step": 3.0, "checkpoint": 2.0}},
        {"event": "step", "step": 8, "seconds": {"step": 1.0}},
    ]


def test_it_may_be_known_afterwards_what_it_was(ledger, clock, events):
    ledger.record("start")
    ledger.enter("data_wait")
    clock.now += 4
    ledger.enter("step", was="step")
    ledger.record("step")
    assert events[-1]["seconds"] == {"step": 4.0}


@given(
    acts=st.lists(
        st.tuples(
            st.sampled_from(("enter", "record", "within")),
            st.sampled_from(NAMES),
            st.floats(0, 100),
        )
    )
)
def test_every_moment_counts_once(acts):
    with pytest.MonkeyPatch.context() as patch:
        clock, events = Clock(), []
        patch.setattr(module, "time", clock)
        ledger = Ledger(lambda event, seconds, **_: events.append(seconds))
        for act, name, seconds in acts:
            if act == "enter":
                ledger.enter(name)
            elif act == "record":
                ledger.record(name)
            else:
                with ledger(name):
                    clock.now += seconds
            clock.now += seconds
        ledger.record("end")
        counted = sum(value for seconds in events for value in seconds.values())
        # What each name, "start" too, still has of the last millisecond is not told.
        assert counted == pytest.approx(clock.now - 1000, abs=0.001 * (len(NAMES) + 1))


def test_an_end_by_an_error_is_named(ledger, clock, events):
    def fail():
        clock.now += 2
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"), ledger, ledger("checkpoint"):
        fail()
    assert events == [
        {"event": "end", "error": "OSError", "seconds": {"start": 10.0, "checkpoint": 2.0}}
    ]


def test_a_long_silence_is_broken(monkeypatch, events):
    monkeypatch.setattr(module, "PULSE", 0.02)
    alive = module.threading.Event()
    ledger = Ledger(lambda event, **fields: alive.set() if event == "alive" else None)
    with ledger:
        assert alive.wait(timeout=10)
