"""Rendered eyes, faces and camera frames with exact labels."""

from gaze_jax.render.domains import DOMAINS as DOMAINS
from gaze_jax.render.domains import Rendered as Rendered
from gaze_jax.render.domains import make as make
