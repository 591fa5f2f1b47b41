"""From the CSV to the rows to train on: the check of the file, the database, and what changed since the last file."""
