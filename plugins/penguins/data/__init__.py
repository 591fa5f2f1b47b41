"""From the CSV to the rows to train on: the CSV check, the database, and what changed since the last file."""
