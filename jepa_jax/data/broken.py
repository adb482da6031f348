"""Files that can't be read: replaced by the next one, counted, and named once."""

from collections.abc import Callable
from typing import Any

from jepa_jax.data.sources import Example, Source
from jepa_jax.errors import UserError

IN_A_ROW = 100  # unreadable examples, after which something else than a file is wrong
NAMED = 20  # of the broken files when the run stops


def read_sound(source: Source, index: int, view: Callable[[Example], Any]) -> dict[str, Any]:
    """The view of an example, or else of the first after it that can be read.

    Returns:
      image: the view.
      index: the example that it is of.
      broken: the one that was asked for if it could not be read, or -1.

    Raises:
      UserError: if a hundred in a row can't be read.
    """
    problem = None
    for offset in range(min(IN_A_ROW, len(source))):
        used = (index + offset) % len(source)
        try:
            image = view(source[used])
        except UserError as error:
            problem = problem or error
        else:
            return {"image": image, "index": used, "broken": index if offset else -1}
    raise UserError(f"{min(IN_A_ROW, len(source))} images in a row can't be used: {problem}")


class Broken:
    """The account of a run's unreadable examples.

    Args:
      share: of the source's examples that may be unreadable.
      view: what is done with an example; it is repeated to know what went wrong.
      say: is called with a line for each of them, once.
    """

    def __init__(
        self,
        source: Source,
        share: float,
        view: Callable[[Example], Any],
        say: Callable[[str], None],
    ):
        self._source, self._share, self._view, self._say = source, share, view, say
        self._found: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._found)

    def note(self, batch: dict[str, Any]) -> None:
        """Counts and names those that were replaced in a batch.

        Raises:
          UserError: if they are more than the share that is allowed; with the list.
        """
        replaced = batch["broken"] >= 0
        pairs = zip(
            batch["broken"][replaced].tolist(), batch["index"][replaced].tolist(), strict=True
        )
        for wanted, used in pairs:
            for index in range(wanted, used if used > wanted else used + len(self._source)):
                self._name(index % len(self._source))
        if len(self._found) > self._share * len(self._source):
            names = "; ".join(list(self._found.values())[:NAMED])
            raise UserError(
                f"{len(self._found)} of {len(self._source):,} images can't be used, more than"
                f" data.broken_share={self._share:g} allows: {names}"
            )

    def _name(self, index: int) -> None:
        if index in self._found:
            return
        problem = f"image {index} could not be read, but can now"
        try:
            self._view(self._source[index])
        except UserError as error:
            problem = str(error)
        self._found[index] = problem
        self._say(f"{problem}; the next image takes its place")
