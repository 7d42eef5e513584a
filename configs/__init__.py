"""One file per experiment, each with `get_config()`; they import nothing but ml_collections."""
