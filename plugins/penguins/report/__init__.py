"""The model report: one HTML page per version."""
