"""DRNet (arXiv 2208.04298) and CLIP-DFENet (arXiv 2502.20128v1): gaze from pictures of eyes and faces."""
