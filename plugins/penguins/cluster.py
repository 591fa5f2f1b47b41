"""The trees of the forest grown on a Dask cluster, if `TRAIN_CLUSTER` names one: `tcp://dask-scheduler:8786`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed import Client

VARIABLE = "TRAIN_CLUSTER"
SECONDS_TO_CONNECT = 10
SECONDS_FOR_A_WORKER = 15
# With other versions of these, trees come out differently or cannot be unpickled; of Python, a patch changes nothing.
SAME_EVERYWHERE = ("dask", "distributed", "joblib", "numpy", "scikit-learn", "scipy")


class ClusterError(RuntimeError):
    """A cluster that cannot be reached, has no workers or other libraries, or was lost on the way."""


@contextmanager
def trees_on_the_cluster() -> Iterator[bool]:
    """Let joblib spread its work over the cluster that `TRAIN_CLUSTER` names, and say so. Without it, change nothing.

    Raises
    ------
    ClusterError
        Within half a minute, if there is no such cluster. Later, if its scheduler or all of its workers are lost. The
        loss of one worker is none: others grow its trees again.
    """
    address = os.environ.get(VARIABLE)
    if not address:
        yield False
        return
    import joblib
    from distributed import KilledWorker
    from distributed.client import FutureCancelledError

    with _connect(address) as client:
        try:
            with joblib.parallel_config(backend="dask", client=client):
                yield True
        except (FutureCancelledError, KilledWorker, OSError) as error:
            raise ClusterError(
                f"the Dask cluster at {address} was lost on the way ({str(error).splitlines()[0]}). One worker may die "
                "while others live. See why it died (docker compose logs dask-scheduler dask-worker; often it is "
                "memory), and run it again."
            ) from error


def _connect(address: str) -> Client:
    from distributed import Client

    class BroadcastingClient(Client):
        """Gives every worker the rows. Joblib would give them to one, and the fit would die with it."""

        def scatter(self, *data: Any, **options: Any) -> Any:
            return super().scatter(*data, **options | {"broadcast": True})

    instead = f"or take {VARIABLE} away to train on this machine"
    try:
        # A client of Dask waits for ever on a port that takes its connection and then says nothing.
        asyncio.run(asyncio.wait_for(_identity(address), SECONDS_TO_CONNECT))
    except Exception as error:  # whoever listens there may say anything
        came = str(error) or f"nothing came within {SECONDS_TO_CONNECT} s"
        raise ClusterError(
            f"{VARIABLE} is {address!r}, and no Dask scheduler answers there: {came}. "
            f"Accepted is an address like tcp://dask-scheduler:8786. Start the cluster, {instead}."
        ) from error
    # Straight to the workers: the rows need not pass through the scheduler's memory as well.
    client = BroadcastingClient(address, timeout=SECONDS_TO_CONNECT, direct_to_workers=True, set_as_default=False)
    try:
        client.wait_for_workers(1, timeout=SECONDS_FOR_A_WORKER)
        _hold_versions_against_ours(client.get_versions(packages=SAME_EVERYWHERE))
        if sum(client.nthreads().values()) == 1:
            raise ClusterError(
                f"the Dask cluster at {address} has one thread in all. With so little, joblib would not use it, but "
                f"grow the trees in the task: start another dask-worker, {instead}."
            )
    except TimeoutError as error:
        client.close()
        raise ClusterError(
            f"the Dask scheduler at {address} has no worker, and none came within {SECONDS_FOR_A_WORKER} s. "
            f"Start a dask-worker, {instead}."
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
