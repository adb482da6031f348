"""Files that can't be read: replaced by the next one, counted, and named once."""

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any

from jepa_jax.data.reading import BLAMELESS
from jepa_jax.data.sources import Example, Source
from jepa_jax.errors import UserError

IN_A_ROW = 100  # unreadable examples, if the run allows no more; then it's not the files
NAMED = 20  # of the broken files when the run stops


def read_sound(
    source: Source, index: int, view: Callable[[Example], Any], share: float = 0.0
) -> dict[str, Any]:
    """The view of an example, or else of the first after it that can be read.

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
    problem, most = None, min(max(IN_A_ROW, math.ceil(share * len(source))), len(source))
    for offset in range(most):
        used = (index + offset) % len(source)
        try:
            image = view(source[used])
        except BLAMELESS:
            raise
        except UserError as error:
            problem = problem or error
        else:
            return {"image": image, "index": used, "broken": index if offset else -1}
    raise UserError(f"{most} images in a row can't be used: {problem}")


Row = dict[str, Any]  # "step", "index", "problem"


class Broken:
    """The account of a run's unreadable examples.

    Args:
      share: of the source's examples that may be unreadable.
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
        self._found: dict[int, str] = {row["index"]: row["problem"] for row in known}
        self._new: dict[int, Row] = {}

    def __len__(self) -> int:
        """How many are known to all."""
        return len(self._found)

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
            self._account([list(self._new.values())])

    def settle(self) -> None:
        """With several processes, the same for what all of them met since the last time.

        Raises:
          UserError: as `note`, in all of them.
        """
        if self._gather is not None:
            self._account(self._gather(list(self._new.values())))

    def _account(self, found: Iterable[Iterable[Row]]) -> None:
        self._new = {}
        for row in itertools.chain.from_iterable(found):
            if row["index"] not in self._found:
                self._found[row["index"]] = row["problem"]
                self._record(row)
                self._say(f"{row['problem']}; the next image takes its place")
        if len(self._found) > self._share * len(self._source):
            names = "; ".join(list(self._found.values())[:NAMED])
            raise UserError(
                f"{len(self._found)} of {len(self._source):,} images can't be used, more than"
                f" data.broken_share={self._share:g} allows: {names}"
            )

    def _look(self, index: int, step: int) -> None:
        if index in self._found or index in self._new:
            return
        problem = f"image {index} could not be read, but can now"
        try:
            self._view(self._source[index])
        except BLAMELESS:
            raise
        except UserError as error:
            problem = str(error)
        self._new[index] = {"step": step, "index": index, "problem": problem}
