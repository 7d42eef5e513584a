"""Files and records: atomic writing, digests, pictures, counter-based random numbers, ArrayRecord shards.

The record library itself is loaded when a shard is opened, so these modules are cheap to import.
"""

from core_jax.data import files, images, records, rng

__all__ = ["files", "images", "records", "rng"]
