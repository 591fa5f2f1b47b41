"""Import once what every task would otherwise import itself. Airflow reads this file when a component starts.

Tasks are forked, by the LocalExecutor from the scheduler and by a Celery worker from itself, and inherit what is
imported there. Only libraries, no code of this project: a change to that must reach the next run, and a bug in it must
not keep the scheduler from starting.
"""

import importlib
import sys

__all__: list[str] = []  # Airflow would read other names as settings
LIBRARIES = (
    "airflow.providers.common.sql.hooks.sql",
    "joblib",
    "pandas",
    "pyarrow.csv",
    "pyarrow.dataset",
    "pyarrow.parquet",
    *(f"sklearn.{part}" for part in ("compose", "ensemble", "impute", "metrics", "model_selection", "preprocessing")),
)

if sys.argv[1:2] == ["scheduler"] or sys.argv[1:3] == ["celery", "worker"]:
    for library in LIBRARIES:
        importlib.import_module(library)
