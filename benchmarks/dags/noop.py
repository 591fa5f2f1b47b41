"""A chain of eight tasks that do nothing: Airflow's own overhead for a DAG of that length."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import DAG, chain


def nothing() -> None:
    pass


with DAG("noop", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC), catchup=False, max_active_runs=1):
    chain(*(PythonOperator(task_id=f"nothing_{number}", python_callable=nothing) for number in range(1, 9)))
