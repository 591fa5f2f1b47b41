"""The service's counters, and the metrics that Prometheus scrapes."""
