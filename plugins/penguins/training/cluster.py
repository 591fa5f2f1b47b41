"""The trees of the forest grown on a Dask cluster, if `TRAIN_CLUSTER` names one: `tcp://dask-scheduler:8786`."""

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
INSTEAD = f"or take {VARIABLE} away to train on this machine"
FITS = 3
SECONDS_TO_CONNECT = 10
SECONDS_FOR_A_WORKER = 15
# With other versions of these, trees come out differently or cannot be unpickled; of Python, a patch changes nothing.
SAME_EVERYWHERE = ("dask", "distributed", "joblib", "numpy", "scikit-learn", "scipy")


class ClusterError(RuntimeError):
    """A cluster that cannot be reached, has no workers or other libraries, or loses its workers."""


def fit_forest(forest: RandomForestClassifier, features: Any, target: Any) -> None:
    """Fit the forest, with its trees grown on the cluster that `TRAIN_CLUSTER` names; without it, in this process.

    Raises
    ------
    ClusterError
        Within half a minute, if there is no such cluster, or none any more. The loss of one worker is no error: others
        grow its trees again.
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
            # After a loss, what is left may have one thread alone. Joblib then grows the trees here, which is as good.
            if attempt == 1 and sum(client.nthreads().values()) == 1:
                raise ClusterError(
                    f"the Dask cluster at {address} has one thread in all. With so little, joblib would not use "
                    f"it, but grow the trees in the task: start another dask-worker, {INSTEAD}."
                )
            try:
                with joblib.parallel_config(backend="dask", client=client):
                    forest.fit(features, target)
                return
            # Dask does the work of a lost worker again, but now and then forgets what was just under way to the client.
            # The same seed grows the same trees.
            except (FutureCancelledError, KilledWorker, OSError) as error:
                lost = error
                log.warning(f"fit {attempt} of {FITS}: the cluster lost what it was doing: {error}")
    raise ClusterError(
        f"the Dask cluster at {address} lost workers in each of {FITS} fits, the last time with: {lost}. See why they "
        f"died (docker compose logs dask-scheduler dask-worker; often it is memory), {INSTEAD}."
    ) from lost


def _connect(address: str) -> Client:
    from distributed import Client

    class BroadcastingClient(Client):
        """Gives every worker the rows. Joblib would give them to one, and the fit would die with it."""

        def scatter(self, *data: Any, **options: Any) -> Any:
            return super().scatter(*data, **options | {"broadcast": True})

    try:
        # A client of Dask waits for ever on a port that takes its connection and then says nothing.
        asyncio.run(asyncio.wait_for(_identity(address), SECONDS_TO_CONNECT))
    except Exception as error:  # whoever listens there may say anything
        came = str(error) or f"nothing came within {SECONDS_TO_CONNECT} s"
        raise ClusterError(
            f"{VARIABLE} is {address!r}, and no Dask scheduler answers there: {came}. "
            f"Accepted is an address like tcp://dask-scheduler:8786. Start the cluster, {INSTEAD}."
        ) from error
    # Straight to the workers: the rows need not pass through the scheduler's memory as well.
    client = BroadcastingClient(address, timeout=SECONDS_TO_CONNECT, direct_to_workers=True, set_as_default=False)
    try:
        client.wait_for_workers(1, timeout=SECONDS_FOR_A_WORKER)
        _hold_versions_against_ours(client.get_versions(packages=SAME_EVERYWHERE))
    except TimeoutError as error:
        client.close()
        raise ClusterError(
            f"the Dask scheduler at {address} has no worker, and none came within {SECONDS_FOR_A_WORKER} s. "
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


def _hold_versions_against_ours(versions: Any) -> None:
    def named(node: dict[str, Any]) -> dict[str, str]:
        python = ".".join(node["host"]["python"].split(".")[:2])
        return {"python": python} | {name: node["packages"][name] or "none" for name in SAME_EVERYWHERE}

    ours = named(versions["client"])
    for who, node in {"scheduler": versions["scheduler"], **versions["workers"]}.items():
        theirs = named(node)
        if differ := [f"{name} {theirs[name]} instead of {ours[name]}" for name in ours if theirs[name] != ours[name]]:
            raise ClusterError(
                f"the cluster's {who} has {', '.join(differ)}. Accepted are the versions of this machine, or trees "
                "would differ: start scheduler and workers from the same image as the task."
            )
