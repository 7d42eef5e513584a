"""How networks are judged, for `gaze_jax.evaluate`."""
