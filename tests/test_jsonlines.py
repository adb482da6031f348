"""Rows outlive a full disk and a crash, also in a bucket; none is lost or doubled."""

import errno
import json
import pathlib

import pytest
from etils import epath

from jepa_jax.training import jsonlines
from jepa_jax.training.jsonlines import JsonLines
from tests.bucket import new_bucket

FULL = OSError(errno.ENOSPC, "No space left on device")


def written(path: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def lines(tmp_path) -> JsonLines:
    lines = JsonLines(epath.Path(tmp_path / "a.jsonl"))
    lines.append({"step": 1})
    lines.append({"step": 2})
    return lines


class Disk:
    """Refuses to append, after so many characters; and if it is full, to write at all."""

    def __init__(self, monkeypatch, full: bool, characters: int):
        kind = type(epath.Path("."))
        original = kind.open

        def cut(path, mode="r", **options):
            if mode == "a":
                with original(path, mode) as file:
                    file.write('{"step": 3}\n'[:characters])
                raise FULL
            return original(path, mode, **options)

        def refuse(*_):
            raise FULL

        monkeypatch.setattr(kind, "open", cut)
        if full:
            monkeypatch.setattr(jsonlines, "write_text", refuse)


@pytest.mark.parametrize("characters", [0, 5, 11, 12])
@pytest.mark.parametrize("full", [True, False])
def test_what_cannot_be_written_is_written_later(lines, tmp_path, monkeypatch, full, characters):
    Disk(monkeypatch, full, characters)
    lines.append({"step": 3})
    lines.change(lambda rows: [row | {"knn": 0.5} if row["step"] == 2 else row for row in rows])
    assert lines.flush() is not full
    expected = [{"step": 1}, {"step": 2, "knn": 0.5}, {"step": 3}]
    assert lines.rows() == expected
    monkeypatch.undo()
    lines.append({"step": 4})
    assert written(tmp_path / "a.jsonl") == [*expected, {"step": 4}]


def test_rows_go_on_after_a_line_that_a_crash_cut_short(lines, tmp_path):
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    after = JsonLines(epath.Path(tmp_path / "a.jsonl"))
    after.append({"step": 3})
    assert written(tmp_path / "a.jsonl") == [{"step": 1}, {"step": 2}, {"step": 3}]


def test_rows_are_kept_where_nothing_can_be_appended(monkeypatch):
    bucket = new_bucket(monkeypatch)
    lines = JsonLines(bucket / "metrics.jsonl")
    rows = [{"step": 1}, {"step": 2}, {"step": 3}]
    for row in rows:
        lines.append(row)
    assert JsonLines(bucket / "metrics.jsonl").rows() == rows


def test_rows_outlive_an_outage_of_a_bucket(monkeypatch):
    lines = JsonLines(new_bucket(monkeypatch) / "metrics.jsonl")
    lines.append({"step": 1})
    error = type("HttpError", (Exception,), {"__module__": "gcsfs.retry"})("Backend Error, 503")

    def refuse(*_):
        raise error

    with monkeypatch.context() as outage:
        outage.setattr(jsonlines, "write_text", refuse)
        lines.append({"step": 2})
        assert not lines.flush()
    lines.append({"step": 3})
    assert [row["step"] for row in lines.rows()] == [1, 2, 3]


def test_damaged_lines_are_left_out_and_the_others_kept(tmp_path):
    path = epath.Path(tmp_path / "rows.jsonl")
    lines = [
        b'{"step": 1}',
        b'{"step": \xff2}',
        b'{"stop": 3}',
        b"[4]",
        b'{"step": "5"}',
        b"{",
        b"6",
    ]
    path.write_bytes(b"\n".join([*lines, b'{"step": 7}', b'{"step"']))
    assert [row["step"] for row in JsonLines(path, step=int).rows()] == [1, 7]
