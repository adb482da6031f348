"""The folder of a data set: as it is being written, and when it is finished.

While shards are missing, all is in `unfinished/`: `plan.json`, the shards, and beside each what is
in it. Only a whole data set gets its final name, so nobody can read half of one.
"""

import contextlib
import dataclasses
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jepa_jax import lock
from jepa_jax.atomic import write_text
from jepa_jax.data.prepare.plan import Plan, Shard
from jepa_jax.data.prepare.request import Request
from jepa_jax.errors import UserError

VERSION = "1.0.0"


@dataclasses.dataclass
class Content:
    """What is in a shard.

    Attributes:
      bytes: of its records.
      labels: how often each comes.
      broken: a line for each image that was left out.
    """

    examples: int = 0
    bytes: int = 0
    labels: Counter[int] = dataclasses.field(default_factory=Counter)
    broken: list[str] = dataclasses.field(default_factory=list)

    def add(self, size: int, label: int | None) -> None:
        """One more record."""
        self.examples += 1
        self.bytes += size
        if label is not None:
            self.labels[label] += 1


class Folder:
    """Reads and writes the files of a data set that is prepared."""

    def __init__(self, path: Path):
        self.path = path
        self.final = path / VERSION
        self.work = path / "unfinished"
        self._shards = self.work / VERSION

    def result(self, request: Request) -> dict[str, Any] | None:
        """What was written, if the data set is finished.

        Raises:
          UserError: if it was made with other options, or by another program.
        """
        if not self.final.exists():
            return None
        file = self.final / "prepared.json"
        if not file.exists():
            raise UserError(f"{self.final} was made by another program: choose another --to")
        result = json.loads(file.read_text())
        self.compare(result["asked"], request.asked())
        shutil.rmtree(self.work, ignore_errors=True)  # there if it was killed in `finish`
        return result

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps other processes from writing here at the same time; ends with this one.

        Raises:
          UserError: if another process has it.
        """
        self.work.mkdir(parents=True, exist_ok=True)
        with (self.work / "lock").open("w") as file:
            lock.take(file, f"preparing {self.path}")
            yield

    def claim(self, request: Request, plan: Plan) -> None:
        """Stores the plan of a new data set, or compares it with the stored one."""
        asked, found = request.asked(), plan.found()
        file = self.work / "plan.json"
        if file.exists():
            stored = json.loads(file.read_text())
            self.compare(stored["asked"], asked)
            self.compare(stored["found"], found)
        self._shards.mkdir(parents=True, exist_ok=True)
        for part in self.work.glob("*.part"):  # of a process that was killed
            part.unlink()
        _write(file, {"asked": asked, "found": found})

    def compare(self, old: dict[str, Any], new: dict[str, Any]) -> None:
        """Raises UserError if they differ in a key that both have: versions may add some."""
        changed = [
            f"{key}: {old[key]} -> {new[key]}" for key in new if old.get(key, new[key]) != new[key]
        ]
        if changed:
            raise UserError(
                f"{self.path} holds another data set ({'; '.join(changed)}): choose another --to,"
                " take the old values, or delete it"
            )

    def place(self, shard: Shard) -> Path:
        """Where a shard goes."""
        return self._shards / shard.file

    def begun(self, shard: Shard, by: int) -> Path:
        """Where process `by` writes a shard, until it is whole."""
        return self.work / f"{shard.file}.{by}.part"

    def keep(self, shard: Shard, part: Path, content: Content) -> None:
        """A shard is whole: gives it its name. What is in it comes last, and so means that."""
        size = part.stat().st_size
        part.replace(self.place(shard))
        _write(self._about(shard), vars(content) | {"size": size})

    def contents(self, plan: Plan) -> dict[Shard, Content | None]:
        """What is in each shard; None if it isn't there, or isn't whole."""
        return {shard: self._content(shard) for shard in plan.shards}

    def _content(self, shard: Shard) -> Content | None:
        try:
            about = json.loads(self._about(shard).read_text())
            if self.place(shard).stat().st_size != about.pop("size"):
                return None
        except (FileNotFoundError, json.JSONDecodeError):  # after a power cut
            return None
        labels = {int(label): count for label, count in about.pop("labels").items()}
        return Content(**about, labels=Counter(labels))

    def _about(self, shard: Shard) -> Path:
        return self.work / f"{shard.file}.json"

    def finish(
        self, request: Request, plan: Plan, contents: dict[Shard, Content]
    ) -> dict[str, Any]:
        """Adds what TFDS wants to know, and gives the data set its final name.

        Returns:
          What `result` will give from now on.
        """
        splits = {}
        for name in plan.splits:
            parts = [content for shard, content in contents.items() if shard.split == name]
            labels = sum((part.labels for part in parts), Counter())
            splits[name] = {
                "shards": [part.examples for part in parts],
                "bytes": sum(part.bytes for part in parts),
                "classes": {_class(plan, label): labels[label] for label in sorted(labels)},
            }
            if not any(splits[name]["shards"]):
                raise UserError(f"not a single image of split {name!r} can be read: mend them")
        result = {
            "asked": request.asked(),
            "found": plan.found(),
            "splits": splits,
            "broken": [line for content in contents.values() for line in content.broken],
        }
        _write(self._shards / "prepared.json", result)
        highest = max(
            (label for content in contents.values() for label in content.labels), default=0
        )
        _write_metadata(self._shards, plan, splits, highest + 1)
        self._shards.replace(self.final)
        shutil.rmtree(self.work, ignore_errors=True)  # `result` may be at it, elsewhere
        return result


def _write_metadata(path: Path, plan: Plan, splits: dict[str, Any], labels: int) -> None:
    import tensorflow_datasets as tfds

    features = {
        "image": tfds.features.Image(shape=(None, None, plan.channels)),
        "file_name": tfds.features.Text(),
    }
    if plan.labelled:
        known = {"names": plan.classes} if plan.classes else {"num_classes": labels}
        features["label"] = tfds.features.ClassLabel(**known)
    tfds.folder_dataset.write_metadata(
        data_dir=path,
        features=features,
        split_infos=[
            tfds.core.SplitInfo(name, split["shards"], split["bytes"])
            for name, split in splits.items()
        ],
        description="Images prepared by jepa_jax.",
        check_data=False,  # would need TensorFlow
    )


def _class(plan: Plan, label: int) -> str:
    if label < 0:
        return "no label"
    return plan.classes[label] if plan.classes else str(label)


def _write(file: Path, content: dict[str, Any]) -> None:
    write_text(file, json.dumps(content, indent=2) + "\n")
