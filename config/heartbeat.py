"""Health check: has this container's job of the given type sent a heartbeat within the last 30 seconds?

`airflow jobs check` asks the same, but importing Airflow takes seconds of CPU each time.
"""

import os
import socket
import sys

import psycopg2

QUERY = """
SELECT count(*) FROM job
WHERE job_type = %s AND hostname = %s AND state = 'running' AND latest_heartbeat > now() - interval '30 seconds'
"""

url = os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].replace("postgresql+psycopg2:", "postgresql:")
with psycopg2.connect(url, connect_timeout=5) as connection, connection.cursor() as cursor:
    cursor.execute(QUERY, (sys.argv[1], socket.getfqdn()))
    sys.exit(0 if cursor.fetchone()[0] else 1)
