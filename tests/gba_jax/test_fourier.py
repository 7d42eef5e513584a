"""Amplitude functions against NumPy's full complex FFT in float64, on even, odd and one-pixel-wide maps."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gba_jax import fourier

SIZES = [(8, 8), (7, 9), (8, 7), (1, 4), (5, 1), (1, 1)]
KEY = jax.random.key(3)


def _maps(height, width, *, batch=3, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(0.0, 1.0, (batch, height, width, channels)).astype(np.float32)


def _fft(x):
    return np.fft.fft2(x.astype(np.float64), axes=(1, 2), norm="ortho")


def _ifft(f):
    back = np.fft.ifft2(f, axes=(1, 2), norm="ortho")
    np.testing.assert_allclose(back.imag, 0.0, atol=1e-9)
    return back.real


def _signed(n):
    return np.fft.fftfreq(n, 1.0 / n).round().astype(int)


def _recombine(amplitude, phase_of):
    f = _fft(phase_of)
    return _ifft(amplitude * np.where(np.abs(f) > 0, f / np.maximum(np.abs(f), 1e-300), 0.0))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_split_and_join_round_trip(height, width):
    x = _maps(height, width)
    amplitude, phase = fourier.amplitude_phase(x)
    full = _fft(x)[:, :, : width // 2 + 1]
    np.testing.assert_allclose(amplitude, np.abs(full), atol=1e-5)
    difference = np.exp(1j * np.asarray(phase)) - np.exp(1j * np.angle(full))
    np.testing.assert_allclose(np.abs(difference)[np.abs(full) > 1e-3], 0.0, atol=1e-3)
    np.testing.assert_allclose(fourier.join(amplitude, phase, width), x, atol=1e-5)


def test_join_names_the_width_that_does_not_fit():
    amplitude, phase = fourier.amplitude_phase(_maps(4, 6))
    with pytest.raises(ValueError, match="a map of width 8"):
        fourier.join(amplitude, phase, 8)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_statistics_are_those_of_the_full_spectrum_without_dc(height, width):
    x = _maps(height, width, channels=2)
    amplitude = np.abs(_fft(x)).reshape(3, -1, 2)[:, 1:]
    if not amplitude.size:
        amplitude = np.zeros((3, 1, 2))
    mean, deviation = fourier.amplitude_statistics(x)
    np.testing.assert_allclose(mean, amplitude.mean(1), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(deviation, amplitude.std(1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_restyle_with_strength_zero_returns_the_input(height, width):
    x = _maps(height, width)
    target = np.full((3, 3), 0.7, np.float32)
    same = fourier.restyle(x, target, target, np.zeros(3, np.float32))
    np.testing.assert_allclose(same, x, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 9), (8, 7)])
def test_restyle_keeps_phase_and_reaches_its_target(height, width):
    x = _maps(height, width)
    a = np.asarray(fourier.amplitude_statistics(x)[0])
    # A deviation well below the mean keeps every relu open.
    mean, deviation = a * 3.0, a * 0.3
    y = np.asarray(fourier.restyle(x, mean, deviation, np.ones(3, np.float32)))
    before, after = _fft(x), _fft(y)
    visible = (np.abs(before) > 1e-4) & (np.abs(after) > 1e-4)
    turn = np.angle(after[visible] * before[visible].conj())
    np.testing.assert_allclose(turn, 0.0, atol=1e-3)
    np.testing.assert_allclose(fourier.amplitude_statistics(y)[0], mean, rtol=1e-4)
    np.testing.assert_allclose(fourier.amplitude_statistics(y)[1], deviation, rtol=1e-3)
    np.testing.assert_allclose(after[:, 0, 0], before[:, 0, 0] * 3.0, rtol=1e-4)
    half = np.asarray(fourier.restyle(x, mean, deviation, np.full(3, 0.5, np.float32)))
    np.testing.assert_allclose(half, (x + y) / 2, atol=1e-5)
    # The mean of a channel grows by at most 4.
    bright = np.asarray(fourier.restyle(x, a * 50, deviation, np.ones(3, np.float32)))
    np.testing.assert_allclose(bright.mean((1, 2)), 4 * x.mean((1, 2)), rtol=1e-4)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_swaps_equal_the_full_spectrum_definition(height, width):
    x, other = _maps(height, width), _maps(height, width, seed=1)
    amplitude, reference = np.abs(_fft(x)), np.abs(_fft(other))
    np.testing.assert_allclose(
        fourier.amplitude_swap(x, other), _recombine(reference, x), atol=2e-5
    )
    for beta in (0.0, 0.3, 1.0):
        reach = int(np.floor(beta * min(height, width)))
        near = np.abs(_signed(height))[:, None] <= reach
        near = (near & (np.abs(_signed(width))[None] <= reach))[None, :, :, None]
        expected = _recombine(np.where(near, reference, amplitude), x)
        np.testing.assert_allclose(fourier.fda(x, other, beta), expected, atol=2e-5)
    np.testing.assert_allclose(
        fourier.fda(x, other[:1], 0.3), fourier.fda(x, np.repeat(other[:1], 3, 0), 0.3), atol=1e-6
    )


def test_fda_with_beta_zero_changes_the_mean_only():
    x, other = _maps(8, 6), _maps(8, 6, seed=1)
    change = np.asarray(fourier.fda(x, other, 0.0)) - x
    np.testing.assert_allclose(change - change.mean((1, 2), keepdims=True), 0.0, atol=1e-6)
    np.testing.assert_allclose((x + change).mean((1, 2)), other.mean((1, 2)), rtol=1e-5)


def test_own_amplitudes_change_nothing():
    x = _maps(7, 8)
    np.testing.assert_allclose(fourier.amplitude_swap(x, x), x, atol=1e-6)
    for alone in (fourier.apr, fourier.amplitude_mixup, fourier.aloft_e):
        np.testing.assert_allclose(alone(x[:1], key=KEY), x[:1], atol=1e-6)


@pytest.mark.parametrize("batch", [2, 3, 8])
def test_partners_are_others_and_everybody_is_one(batch):
    for seed in range(20):
        order = np.asarray(fourier.partners(batch, key=jax.random.key(seed)))
        assert sorted(order) == list(range(batch))
        assert (order != np.arange(batch)).all()


def test_apr_and_mixup_take_the_partners_amplitudes():
    x = _maps(6, 8)
    order = np.asarray(fourier.partners(3, key=KEY))
    amplitude = np.abs(_fft(x))
    np.testing.assert_allclose(fourier.apr(x, key=KEY), _recombine(amplitude[order], x), atol=2e-5)
    mixed = np.abs(_fft(np.asarray(fourier.amplitude_mixup(x, key=KEY))))
    who = np.asarray(fourier.partners(3, key=jax.random.split(KEY)[0]))
    share = (mixed - amplitude) / (amplitude[who] - amplitude)
    share = np.where(np.abs(amplitude[who] - amplitude) > 0.05, share, np.nan).reshape(3, -1)
    np.testing.assert_allclose(np.nanmin(share, 1), np.nanmax(share, 1), atol=1e-3)
    assert ((np.nanmean(share, 1) > 0) & (np.nanmean(share, 1) < 1)).all()


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 7), (12, 10)])
def test_aloft_changes_the_central_half_by_the_batch_deviation(height, width):
    base = _maps(height, width, batch=4)
    x = np.concatenate([base] * 2)  # every sample twice: the same amplitudes, other noise
    before, after = np.abs(_fft(x)), np.abs(_fft(np.asarray(fourier.aloft_e(x, key=KEY))))
    change = np.abs(after - before).max((0, 3))
    reach = int(height * 0.5**0.5) // 2, int(width * 0.5**0.5) // 2
    near = np.abs(_signed(height))[:, None] <= reach[0]
    near = near & (np.abs(_signed(width))[None] <= reach[1])
    np.testing.assert_allclose(change[~near], 0.0, atol=1e-5)
    assert (change[near] > 1e-3).all()
    noise = ((after - before) / before.std(0, keepdims=True))[:, near]
    open_relu = after[:, near] > 1e-4
    assert 0.8 < noise[open_relu].std() < 1.2
    assert abs(noise[open_relu].mean()) < 0.3


@pytest.mark.parametrize("kind", fourier.KINDS)
def test_augmentation_keeps_type_and_range_and_leaves_some_alone(kind):
    x = _maps(9, 8, batch=16)
    x[::2] *= 0.3
    run = lambda images, p: np.asarray(
        fourier.augment_amplitude(images, kind=kind, p=p, key=jax.random.key(5))
    )
    y = run(x, 0.5)
    same = (y == x).all((1, 2, 3))
    assert 2 <= same.sum() <= 14
    assert y.min() >= 0.0
    assert y.max() <= 1.0
    np.testing.assert_array_equal(run(x, 0.0), x)
    np.testing.assert_array_equal(y, run(x, 0.5))
    assert np.abs(run(x, 1.0) - x).max((1, 2, 3)).min() > 1e-3
    pixels = np.round(x * 255).astype(np.uint8)
    coarse = run(pixels, 1.0)
    assert coarse.dtype == np.uint8
    expected = run((pixels / 255.0).astype(np.float32), 1.0)
    np.testing.assert_allclose(coarse / 255.0, expected, atol=0.5 / 255 + 1e-5)


@pytest.mark.parametrize("shape", [(2, 4, 6, 3), (2, 5, 3, 3), (2, 1, 1, 4)])
def test_gradients_are_finite_also_without_amplitude(shape):
    other = jnp.asarray(_maps(*shape[1:3], batch=2, channels=shape[-1], seed=1))
    target = jnp.full((2, shape[-1]), 0.4)
    functions = {
        "phase": lambda x: sum(jnp.sum(part) for part in fourier.amplitude_phase(x)),
        "join": lambda x: fourier.join(*fourier.amplitude_phase(x), shape[2]),
        "swap": lambda x: fourier.amplitude_swap(x, other),
        "swapped into": lambda x: fourier.amplitude_swap(other, x),
        "apr": lambda x: fourier.apr(x, key=KEY),
        "mixup": lambda x: fourier.amplitude_mixup(x, key=KEY),
        "fda": lambda x: fourier.fda(x, other, 0.2),
        "aloft": lambda x: fourier.aloft_e(x, key=KEY),
        "statistics": lambda x: sum(jnp.sum(s) for s in fourier.amplitude_statistics(x)),
        "restyle": lambda x: fourier.restyle(x, target, target, jnp.ones(2)),
        "restyle by": lambda t: fourier.restyle(
            other, *fourier.amplitude_statistics(t), jnp.ones(2)
        ),
    }
    functions |= {
        f"augment {kind}": lambda x, kind=kind: fourier.augment_amplitude(
            x, kind=kind, p=1.0, key=KEY
        )
        for kind in fourier.KINDS
    }
    # One program for all of them: compiling is what takes the time.
    both = {
        name: jax.value_and_grad(lambda x, f=f: jnp.sum(f(x) ** 2)) for name, f in functions.items()
    }
    run = jax.jit(lambda x: {name: f(x) for name, f in both.items()})
    textured = jnp.asarray(_maps(*shape[1:3], batch=2, channels=shape[-1]))
    for x in (jnp.zeros(shape), jnp.full(shape, 0.5), textured):
        for name, (value, grad) in run(x).items():
            assert np.isfinite(value), name
            assert np.isfinite(grad).all(), name


def test_half_precision_maps_come_back_as_they_came():
    x = jnp.asarray(_maps(6, 6), jnp.bfloat16)
    y = fourier.fda(x, x[::-1], 0.2)
    assert y.dtype == jnp.bfloat16
    exact = fourier.fda(x.astype(jnp.float32), x[::-1].astype(jnp.float32), 0.2)
    np.testing.assert_allclose(y.astype(jnp.float32), exact, atol=1e-2)


def test_wrong_inputs_are_named():
    x = _maps(6, 8)
    with pytest.raises(ValueError, match=r"\(3, 8, 6, 3\).*expected \(3, 6, 8, 3\)"):
        fourier.fda(x, _maps(8, 6))
    with pytest.raises(ValueError, match="beta is 2"):
        fourier.fda(x, x, 2.0)
    with pytest.raises(ValueError, match=r"'fada'.*mixup, apr, fda, aloft_e"):
        fourier.augment_amplitude(x, kind="fada", key=KEY)
    with pytest.raises(ValueError, match=r"\(6, 8, 3\)"):
        fourier.amplitude_statistics(x[0])
    with pytest.raises(TypeError, match="int32"):
        fourier.apr(x.astype(np.int32), key=KEY)


def test_importing_fourier_loads_jax_only():
    code = (
        "import sys, jax, jaxtyping; before = set(sys.modules); import gba_jax.fourier; "
        "new = {m.split('.')[0] for m in set(sys.modules) - before}; "
        "print(sorted(new - {'gba_jax'} - set(sys.stdlib_module_names) - {'jax', 'jaxlib'}), "
        "[m for m in ('flax', 'core_jax', 'optax') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[] []", done.stdout + done.stderr
