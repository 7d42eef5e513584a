"""Hosts: segmentation models that take a vocabulary, and adapters where they have taps."""
