"""What prediction does with a user's pictures, for `gaze_jax.predict`: faces, angles, drawing, calibration."""
