"""Runs that are killed come to the same end. The long form is `python -m tests.scale.kills`."""

import random
import re
import signal

import jax
import numpy as np
import pytest

from tests.scale.endings import differences, final_state, loss_differences, of_metrics, of_states
from tests.scale.kills import Kill, disturbed, recipe


@pytest.fixture(scope="module")
def ending(undisturbed):
    """The last state of that run, leaf by leaf."""
    leaves = final_state(recipe(undisturbed.steps), undisturbed.workdir)
    assert of_states(leaves, leaves) == []
    return leaves


def test_a_run_that_is_killed_comes_to_the_same_end(undisturbed, tmp_path):
    kills = [
        Kill("save", signal.SIGKILL),
        Kill("evaluation", signal.SIGKILL),
        Kill("step", signal.SIGTERM),
    ]
    assert len([*disturbed(undisturbed, tmp_path, kills, random.Random(0))]) == 3
    assert differences(recipe(undisturbed.steps), undisturbed.workdir, tmp_path) == []


def test_one_of_two_processes_is_killed_and_one_goes_on(undisturbed, tmp_path):
    kills = [Kill("step", signal.SIGKILL, everyone=False)]
    (kill,) = disturbed(undisturbed, tmp_path, kills, random.Random(0), processes=(2, 1))
    assert len(kill.which) == 1
    assert loss_differences(undisturbed.workdir, tmp_path) == []


@pytest.mark.parametrize("part", ["params", "target", "opt_state"])
def test_the_comparison_sees_the_last_bit_of_a_leaf(ending, part):
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in ending]
    number = next(i for i, name in enumerate(names) if re.match(f"{part}/.*kernel", name))
    path, leaf = ending[number]
    changed = leaf.copy()
    changed.flat[-1] = np.nextafter(changed.flat[-1], np.inf)
    (line,) = of_states(ending, [*ending[:number], (path, changed), *ending[number + 1 :]])
    assert line.startswith(f"{names[number]}: off by ")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([(1, 0.5), (2, 0.25)], []),
        ([(1, 0.5), (2, 0.2500001)], ["step 2: loss is 0.2500001 and not 0.25"]),
        ([(1, 0.5)], ["metrics.jsonl: missing or doubled steps in [1]"]),
        (
            [(1, 0.5), (2, 0.25), (2, 0.25)],
            ["metrics.jsonl: missing or doubled steps in [1, 2, 2]"],
        ),
        ([(1, 0.5), (2, None)], ["step 2: loss is None and not 0.25"]),
    ],
)
def test_the_comparison_sees_numbers_and_steps(rows, expected):
    straight = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]
    found = [{"step": step, "loss": loss} for step, loss in rows]
    assert of_metrics(straight, found) == expected
