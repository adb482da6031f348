"""Where a run's time went, from events of many starts, kills and roll-backs."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from jepa_jax.errors import UserError
from jepa_jax.training.goodput import account_table, goodput, inspect_run

BEGAN = 1000.0
SECONDS = st.integers(0, 50)


class History:
    """Makes up the events of a run, and keeps the account step by step."""

    def __init__(self):
        self.events = []
        self.now = BEGAN
        self.down = 0
        self.last, self.saved = 0, [0]
        self.taken = {}  # seconds of each step that counts
        self.pending = 0  # seconds of steps that no event has counted yet
        self.undone, self.repeated = 0, 0

    def record(self, event, seconds, **fields):
        self.now += sum(seconds.values())
        self.events.append({"time": self.now, "event": event, **fields, "seconds": seconds})

    def process(self, draw):
        if self.events:
            gap = draw(SECONDS)
            self.down += gap
            self.now += gap
        self.record("start", {"start": draw(SECONDS)}, processes=1)
        at = draw(st.sampled_from(self.saved))
        self.undone += self.undo(at)
        self.record("restore", {"start": draw(SECONDS)}, step=at)
        self.record("compile", {"compile": draw(SECONDS)})
        for act in draw(st.lists(st.sampled_from(("step", "checkpoint", "alive")))):
            getattr(self, act)(draw)

    def undo(self, at) -> float:
        later = [step for step in self.taken if step > at]
        self.repeated += len(later)
        lost = self.pending + sum(self.taken.pop(step) for step in later)
        self.saved = [step for step in self.saved if step <= at]
        self.last, self.pending = at, 0
        return lost

    def advance(self, steps, seconds):
        taken = (self.pending + seconds) / steps
        self.taken |= {self.last + 1 + i: taken for i in range(steps)}
        self.last, self.pending = self.last + steps, 0

    def checkpoint(self, draw):
        steps, seconds = draw(st.integers(1, 9)), draw(SECONDS)
        self.advance(steps, seconds)
        self.saved.append(self.last)
        self.record("checkpoint", {"step": seconds, "checkpoint": draw(SECONDS)}, step=self.last)

    def step(self, draw):
        steps, seconds = draw(st.integers(1, 9)), draw(SECONDS)
        self.advance(steps, seconds)
        self.record("step", {"step": seconds, "data_wait": draw(SECONDS)}, step=self.last)
        self.events.append({"time": self.now, "event": "change"})  # tells nothing of time

    def alive(self, draw):
        seconds = draw(SECONDS)
        self.pending += seconds
        self.record("alive", {"step": seconds})


@given(st.data())
def test_shares_add_up_whatever_happens(data):
    history = History()
    for _ in range(data.draw(st.integers(1, 4))):
        history.process(data.draw)
    account = goodput(history.events)
    assert account.total == pytest.approx(history.now - BEGAN)
    assert min(account.seconds.values()) >= 0
    counting = history.pending + sum(history.taken.values())
    assert account.seconds["step"] == pytest.approx(counting)
    assert account.seconds["repeated"] == pytest.approx(history.undone)
    assert account.seconds["down"] == pytest.approx(history.down)
    assert (account.step, account.repeated) == (history.last, history.repeated)
    for count in range(1, len(history.events)):  # it may be asked for at any time
        events = history.events[:count]
        assert goodput(events).total == pytest.approx(events[-1]["time"] - BEGAN)


def event(time, name, seconds, **fields):
    return {"time": time, "event": name, **fields, "seconds": seconds}


KILLED = [
    event(10.0, "start", {"start": 10}),
    event(12.0, "restore", {"start": 2}, step=0),
    event(20.0, "compile", {"compile": 8}),
    event(120.0, "step", {"step": 90, "data_wait": 10}, step=100),
    event(122.0, "checkpoint", {"checkpoint": 2}, step=100),
    event(182.0, "step", {"step": 60}, step=160),
    event(302.0, "start", {"start": 10}),  # killed at 182 or later, and back at 292
    event(303.0, "restore", {"start": 1}, step=100),
    event(307.0, "compile", {"compile": 4}),
    event(407.0, "step", {"step": 100}, step=200),
]
ROLLED_BACK = [
    *KILLED,
    event(447.0, "roll_back", {"step": 38, "roll_back": 2}, at=210, step=150),
    event(450.0, "compile", {"compile": 3}),
]


def test_a_kill_costs_downtime_a_start_and_the_steps_since_the_checkpoint():
    account = goodput(KILLED)
    assert {name: value for name, value in account.seconds.items() if value} == {
        "step": 190,
        "data_wait": 10,
        "checkpoint": 2,
        "start": 12,
        "compile": 8,
        "down": 110,
        "restart": 15,
        "repeated": 60,
    }
    assert (account.step, account.repeated, account.starts) == (200, 60, 2)
    assert account.goodput == pytest.approx(190 / 407)


def test_a_roll_back_costs_the_steps_that_it_undoes():
    account = goodput(ROLLED_BACK)
    assert account.seconds["roll_back"] == 38 + 2 + 50
    assert account.seconds["step"] == 190 - 50
    assert account.seconds["compile"] == 8 + 3
    assert (account.step, account.roll_backs) == (150, 1)


def test_a_checkpoint_that_was_killed_before_it_could_say_so_counts():
    events = [*KILLED[:6], event(190.0, "alive", {"step": 8})]
    events += [
        event(302.0, "start", {"start": 10}),
        event(303.0, "restore", {"start": 1}, step=165),
    ]
    account = goodput(events)
    assert account.seconds["step"] == 90 + 60 + 8
    assert account.repeated == 0


@pytest.mark.parametrize(
    "damage",
    [
        {"seconds": 5},
        {"seconds": {"step": "x"}},
        {"seconds": {"step": float("nan")}},
        {"seconds": {"step": -1}},
        {"time": None},
        {"step": "100"},
        {"event": "restore", "step": None},
    ],
)
def test_a_damaged_event_is_left_out(damage: dict):
    assert goodput([*KILLED, KILLED[-1] | damage]) == goodput(KILLED)


def test_no_start_is_no_account():
    assert goodput([]) is None
    assert goodput([{"time": 1.0, "event": "change", "name": "data.path"}]) is None


def test_the_table_tells_shares_and_counts():
    output = io.StringIO()
    Console(file=output, width=100).print(account_table(goodput(ROLLED_BACK)))
    lines = [line.strip("│ ") for line in output.getvalue().splitlines()]
    assert lines[0].startswith("31.1% of the time went into the 150 steps that count")
    (repeated,) = [line for line in lines if line.startswith("steps done again")]
    assert [cell.strip() for cell in repeated.split("│")] == [
        "steps done again: they were not saved (60)",
        "0:01:00",
        "13.3",
    ]
    assert "in all" in lines[-2]
    assert lines[-2].split()[-3:] == ["0:07:30", "│", "100.0"]


def test_a_run_that_goes_on_can_be_inspected(tmp_path, capsys):
    lines = [json.dumps(event) for event in KILLED]
    (tmp_path / "events.jsonl").write_text("\n".join(lines) + '\n{"time": 408, "eve')
    inspect_run(str(tmp_path))
    output = capsys.readouterr().out
    assert "46.7% of the time went into the 200 steps" in output
    assert "last event: 'step', " in output


def test_no_run_to_inspect(tmp_path):
    with pytest.raises(UserError, match=r"holds no events\.jsonl with a start"):
        inspect_run(str(tmp_path))
