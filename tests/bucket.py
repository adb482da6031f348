"""A bucket in memory that is reached as gs://… is; what the tests of it share."""

import fsspec
import pytest
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem


class Bucket(MemoryFileSystem):
    """As gcsfs does it: to append is to overwrite, and there are no folders without files."""

    protocol = ("gcs", "gs")

    def _open(self, path, mode="rb", **options):
        return super()._open(path, mode.replace("a", "w"), **options)

    def mkdir(self, path, create_parents=True, **options):
        pass

    def makedirs(self, path, exist_ok=False):
        pass

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + path.removeprefix("gs://").strip("/")


def new_bucket(monkeypatch: pytest.MonkeyPatch) -> epath.Path:
    """A folder in an empty one."""
    Bucket.store.clear()
    Bucket.pseudo_dirs[:] = [""]
    monkeypatch.setattr(fsspec, "filesystem", lambda name, **options: Bucket())
    return epath.Path("gs://bucket/run")
