"""From rows to a trained pipeline, on this machine or on a cluster."""
