"""The form at /try, for people: made from the schema, it asks the service as any other client does."""
