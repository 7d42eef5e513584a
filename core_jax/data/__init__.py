"""Files and records: atomic writing, digests, pictures, counter-based random numbers, ArrayRecord shards.

Import the module that is needed, for example `from core_jax.data import files`: worker processes that only decode
pictures then never load the record library.
"""

__all__ = ["files", "images", "records", "rng"]
