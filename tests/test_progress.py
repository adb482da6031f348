"""The display of a run: a bar on a terminal, plain lines elsewhere."""

import io

import pytest
from rich.console import Console

from jepa_jax.training import progress
from jepa_jax.training.progress import Display, result_table

ROW = {"step": 5, "loss": 0.25, "images_per_second": 1234.5, "learning_rate": 1e-3}


@pytest.fixture
def shown(monkeypatch):
    """Runs a display on a terminal or a pipe and gives what it wrote."""

    def run(terminal: bool, *rows: dict) -> str:
        output = io.StringIO()
        console = Console(file=output, force_terminal=terminal, width=120)
        monkeypatch.setattr(progress, "new_console", lambda quiet: console)
        with Display(total=10, start=0) as display:
            for row in rows:
                display.update(row)
            display.say("folder runs/[exp]a")
        return output.getvalue()

    return run


def test_piped_output_is_a_line_for_each_row(shown):
    first, second, text = shown(False, ROW, ROW | {"step": 10}).splitlines()
    assert first.startswith("step  5/10  loss 0.2500  1,234 images/s  learning rate 1.00e-03")
    assert second.endswith("left 0:00:00")
    assert text == "folder runs/[exp]a"  # brackets are no markup


def test_terminal_shows_a_bar(shown):
    output = shown(True, ROW)
    assert "━" in output
    assert "5/10" in output
    assert "loss 0.2500" in output


def test_a_rate_may_be_missing(shown):
    assert "0 images/s" in shown(False, ROW | {"images_per_second": None})


def test_result_table_in_percent():
    output = io.StringIO()
    table = result_table({"raw pixels": {"knn": 0.975, "linear": 0.9}})
    Console(file=output, width=80).print(table)
    assert "raw pixels" in output.getvalue()
    assert "97.5" in output.getvalue()
    assert "90.0" in output.getvalue()
