"""The model that serves: its life cycle, its compiled form, and the shortcut for valid requests."""
