"""The model's life cycle: verify, load, prove, swap. Whatever happens, the last good model keeps serving."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

import anyio

from app.errors import ModelNotReadyError
from penguins.compatibility import ModelError
from penguins.inference import Prediction, Predictor, Record
from penguins.registry import BeingPublishedError, NoModelError, Pointer, Registry, RegistryError, is_held_back

log = logging.getLogger(__name__)

SECONDS_FOR_A_LOOK = 5.0  # a volume that takes longer is said not to answer


@dataclass(frozen=True, eq=False)
class Served:
    """A proven model and its manifest. `fallback` is the reason why the pipeline itself serves, or None."""

    manifest: dict[str, Any]
    model: Predictor
    fallback: str | None

    @property
    def version(self) -> str:
        return self.manifest["version"]

    def predict(self, records: Sequence[Record], *, batch: bool = True) -> Predicted:
        return Predicted(self, records, self.model.predict(records), batch)


class Predicted(NamedTuple):
    """What a version predicted for records, in their order. `batch` is false for a request of a single record."""

    served: Served
    records: Sequence[Record]
    predictions: Sequence[Prediction]
    batch: bool = True


class Loader(Protocol):
    """What opens a version's pickle and proves it. It may prepare for that while no model serves."""

    def load(self, pickled: bytes, manifest: dict[str, Any]) -> tuple[Predictor, str | None]:
        """Return the model, and why it is the slow one, if it is. ModelError if it cannot be used."""

    def warm_up(self) -> None: ...

    def cool_down(self) -> None: ...


@dataclass(frozen=True)
class Refused:
    """A version that was refused, and why."""

    version: str
    reason: str


class ModelServer:
    """Holds the serving model. One thread calls `refresh`. A request reads `served` once and sticks to it."""

    def __init__(self, registry: Registry, loader: Loader, *, poll_seconds: float, retry_seconds: float) -> None:
        self.registry = registry
        self._loader = loader
        self.served: Served | None = None
        self._previous: Served | None = None
        self.refused: Refused | None = None
        self.loads = self.rejections = 0  # since the process started
        self._logged: set[Refused] = set()
        self._pointer: Pointer | None = None
        self.seen = 0.0  # the Unix time of the last look at the registry that found all well
        self._problem: str | None = None
        self._reading_since: float | None = None
        # One batch at a time: two would only take turns for the same lock, and single requests wait for both.
        self.batches = anyio.CapacityLimiter(1)
        self.reads = anyio.CapacityLimiter(1)  # of the registry's files, for requests: each may have some MiB
        self._not_ready = "the service is starting"
        self._poll_seconds = poll_seconds
        self._retry_seconds = retry_seconds
        self._retry_at = self._retry_older_at = 0.0
        self._looked, self._stop = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Watch the pointer. Wait for the first look, so that an existing model serves the first request."""
        self._looked.clear()
        self._stop.clear()
        self._thread = threading.Thread(target=self._watch, name="model-watch", daemon=True)
        self._thread.start()
        while not (self._looked.wait(0.1) or self._does_not_answer()):
            pass
        if self.served is None:
            self._loader.warm_up()

    def stop(self) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join(timeout=1)  # it may be waiting for a dead volume; as a daemon, it ends with the process
        self._loader.cool_down()

    def require(self) -> Served:
        """Return the serving model. ModelNotReadyError, with the reason, if there is none."""
        if (served := self.served) is None:
            raise ModelNotReadyError(self.problem or self._not_ready)
        return served

    def refresh(self) -> None:
        """Swap in the version that the pointer names, if it is new and good. Never raises; a volume may let it wait."""
        try:
            self._look()
        except Exception:
            log.exception("checking the registry failed; trying again")
        self._reading_since = None
        self._looked.set()

    @property
    def problem(self) -> str | None:
        """What is wrong with the registry, although a model may serve."""
        if self._does_not_answer():
            return f"{self.registry.root} does not answer: looking at it takes more than {SECONDS_FOR_A_LOOK:g} s"
        return self._problem

    def _does_not_answer(self) -> bool:
        since = self._reading_since
        return since is not None and time.monotonic() - since > SECONDS_FOR_A_LOOK

    def _look(self) -> None:
        self._reading_since = time.monotonic()
        version = problem = None
        try:
            pointer, problem = self.registry.pointer(seen=self._pointer)
            self._pointer, version = pointer, pointer.current
        except RegistryError as error:  # no pointer, or one that cannot be trusted: the serving model stays
            self._not_ready = str(error)
            if not isinstance(error, NoModelError | BeingPublishedError):
                self._refuse("current", str(error))
            if self.served or self.refused:
                problem = str(error)
        if version is not None and not self._is_known(version, problem):
            if self.refused is None or self.refused.version != version:  # else the reason is still the one to give
                now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
                self._not_ready = f"version {version} was published, and has been loading since {now}: ask again"
            self._swap_in(version)
        if problem and version and not (self.refused and self.refused.version == version):
            self._refuse("current", problem)  # its copy counts
        if self.served is None and self.refused is not None and time.monotonic() >= self._retry_older_at:
            self._swap_in_newest_good()
            self._retry_older_at = time.monotonic() + self._retry_seconds
        self._problem = problem
        if problem is None:
            self.seen = time.time()

    def _is_known(self, version: str, problem: str | None) -> bool:
        if self.served and self.served.version == version:
            if problem is None:
                self.refused = None
            return True
        return bool(self.refused and self.refused.version == version and time.monotonic() < self._retry_at)

    def _swap_in(self, version: str) -> None:
        try:
            self._reading_since = time.monotonic()
            manifest, pickled = self.registry.read(version)
            self._reading_since = self._problem = None  # compiling takes seconds, and the volume is well
            model, fallback = self._previously_served(manifest) or self._loader.load(pickled, manifest)
            served = Served(manifest, model, fallback)
        except (RegistryError, ModelError) as error:
            self._refuse(version, str(error))
        except Exception as error:  # a bad version must never end the look
            self._refuse(version, repr(error))
        else:
            self._previous, self.served, self.refused = self.served, served, None
            self._logged.clear()
            self.loads += 1
            log.info("now serving version %s, accuracy %.4f", version, manifest["metrics"]["accuracy"])
            if served.fallback:
                log.warning("predicting with the pipeline itself, which is slow: %s", served.fallback)

    def _previously_served(self, manifest: dict[str, Any]) -> tuple[Predictor, str | None] | None:
        """Return the previous model if the manifest is its own: a rollback must be fast."""
        if (before := self._previous) is None or before.manifest != manifest:
            return None
        return before.model, before.fallback

    def _swap_in_newest_good(self) -> None:
        """Serve the newest good version while the current one is bad. `refused` keeps naming the bad one."""
        refused = self.refused
        try:
            versions = self.registry.versions()
        except RegistryError:  # as the pointer's error says already
            versions = []
        for version in versions:
            if refused and version != refused.version and not is_held_back(self.registry, version):
                self._swap_in(version)
                if self.served:
                    break
        self.refused = refused

    def _refuse(self, version: str, reason: str) -> None:
        self.refused = Refused(version, reason)
        if self.refused not in self._logged:  # log it once, however often it is retried
            self._logged.add(self.refused)
            log.error("version %s refused: %s", version, reason)
            self.rejections += 1
        self._not_ready = f"no model can be served: {reason}"
        self._retry_at = time.monotonic() + self._retry_seconds

    def _watch(self) -> None:
        self.refresh()
        while not self._stop.wait(self._poll_seconds):
            self.refresh()
