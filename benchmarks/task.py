"""Run one task of the DAG in this process, without Airflow around it: `python -m benchmarks.task TASK FOLDER`.

The folder holds `params.json`. The tasks' XComs go into `xcom.json` there. The last line of the output is JSON: the
seconds, and the peak memory of the process.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import logging
import resource
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.servers import ROOT


class TaskInstance:
    """The part of Airflow's TaskInstance that the tasks use."""

    def __init__(self, task: str, xcom: dict[str, Any]) -> None:
        self.task, self.xcom = task, xcom

    def xcom_pull(self, task_ids: str) -> Any:
        return self.xcom[task_ids]

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcom[f"{self.task}.{key}"] = value


def main(task: str, folder: Path) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    spec = importlib.util.spec_from_file_location("proceso_modelo", ROOT / "dags" / "proceso_modelo.py")
    assert spec
    assert spec.loader
    dag = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(dag)
    xcom_file = folder / "xcom.json"
    xcom: dict[str, Any] = json.loads(xcom_file.read_text()) if xcom_file.exists() else {}
    events: dict[Any, Any] = {dag.MODEL: SimpleNamespace()}
    context = {
        "params": {name: param.value for name, param in dag.dag.params.items()}
        | json.loads((folder / "params.json").read_text()),
        "run_id": "bench",
        "ti": TaskInstance(task, xcom),
        "outlet_events": events,
    }
    callable_ = getattr(dag, task)
    wanted = inspect.signature(callable_).parameters
    started = time.monotonic()
    xcom[task] = callable_(**{name: context[name] for name in wanted})
    seconds = time.monotonic() - started
    xcom_file.write_text(json.dumps(xcom))
    print(json.dumps({"seconds": seconds, "peak_mb": _peak_mb()}))


def _peak_mb() -> float:
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would include the process it was forked from
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
