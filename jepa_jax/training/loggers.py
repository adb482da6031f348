"""Where else a run's numbers and pictures go: TensorBoard, Weights & Biases, MLflow.

`metrics.jsonl` is always written; these come on top (`logging.to`), each an extra of the package.
They work in threads of their own: one that fails or hangs is told of and left out, and does not
stop or delay a run.
"""

import contextlib
import functools
import importlib.util
import io
import math
import os
import queue
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict
from jaxtyping import Float
from ml_collections import ConfigDict
from PIL import Image

from jepa_jax.errors import UserError
from jepa_jax.training.storage import is_bucket

PENDING = 1000  # calls that may wait for a slow one; what comes on top is dropped
LAST_WORDS = 60.0  # seconds for what still waits at the end of a run
MLFLOW_PLACE = "MLFLOW_TRACKING_URI"


class Logger(Protocol):
    """One of them. Any call may raise whatever it likes."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...

    def image(self, step: int, name: str, file: os.PathLike) -> None: ...

    def histogram(self, step: int, name: str, values: Float[np.ndarray, "n"]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in the run's folder: `tensorboard --logdir=runs`. Extra `tensorboard`."""

    def __init__(self, folder: epath.Path, config: ConfigDict, start: int):
        from tensorboardX import SummaryWriter

        self._make = functools.partial(SummaryWriter, str(folder / "tensorboard"))
        # What was written of later steps by a start before this one is hidden.
        self._writer = self._make(purge_step=start + 1 if start else None)
        self._last = start
        if not start:
            self._writer.add_text("config", f"```yaml\n{config}\n```", 0)

    def _at(self, step):
        if step < self._last:  # the run went back
            self._writer.close()
            self._writer = self._make(purge_step=step, filename_suffix=f".from_{step}")
        self._last = step
        return self._writer

    def scalars(self, step, values):
        for name, value in values.items():
            self._at(step).add_scalar(name, value, step)

    def image(self, step, name, file):
        self._at(step).add_image(name, np.asarray(_picture(file)), step, dataformats="HWC")

    def histogram(self, step, name, values):
        self._at(step).add_histogram(name, values, step)

    def close(self):
        self._writer.close()


class WandB:
    """A run of Weights & Biases, the same one after each stop. Extra `wandb`."""

    def __init__(self, folder: epath.Path, config: ConfigDict, start: int):
        import wandb

        self._wandb = wandb
        self._run = wandb.init(
            project=config.logging.project,
            name=folder.name,
            id=_kept(folder / "wandb_id", functools.partial(secrets.token_hex, 4)),
            resume="allow",
            dir=tempfile.mkdtemp() if is_bucket(folder) else str(folder),
            config=config.to_dict(),
        )
        # Its own count of steps never goes back, as a run may: it would drop what comes then.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step, values):
        self._run.log({**values, "step": step})

    def image(self, step, name, file):
        self._run.log({name: self._wandb.Image(_picture(file)), "step": step})

    def histogram(self, step, name, values):
        self._run.log({name: self._wandb.Histogram(values), "step": step})

    def close(self):
        self._run.finish()


class MLflow:
    """A run of MLflow, the same one after each stop. Extra `mlflow`.

    It lies where MLFLOW_TRACKING_URI says, or else in the run's folder, but not in a bucket.
    """

    def __init__(self, folder: epath.Path, config: ConfigDict, start: int):
        import mlflow

        uri = os.environ.get(MLFLOW_PLACE)
        own = os.path.abspath(folder)
        self._client = mlflow.MlflowClient(uri or f"sqlite:///{own}/mlflow.db")

        def create() -> str:
            found = self._client.get_experiment_by_name(config.logging.project)
            experiment = (
                found.experiment_id
                if found
                else self._client.create_experiment(
                    config.logging.project,
                    # Pictures too; MLflow would put them where the command was started.
                    artifact_location=None if uri else f"file://{own}/mlflow",
                )
            )
            run = self._client.create_run(experiment, run_name=folder.name)
            for key, value in flatten_dict(config.to_dict(), sep=".").items():
                self._client.log_param(run.info.run_id, key, value)
            return run.info.run_id

        self._run = _kept(folder / "mlflow_id", create)

    def scalars(self, step, values):
        for name, value in values.items():
            self._client.log_metric(self._run, name, value, step=step)

    def image(self, step, name, file):
        self._client.log_image(self._run, _picture(file), key=name, step=step)

    def histogram(self, step, name, values):
        """MLflow has no histograms: quantiles instead."""
        for share in (0.05, 0.5, 0.95):
            name_of = f"{name}_{round(100 * share)}"
            self._client.log_metric(
                self._run, name_of, float(np.quantile(values, share)), step=step
            )

    def close(self):
        self._client.set_terminated(self._run)


# name -> what makes it, and the package that it needs
LOGGERS: dict[str, tuple[Callable[..., Logger], str]] = {
    "tensorboard": (TensorBoard, "tensorboardX"),
    "wandb": (WandB, "wandb"),
    "mlflow": (MLflow, "mlflow"),
}


def logger_names(config: ConfigDict) -> list[str]:
    """What `logging.to` names."""
    return [name.strip() for name in config.logging.to.split(",") if name.strip()]


def check_loggers(names: Sequence[str]) -> None:
    """Raises UserError for those whose package isn't installed."""
    for name in names:
        if importlib.util.find_spec(LOGGERS[name][1]) is None:
            raise UserError(
                f"logging.to={name} needs the package {LOGGERS[name][1]}:"
                f" pip install 'jepa_jax[{name}]'"
            )


def check_place(names: Sequence[str], folder: epath.Path) -> None:
    """Raises UserError for MLflow without a place of its own for a run in a bucket."""
    if "mlflow" in names and is_bucket(folder) and not os.environ.get(MLFLOW_PLACE):
        raise UserError(f"logging.to=mlflow can't write to {folder}: set {MLFLOW_PLACE}")


class Loggers:
    """Several at once; a context, which waits at its end for what is under way.

    Args:
      names: of LOGGERS.
      start: the finished step from which the run goes on.
      say: is called with what went wrong.
      kinds: as LOGGERS.
    """

    def __init__(
        self,
        names: Sequence[str],
        config: ConfigDict,
        folder: os.PathLike,
        start: int,
        say: Callable[[str], None],
        kinds: Mapping[str, tuple[Callable[..., Logger], str]] = LOGGERS,
    ):
        self._say = say
        self._workers = [
            _Worker(name, lambda make=kinds[name][0]: make(epath.Path(folder), config, start), say)
            for name in names
        ]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for worker in self._workers:
            worker.close()

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Those of the values that are finite numbers."""
        numbers = {
            name: float(value)
            for name, value in values.items()
            if isinstance(value, int | float) and math.isfinite(value) and name != "step"
        }
        self._all("scalars", step, numbers)

    def image(self, step: int, name: str, file: os.PathLike) -> None:
        self._all("image", step, name, file)

    def histogram(self, step: int, name: str, values: Float[np.ndarray, "n"]) -> None:
        self._all("histogram", step, name, values)

    def _all(self, method: str, *arguments: Any) -> None:
        for worker in self._workers:
            worker.put(method, *arguments)


class _Worker:
    """A logger in a thread; the first error is told and is its last call."""

    def __init__(self, name: str, make: Callable[[], Logger], say: Callable[[str], None]):
        self._name, self._make, self._say = name, make, say
        self._calls: queue.Queue = queue.Queue(PENDING)
        self._failed = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"{name} logger", daemon=True)
        self._thread.start()

    def put(self, method: str, *arguments: Any) -> None:
        if self._failed.is_set():
            return
        try:
            self._calls.put_nowait((method, arguments))
        except queue.Full:
            self._fail("it is too slow")

    def close(self) -> None:
        self.put("close")
        self._thread.join(LAST_WORDS)
        if self._thread.is_alive() and not self._failed.is_set():
            self._fail(f"it did not end within {LAST_WORDS:g} seconds")

    def _work(self) -> None:
        with self._telling(), contextlib.closing(self._make()) as logger, self._telling():
            while not self._failed.is_set():
                method, arguments = self._calls.get()
                if method == "close":
                    return
                getattr(logger, method)(*arguments)

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:  # also SystemExit, which wandb raises
            self._fail(f"{type(error).__name__}: {error}".splitlines()[0])

    def _fail(self, reason: str) -> None:
        if not self._failed.is_set():
            self._failed.set()
            self._say(f"warning: {self._name} gets nothing any more ({reason}); the run goes on")


def _kept(file: epath.Path, make: Callable[[], str]) -> str:
    """What the file says, or, the first time, what is made and then kept there."""
    if file.exists():
        return file.read_text().strip()
    made = make()
    file.write_text(made)
    return made


def _picture(file: os.PathLike) -> Image.Image:
    """One that may lie in a bucket."""
    with Image.open(io.BytesIO(epath.Path(file).read_bytes())) as image:
        return image.convert("RGB")
