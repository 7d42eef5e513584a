"""Files, record shards, pictures, counter-based random numbers, and the order of an endless stream.

The record library itself is loaded when a shard is opened, so these modules are cheap to import.
"""

from core_jax.data import files, images, records, rng, stream

__all__ = ["files", "images", "records", "rng", "stream"]
