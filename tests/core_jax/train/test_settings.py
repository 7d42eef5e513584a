"""Settings from nested mappings: what is wrong is told at once, by the name a user types."""

import dataclasses
from typing import Literal

import jax
import ml_collections
import pytest

from core_jax.train import settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    """A group with a check of its own."""

    rate: float = 0.5
    sizes: tuple[int, ...] = (1, 2)

    def __post_init__(self):
        if self.rate > 1:
            raise ValueError(f"rate={self.rate}, expected at most 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    """All kinds of fields."""

    name: str = "a"
    kind: Literal["x", "y"] = "x"
    count: int = 3
    dense: bool | None = None
    inner: Inner = dataclasses.field(default_factory=Inner)


def read(values, impossible=lambda s: ()):
    return settings.read(
        Outer, values, choices={"name": ("a", "b")}, at_least={"count": 1}, impossible=impossible
    )


def test_values_take_their_declared_types():
    config = ml_collections.ConfigDict({"task": "any", "count": 4, "kind": "y"})
    config.inner = {"rate": 1, "sizes": [5]}
    found = read(config)
    assert found == Outer(count=4, kind="y", inner=Inner(rate=1.0, sizes=(5,)))
    assert isinstance(found.inner.rate, float)


def test_all_problems_stand_in_one_message():
    values = {"kind": "z", "cuont": 3, "count": True, "inner": {"sizes": ["a"], "rate": "high"}}
    with pytest.raises(settings.ConfigError) as error:
        read(values)
    for part in (
        "config.kind='z': expected one of x, y",
        "config.cuont=3: there is no such key; the nearest is config.count",
        "config.count=True: expected an integer",
        "config.inner.sizes[0]='a': expected an integer",
        "config.inner.rate='high': expected a number",
    ):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "c"}, "config.name='c': expected one of a, b"),
        ({"count": 0}, "config.count=0: expected at least 1"),
        ({"inner": {"rate": 2.0}}, "config.inner: rate=2.0, expected at most 1"),
        ({"inner": 3}, "config.inner=3: expected a group of values"),
    ],
)
def test_values_out_of_range(values, message):
    with pytest.raises(settings.ConfigError, match=message.replace("(", r"\(")):
        read(values)


def test_combinations_are_judged_when_all_else_is_right():
    with pytest.raises(settings.ConfigError, match="4 is even"):
        read({"count": 4}, lambda s: [f"{s.count} is even"])
    assert read({"count": 5}, lambda s: [] if s.count % 2 else ["even"]).count == 5


def test_parity_is_float32_and_full_products_from_then_on():
    assert settings.compute_dtype("bfloat16") == "bfloat16"
    before = jax.config.values["jax_default_matmul_precision"]
    try:
        assert settings.compute_dtype("parity") == "float32"
        # What is opened later names its own dtype, and is part of the same run.
        assert settings.compute_dtype("float32") == "float32"
        assert jax.config.values["jax_default_matmul_precision"] == "highest"
    finally:
        jax.config.update("jax_default_matmul_precision", before)
