"""What a run may be asked for, as the trigger form shows it: defaults, bounds as JSON schema has them, and words."""

from __future__ import annotations

from typing import Any

from penguins.schema import CSV_NAME, MIN_ACCURACY

PARAMS: dict[str, dict[str, Any]] = {
    "csv_path": {
        "default": CSV_NAME,
        "type": "string",
        "minLength": 1,
        "title": "CSV file",
        "description": "Path of the raw data on the worker, relative to the DAG's folder or absolute: in dags/, "
        "models/incoming/ or a folder that DATA_FOLDERS names.",
        "section": "Data",
    },
    "drop_foreign_tables": {
        "default": False,
        "type": "boolean",
        "title": "Drop foreign tables",
        "description": "Also drop what this DAG did not create: tables, views, sequences, routines, events, triggers.",
        "section": "Data",
    },
    "test_size": {
        "default": 0.2,
        "type": "number",
        "minimum": 0.05,
        "maximum": 0.5,
        "title": "Test size",
        "description": "Fraction of the rows held out for validation.",
        "section": "Training",
    },
    "random_state": {
        "default": 42,
        "type": "integer",
        "minimum": 0,
        "maximum": 2**32 - 1,
        "title": "Random state",
        "description": "Seed of the split and of the forest. The same data and seed give the same model.",
        "section": "Training",
    },
    "n_estimators": {
        "default": 100,
        "type": "integer",
        "minimum": 1,
        "maximum": 2000,
        "title": "Trees",
        "description": "Number of trees in the forest.",
        "section": "Training",
    },
    "max_samples": {
        "default": 100_000,
        "type": "integer",
        "minimum": 10,
        "title": "Rows per tree",
        "description": "Maximum number of rows for each tree. It has no effect on smaller tables.",
        "section": "Training",
    },
    "min_accuracy": {
        "default": MIN_ACCURACY,
        "type": "number",
        "minimum": 0,
        "maximum": 1,
        "title": "Minimum accuracy",
        "description": "Below this accuracy the run fails and nothing is published. The accuracy is cross-validated, "
        "or on large tables out-of-bag or held-out.",
        "section": "Gate",
    },
    "max_accuracy_drop": {
        "default": 0.02,
        "type": "number",
        "minimum": 0,
        "maximum": 1,
        "title": "Maximum drop in accuracy",
        "description": "The run fails if, on rows that neither model was trained on, the new model's accuracy is "
        "lower than the serving model's by more than this, and by more than chance explains.",
        "section": "Gate",
    },
    "min_rows_share": {
        "default": 0.5,
        "type": "number",
        "minimum": 0,
        "maximum": 1,
        "title": "Minimum share of rows",
        "description": "The run fails if the file has less than this share of the rows in the serving version's file.",
        "section": "Gate",
    },
    "ignore_untrusted_serving": {
        "default": False,
        "type": "boolean",
        "title": "Ignore an untrusted serving version",
        "description": "Go on without a comparison if what serves was damaged, changed, or signed with a lost key. "
        "Otherwise the run fails.",
        "section": "Gate",
    },
    "activate": {
        "default": True,
        "type": "boolean",
        "title": "Activate",
        "description": "Make the published version serve. Otherwise it waits until `registry activate` does.",
        "section": "Release",
    },
}
