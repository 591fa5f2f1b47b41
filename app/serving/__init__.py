"""The model that serves: its life cycle, its answers, and who observes them."""
