"""What the service counts, and what Prometheus reads of it."""
