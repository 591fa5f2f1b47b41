"""The service that predicts from the published model."""
