"""Does Airflow's user airflow still have the tutorial's password? Exit code 0 if so.

Read straight from the database, as heartbeat.py does: Airflow has no command for this.
"""

import os
import sys

import psycopg2
from werkzeug.security import check_password_hash

url = os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("postgresql+psycopg2:", "postgresql:")
with psycopg2.connect(url, connect_timeout=5) as connection, connection.cursor() as cursor:
    cursor.execute("SELECT password FROM ab_user WHERE username = 'airflow'")
    row = cursor.fetchone()
    sys.exit(0 if row and check_password_hash(row[0], "airflow") else 1)
