"""Files that can't be read: replaced by the next one, counted, and named once."""

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

from jepa_jax.data.protocol import distinct
from jepa_jax.data.reading import BLAMELESS
from jepa_jax.data.sources import Example, Source
from jepa_jax.errors import UserError

IN_A_ROW = 100  # unreadable examples, if the run allows no more; then it's not the files
NAMED = 20  # of the broken files when the run stops


def read_sound(
    source: Source, index: int, view: Callable[[Example], Any], share: float = 0.0
) -> dict[str, Any]:
    """The view of an example, or else of the first after it that can be read.

    A mixture repeats images: one that can't be used is tried once, however often it comes in a row.

    Args:
      share: of the source's examples that may be unreadable.

    Returns:
      image: the view.
      index: the example that it is of.
      broken: the one that was asked for if it could not be read, or -1.

    Raises:
      UserError: if a hundred in a row can't be read, and more than the share; if no more files may
        be open.
      StorageError: if storage fails.
    """
    problems, tried = {}, None
    most = min(max(IN_A_ROW, math.ceil(share * len(source))), len(source))
    for offset in range(len(source)):
        used = (index + offset) % len(source)
        try:
            example = source[used]
            if example.name == tried:
                continue
            tried = example.name
            image = view(example)
        except BLAMELESS:
            raise
        except UserError as error:
            problems.setdefault(str(error))
            if len(problems) == most:
                break
        else:
            return {"image": image, "index": used, "broken": index if offset else -1}
    raise UserError(f"{len(problems)} images in a row can't be used: {next(iter(problems))}")


Row = dict[str, Any]  # "step", "index", "problem"


class Broken:
    """The account of a run's unreadable images. One that a mixture repeats is one.

    Args:
      share: of the source's images that may be unreadable.
      view: what is done with an example; it is repeated to know what went wrong.
      say: is called with a line for each of them, once.
      known: those that this run found before it was stopped, as `record` got them.
      record: is called with each new one.
      gather: of several processes: gives all of them the list of what each has.
    """

    def __init__(
        self,
        source: Source,
        share: float,
        view: Callable[[Example], Any],
        say: Callable[[str], None],
        known: Iterable[dict[str, Any]] = (),
        record: Callable[[Row], None] = lambda row: None,
        gather: Callable[[list[Row]], list[list[Row]]] | None = None,
    ):
        self._source, self._share, self._view = source, share, view
        self._say, self._record, self._gather = say, record, gather
        known = list(known)
        self._problems = {row["problem"]: None for row in known}  # in order, each once
        self._seen: set[int | str] = {row["index"] for row in known}  # and names, where known
        self._new: list[Row] = []

    def __len__(self) -> int:
        """How many are known to all."""
        return len(self._problems)

    def note(self, batch: dict[str, Any], step: int) -> None:
        """Counts and names those that were replaced in the batch of a step.

        Raises:
          UserError: if they are more than the share that is allowed; with the list.
        """
        replaced = batch["broken"] >= 0
        pairs = zip(
            batch["broken"][replaced].tolist(), batch["index"][replaced].tolist(), strict=True
        )
        for wanted, used in pairs:
            for index in range(wanted, used if used > wanted else used + len(self._source)):
                self._look(index % len(self._source), step)

        if self._gather is None:
            self._account([self._new])

    def settle(self) -> None:
        """With several processes, the same for what all of them met since the last time.

        Raises:
          UserError: as `note`, in all of them.
        """
        if self._gather is not None:
            self._account(self._gather(self._new))

    def _account(self, found: Iterable[Iterable[Row]]) -> None:
        self._new = []
        for row in itertools.chain.from_iterable(found):
            self._seen.add(row["index"])
            if row["problem"] not in self._problems:
                self._problems[row["problem"]] = None
                self._record(row)
                self._say(f"{row['problem']}; the next image takes its place")
        images = distinct(self._source)
        if len(self) > self._share * images:
            names = "; ".join(list(self._problems)[:NAMED])
            raise UserError(
                f"{len(self)} of {images:,} images can't be used, more than"
                f" data.broken_share={self._share:g} allows: {names}"
            )

    def _look(self, index: int, step: int) -> None:
        if index in self._seen:
            return
        self._seen.add(index)
        try:
            example = self._source[index]
            if example.name in self._seen:
                return
            self._seen.add(example.name)
            self._view(example)
            problem = f"{example.name} could not be read, but can now"
        except BLAMELESS:
            raise
        except UserError as error:
            problem = str(error)
        self._new.append({"step": step, "index": index, "problem": problem})
