"""The benchmark's other side does the same work: torch's amplitudes and PCNorm by FFT equal ours; rows add up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from core_jax import clip
from gba_jax import fourier
from gba_jax.adapters import pcnorm
from gba_jax.backbones import Backbone
from gba_jax.config import Config
from gba_jax.hosts.cost import CostConfig
from launch.benchmarks import gba, gba_hosts, page, timing, torch_fourier

KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(size=(4, 9, 8, 3)).astype(np.float32)


def _equal(ours, theirs):
    np.testing.assert_allclose(ours, theirs.movedim(1, -1).numpy(), atol=1e-5)


def test_torch_does_the_same_work(images):
    x, order = torch.tensor(images).movedim(-1, 1), fourier.partners(4, key=KEY)
    order = torch.tensor(np.asarray(order))
    _equal(fourier.apr(images, key=KEY), torch_fourier.swap(x, x[order]))
    _equal(fourier.fda(images, images[::-1], 0.2), torch_fourier.fda(x, x.flip(0), 0.2))
    who, how = jax.random.split(KEY)
    order = torch.tensor(np.asarray(fourier.partners(4, key=who)))
    share = torch.tensor(np.asarray(jax.random.uniform(how, (4, 1, 1, 1))))
    _equal(fourier.amplitude_mixup(images, key=KEY), torch_fourier.mixup(x, order, share))
    noise = torch.tensor(np.asarray(jax.random.normal(KEY, (4, 9, 5, 3)))).movedim(-1, 1)
    _equal(fourier.aloft_e(images, key=KEY), torch_fourier.aloft_e(x, noise))


def test_the_definition_of_pcnorm_is_its_closed_form(images):
    mean, scale = jnp.full((1, 1, 1, 3), 0.2), jnp.full((1, 1, 1, 3), 0.7)
    expected = gba.pcnorm_by_fft(images, mean, scale)
    np.testing.assert_allclose(pcnorm.pcnorm(images, mean, scale), expected, atol=1e-5)


def test_every_operation_gets_a_row_of_both_sides(capsys):
    rows = timing.Rows("title")
    gba.amplitude_rows(rows, (2, 8, 8, 3), repeats=1)
    gba.pcnorm_rows(rows, (1, 4, 4, 3), repeats=1)
    assert len(rows.rows) == 2 * (3 + len(fourier.KINDS)) + 2
    assert all(row["ours"] > 0 and row["ratio"] == row["other"] / row["ours"] for row in rows.rows)
    assert "augment_amplitude(aloft_e), 2 x 8 px, gradient" in capsys.readouterr().out


def test_torch_is_optional(monkeypatch, capsys):
    monkeypatch.setattr(gba.importlib.util, "find_spec", lambda name: None)
    rows = timing.Rows("title")
    gba.amplitude_rows(rows, (2, 8, 8, 3), repeats=1)
    assert all(row["other"] is None for row in rows.rows)
    assert "torch is not installed" in capsys.readouterr().out


@pytest.mark.slow
def test_a_host_is_measured_with_and_without_adapters(monkeypatch):
    monkeypatch.setattr(gba_hosts, "INFERENCE", {"both": gba_hosts.INFERENCE["both"]})
    monkeypatch.setattr(gba_hosts, "TRAINING", {"CCA": gba_hosts.TRAINING["CCA"]})
    vision = clip.VisionConfig(
        image_size=32, patch_size=8, width=16, layers=3, heads=2, mlp_width=16
    )
    text = clip.TextConfig(vocab_size=99, width=16, layers=1, heads=2, mlp_width=16)
    config = clip.ClipConfig(vision=vision, text=text, projection_dim=8)
    cost = CostConfig(
        width=8,
        heads=2,
        layers=1,
        window=4,
        guide=8,
        lateral=(8, 8),
        features=(8, 8),
        guides=(4, 4),
        most_classes=8,
        vocabulary=0,
    )
    host = gba_hosts.Host(
        name="toy",
        config=Config(image_size=32, batch_size=2, cost=cost),
        backbone=Backbone(config=config),
        clip_params=jax.jit(lambda key: clip.init(config, key=key))(KEY),
        words=5,
    )
    rows = timing.Rows("title")
    gba_hosts.host_rows(rows, host, repeats=1)
    assert [row["work"] for row in rows.rows] == [
        "infer toy, 32 px, batch 2: host",
        "infer toy, 32 px, batch 2: host, + both",
        "train toy, 32 px, batch 2: host",
        "train toy, 32 px, batch 2: host, + CCA",
    ]
    assert [row["ratio"] is None for row in rows.rows] == [True, False, True, False]


def test_turns_report_the_shortest_of_each():
    calls = []
    times = timing.in_turns([lambda: calls.append("a"), lambda: calls.append("b")], repeats=2)
    assert calls == ["a", "b"] * 3
    assert len(times) == 2
    assert min(times) >= 0


def test_rounds_keep_the_time_of_every_turn():
    calls = []
    times = timing.rounds(
        [lambda: calls.append("a"), lambda: calls.append("b")], repeats=2, shortest_s=0.001
    )
    # A turn repeats its call; which side's turn it is changes four times.
    assert len(calls) > 4
    assert [one for one, next_ in zip(calls, [*calls[1:], ""]) if one != next_] == ["a", "b"] * 2
    assert [len(column) for column in times] == [2, 2]


def test_rounds_give_medians_and_the_spread_of_their_ratios(capsys):
    rows = timing.Rows("title")
    rows.add_rounds("work", [1.0, 2.0, 4.0], [2.0, 6.0, 6.0])
    rows.add_rounds("alone", [1.0, 2.0, 4.0])
    both, alone = rows.rows
    assert (both["ours"], both["other"], both["ratio"], both["spread"]) == (2, 6, 3, [1.5, 3])
    assert (alone["ours"], alone["other"]) == (2, None)
    assert "3.00x (1.50 to 3.00)" in capsys.readouterr().out
    assert "| 3.00x (1.50 to 3.00) |" in page.table(rows.rows)
