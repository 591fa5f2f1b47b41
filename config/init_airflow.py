"""What airflow-init does in Airflow: its database, the user, the connection, the DAG.

In one process, because each `airflow` command on its own takes seconds to start. It is safe to run at every start: what
exists stays as it is.
"""

import os

import psycopg2
from airflow.cli.cli_parser import get_parser
from exposure import TUTORIAL
from werkzeug.security import check_password_hash


def airflow(*arguments: str) -> None:
    """Run one of Airflow's commands. SystemExit if it fails."""
    command = get_parser().parse_args(arguments)
    command.func(command)


def value_of(query: str) -> str | None:
    """Return what a query of Airflow's database finds: it has no command for these questions."""
    url = os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("postgresql+psycopg2:", "postgresql:")
    with psycopg2.connect(url, connect_timeout=5) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        row = cursor.fetchone()
        return row[0] if row else None


def main() -> None:
    wanted = os.environ["AIRFLOW_PASSWORD"]
    airflow("db", "migrate")
    airflow(
        *("users", "create", "--username", "airflow", "--password", wanted or TUTORIAL, "--role", "Admin"),
        *("--firstname", "Air", "--lastname", "Flow", "--email", "airflow@example.com"),
    )
    # The user may be from before, and still have the tutorial's password. One that somebody chose stays.
    found = value_of("SELECT password FROM ab_user WHERE username = 'airflow'")
    if wanted and found and check_password_hash(found, TUTORIAL):
        airflow("users", "reset-password", "--username", "airflow", "--password", wanted)
    if not value_of("SELECT conn_id FROM connection WHERE conn_id = 'mysql_default'"):
        airflow(
            *("connections", "add", "mysql_default", "--conn-type", "mysql", "--conn-host", "mysql"),
            *("--conn-port", "3306", "--conn-schema", os.environ["MYSQL_DATABASE"]),
            *("--conn-login", os.environ["MYSQL_USER"], "--conn-password", os.environ["MYSQL_PASSWORD"]),
        )
    # So that the DAG is listed at once, not only after the first scan of the folder.
    airflow("dags", "reserialize")


if __name__ == "__main__":
    main()
