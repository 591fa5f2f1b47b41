"""Train on the CSV of whatever schema is on the path, publish, and serve: `serve_own_table.py FOLDER PORT`."""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn

from app.main import create_app
from models import publish_evaluated
from penguins.data.cleaning import clean
from penguins.data.source import check_source, read_records
from penguins.schema import CSV_NAME
from penguins.training.pipeline import build_pipeline, fit, split
from support import empty_registry
from tables import table_of

folder, port = Path(sys.argv[1]), int(sys.argv[2])
registry = empty_registry(folder)
rows = table_of(read_records(check_source(folder / "dags" / CSV_NAME, test_size=0.2)))
tables = split(clean(rows), test_size=0.2, random_state=42)
model = build_pipeline(n_estimators=20, max_samples=1000, random_state=42, rows=tables[0].num_rows)
publish_evaluated(fit(model, tables[0]), tables, registry, min_accuracy=0.5)
uvicorn.run(create_app(registry=registry), port=port, log_level="warning")
