"""Declares a table from a CSV file: `python -m penguins.table FILE --target COLUMN`. A first reader passes it by."""
