"""Rows in a bucket, where a file cannot be appended to."""

import fsspec
import pytest
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem

from jepa_jax.training.jsonlines import JsonLines


class Bucket(MemoryFileSystem):
    """As gcsfs does it: to append is to overwrite."""

    protocol = ("gcs", "gs")

    def _open(self, path, mode="rb", **options):
        return super()._open(path, mode.replace("a", "w"), **options)

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + path.removeprefix("gs://").strip("/")


@pytest.fixture
def bucket(monkeypatch) -> epath.Path:
    monkeypatch.setattr(fsspec, "filesystem", lambda name, **options: Bucket())
    folder = epath.Path("gs://bucket/run")
    folder.mkdir(parents=True)
    return folder


def test_rows_are_kept_where_nothing_can_be_appended(bucket):
    lines = JsonLines(bucket / "metrics.jsonl")
    rows = [{"step": 1}, {"step": 2}, {"step": 3}]
    for row in rows:
        lines.append(row)
    assert JsonLines(bucket / "metrics.jsonl").rows() == rows


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
