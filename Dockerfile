# Airflow with what the DAG adds to it. DAG, plugins and configuration are mounted, so that an edit needs no build.
FROM apache/airflow:3.3.2-python3.13
COPY requirements.txt /tmp/requirements.txt
# The file is complete: without --no-deps, pip could move what Airflow came with.
RUN pip install --no-cache-dir --no-deps --require-hashes --requirement /tmp/requirements.txt
# For `python -m penguins.registry` in a container; Airflow itself finds plugins without it.
ENV PYTHONPATH=/opt/airflow/plugins
