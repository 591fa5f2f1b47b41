"""The model's life cycle: verify, load, prove, swap; and keep the last good one whatever comes."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter

from app.errors import ModelNotReadyError
from penguins.inference import Model, ModelError, load_model
from penguins.registry import NoModelError, Registry, RegistryError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Served:
    """A proven model and the manifest it came with."""

    manifest: dict[str, Any]
    model: Model

    @property
    def version(self) -> str:
        return self.manifest["version"]


@dataclass(frozen=True)
class Refused:
    """A version that was not taken, and why."""

    version: str
    reason: str


class ModelServer:
    """Holds the serving model. `refresh` is called from one thread; readers take `served` once and keep to it."""

    def __init__(self, registry: Registry, *, poll_seconds: float, retry_seconds: float) -> None:
        self.registry = registry
        self.served: Served | None = None
        self.refused: Refused | None = None
        self.metrics = CollectorRegistry()
        self._loads = Counter("modelo_penguin_model_loads", "Versions that took over", registry=self.metrics)
        self._rejections = Counter(
            "modelo_penguin_model_rejections", "Versions that were refused", registry=self.metrics
        )
        self._not_ready = "the service is starting"
        self._poll_seconds = poll_seconds
        self._retry_seconds = retry_seconds
        self._retry_at = 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Look once, so that a model that is there serves from the first request on; then watch the pointer."""
        self.refresh()
        self._stop.clear()
        self._thread = threading.Thread(target=self._watch, name="model-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join(timeout=1)  # it may hang on a volume that does; a daemon, it ends with the process

    def require(self) -> Served:
        """Return what serves, or raise ModelNotReadyError with the reason why there is none."""
        if (served := self.served) is None:
            raise ModelNotReadyError(self._not_ready)
        return served

    def refresh(self) -> None:
        """Take what the pointer names if it is new and proves good. Never raises."""
        try:
            version = self.registry.current()
        except RegistryError as error:  # no pointer, or one that cannot be read: what serves, goes on
            self._not_ready = str(error)
            if not isinstance(error, NoModelError):
                self._refuse("current", str(error))
            version = None
        if version is not None and not self._is_known(version):
            self._take(version)
        if self.served is None and self.refused is not None:
            self._take_newest_good()

    def _is_known(self, version: str) -> bool:
        if self.served and self.served.version == version:
            self.refused = None
            return True
        return bool(self.refused and self.refused.version == version and time.monotonic() < self._retry_at)

    def _take(self, version: str) -> None:
        try:
            manifest, pickled = self.registry.read(version)
            served = Served(manifest, load_model(pickled, manifest))
        except (RegistryError, ModelError) as error:
            self._refuse(version, str(error))
        except Exception as error:  # a bad version must never end the watch
            self._refuse(version, repr(error))
        else:
            self.served, self.refused = served, None
            self._loads.inc()
            log.info("version %s serves, accuracy %.4f", version, manifest["metrics"]["accuracy"])

    def _take_newest_good(self) -> None:
        """Start from an older version where the current one is bad; `refused` goes on saying so."""
        refused = self.refused
        for version in self.registry.versions():
            if refused and version != refused.version:
                self._take(version)
                if self.served:
                    break
        self.refused = refused

    def _refuse(self, version: str, reason: str) -> None:
        if self.refused != (refused := Refused(version, reason)):
            log.error("version %s refused: %s", version, reason)
            self._rejections.inc()
        self.refused = refused
        self._not_ready = f"no model can be served: {reason}"
        self._retry_at = time.monotonic() + self._retry_seconds

    def _watch(self) -> None:
        while not self._stop.wait(self._poll_seconds):
            try:
                self.refresh()
            except Exception:
                log.exception("the look at the registry failed; the next one may not")
