"""The endless stream of pictures against its definition, and the shares of processes."""

import pytest

from core_jax.data import rng, stream


def test_the_order_is_its_definition():
    n, seed = 7, 3
    for g in range(3 * n):
        words = rng.philox_words(f"images:{seed}:{g // n}", n).tolist()
        expected = sorted(range(n), key=words.__getitem__)[g % n]
        assert stream.picture(seed, g, n) == expected


def test_a_pass_visits_every_picture_once_and_passes_differ():
    passes = [[stream.picture(0, e * 20 + j, 20) for j in range(20)] for e in range(3)]
    assert all(sorted(one) == list(range(20)) for one in passes)
    assert passes[0] != passes[1] != passes[2]
    assert [stream.picture(5, 1000 + j, 1) for j in range(3)] == [0, 0, 0]


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_shares_cut_every_step(processes):
    shares = [stream.Share(per_step=8, process=p, processes=processes) for p in range(processes)]
    for step in range(3):
        count = 8 // processes
        read = [s.position(step * count + i) for s in shares for i in range(count)]
        assert read == list(range(8 * step, 8 * step + 8))
