"""The gaze networks, by name in `registry`."""
