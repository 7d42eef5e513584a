"""GBA: the generalization boosted adapter for open-vocabulary segmentation (arXiv 2409.08468)."""
