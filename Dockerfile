# Airflow plus the DAG's dependencies. DAG, plugins and configuration are mounted, so that an edit needs no rebuild.
FROM apache/airflow:3.3.2-python3.13
COPY requirements.txt /tmp/requirements.txt
# What Airflow ships stays as it is: requirements.txt is compiled under airflow-constraints.txt, which names the same
# versions, and lists every dependency, so that pip need not look for any.
RUN pip install --no-cache-dir --no-deps --require-hashes --requirement /tmp/requirements.txt && pip check
# For `python -m penguins.registry` in a container; Airflow itself finds plugins without it.
ENV PYTHONPATH=/opt/airflow/plugins
