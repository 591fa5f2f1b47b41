"""The journal of predictions, and what turned out to be true. Only with `API_JOURNAL_URL`."""
