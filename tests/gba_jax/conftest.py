"""Segmentation is tested with tiny arrays in large programs, whose compilation is most of the time."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def _quick_compile(quick_compile):
    """Every module of this folder."""
