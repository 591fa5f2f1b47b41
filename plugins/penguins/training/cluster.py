"""Grow the forest's trees on a Dask cluster, if `TRAIN_CLUSTER` names one: `tcp://dask-scheduler:8786`."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed import Client
    from sklearn.ensemble import RandomForestClassifier

log = logging.getLogger(__name__)

VARIABLE = "TRAIN_CLUSTER"
INSTEAD = f"or unset {VARIABLE} to train on this machine"
FITS = 3
SECONDS_TO_CONNECT = 10
SECONDS_FOR_A_WORKER = 15
# With other versions of these, trees differ or cannot be unpickled. Python's patch version does not matter.
SAME_EVERYWHERE = ("dask", "distributed", "joblib", "numpy", "scikit-learn", "scipy")


class ClusterError(RuntimeError):
    """The cluster cannot be reached, has no workers or other libraries, or lost its workers."""


def fit_forest(forest: RandomForestClassifier, features: Any, target: Any) -> None:
    """Fit the forest on the cluster that `TRAIN_CLUSTER` names; without it, in this process.

    Raises
    ------
    ClusterError
        Within half a minute, if the cluster does not exist or is gone. Losing one worker is no error: others grow its
        trees again.
    """
    address = os.environ.get(VARIABLE)
    if not address:
        forest.fit(features, target)
        return
    import joblib
    from distributed import KilledWorker
    from distributed.client import FutureCancelledError

    for attempt in range(1, FITS + 1):
        with _connect(address) as client:
            # After a loss, a single thread may be left. Then joblib grows the trees here, which is just as good.
            if attempt == 1 and sum(client.nthreads().values()) == 1:
                raise ClusterError(
                    f"the Dask cluster at {address} has only one thread. With so few, joblib would not use "
                    f"it, but grow the trees in the task: start another dask-worker, {INSTEAD}."
                )
            try:
                with joblib.parallel_config(backend="dask", client=client):
                    forest.fit(features, target)
                return
            # Dask repeats the work of a lost worker, but now and then loses a result on its way to the client. A new
            # fit with the same seed grows the same trees.
            except (FutureCancelledError, KilledWorker, OSError) as error:
                lost = error
                log.warning(f"fit {attempt} of {FITS}: the cluster lost work in progress: {error}")
    raise ClusterError(
        f"the Dask cluster at {address} lost workers in each of {FITS} fits, the last time with: {lost}. Find out why "
        f"they died (docker compose logs dask-scheduler dask-worker; often it is memory), {INSTEAD}."
    ) from lost


def _connect(address: str) -> Client:
    from distributed import Client

    class BroadcastingClient(Client):
        """Sends the rows to every worker. Joblib would send them to one, and the fit would die with it."""

        def scatter(self, *data: Any, **options: Any) -> Any:
            return super().scatter(*data, **options | {"broadcast": True})

    try:
        # A Dask client waits forever on a port that accepts the connection and then stays silent.
        asyncio.run(asyncio.wait_for(_identity(address), SECONDS_TO_CONNECT))
    except Exception as error:  # whatever listens there may answer anything
        reason = str(error) or f"no answer within {SECONDS_TO_CONNECT} s"
        raise ClusterError(
            f"{VARIABLE} is {address!r}, but no Dask scheduler answers there: {reason}. "
            f"It must be an address like tcp://dask-scheduler:8786. Start the cluster, {INSTEAD}."
        ) from error
    # Directly to the workers, so that the rows do not pass through the scheduler's memory as well.
    client = BroadcastingClient(address, timeout=SECONDS_TO_CONNECT, direct_to_workers=True, set_as_default=False)
    try:
        client.wait_for_workers(1, timeout=SECONDS_FOR_A_WORKER)
        _check_versions(client.get_versions(packages=SAME_EVERYWHERE))
    except TimeoutError as error:
        client.close()
        raise ClusterError(
            f"the Dask scheduler at {address} has no worker, and none joined within {SECONDS_FOR_A_WORKER} s. "
            f"Start a dask-worker, {INSTEAD}."
        ) from error
    except BaseException:
        client.close()
        raise
    return client


async def _identity(address: str) -> dict[str, Any]:
    from distributed import rpc

    async with rpc(address) as scheduler:
        return await scheduler.identity()


def _check_versions(versions: Any) -> None:
    def versions_of(node: dict[str, Any]) -> dict[str, str]:
        python = ".".join(node["host"]["python"].split(".")[:2])
        return {"python": python} | {name: node["packages"][name] or "none" for name in SAME_EVERYWHERE}

    ours = versions_of(versions["client"])
    for who, node in {"scheduler": versions["scheduler"], **versions["workers"]}.items():
        theirs = versions_of(node)
        if wrong := [f"{name} {theirs[name]} instead of {ours[name]}" for name in ours if theirs[name] != ours[name]]:
            raise ClusterError(
                f"the cluster's {who} has {', '.join(wrong)}. Versions must match this machine's, or the trees would "
                "differ: start scheduler and workers from the same image as the task."
            )
