"""Import once what each task would import for itself. Airflow reads this file when one of its components starts.

Tasks are forked, by the LocalExecutor from the scheduler and by a Celery worker from itself: what is imported there
already costs them no time. Libraries only, no code of this project: a change of that must reach the next run, and a
mistake in it must not keep the scheduler from starting.
"""

import importlib
import sys

__all__: list[str] = []  # Airflow would take other names for settings
LIBRARIES = (
    "pandas",
    "pyarrow.parquet",
    *(f"sklearn.{part}" for part in ("compose", "ensemble", "impute", "metrics", "model_selection", "preprocessing")),
)

if sys.argv[1:2] == ["scheduler"] or sys.argv[1:3] == ["celery", "worker"]:
    for library in LIBRARIES:
        importlib.import_module(library)
