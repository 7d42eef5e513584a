"""Rendered eyes, faces and camera frames with exact labels."""
