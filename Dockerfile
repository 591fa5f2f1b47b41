# Airflow plus the DAG's dependencies. DAG, plugins and configuration are mounted, so that an edit needs no rebuild.
FROM apache/airflow:3.3.2-python3.13
COPY requirements.txt /tmp/requirements.txt
# The file lists every dependency. Without --no-deps, pip could change versions that Airflow ships with.
RUN pip install --no-cache-dir --no-deps --require-hashes --requirement /tmp/requirements.txt
# For `python -m penguins.registry` in a container; Airflow itself finds plugins without it.
ENV PYTHONPATH=/opt/airflow/plugins
