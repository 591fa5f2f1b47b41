"""What the DAG and the API share: the columns, the database, the training, the registry and the inference."""
