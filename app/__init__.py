"""The service that serves predictions from the published model."""
