"""GBA's parts against what they replace, and what the adapters cost a host.

- Amplitude augmentation of 32 pictures of 224 px, forward and gradient, against the same operations in torch.fft (left out
  where torch is not installed).
- PCNorm in closed form against its definition by FFT, both in JAX, at the sizes of feature maps.
- Inference and training step of a segmentation host without adapters, with SDA, with CCA and with both. In these rows
  "ours" is the plain host and "other" the one with adapters, so the ratio is what they cost. In training, SDA either stops
  the gradient behind its tap or lets it pass through the frozen tower, which a host without SDA never enters backwards.

The adapters are small beside the host. With `adapters.sda_flow=stop` no gradient runs through the part of the tower that lies
behind SDA; with `through`, which configs/gba_world.py trains with, the gradient of the frozen tower is added, which costs about
as much again. The rows have noise of their own: one adapter alone cannot cost more than both, nor less than nothing.

--hosts=embedded,convnext_b adds a ConvNeXt-B at 512 px; --hosts=none measures no host.
"""

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from gba_jax import fourier
from gba_jax.adapters import pcnorm
from launch.benchmarks import gba_hosts, timing

_HOSTS = flags.DEFINE_list("hosts", ["embedded"], "gba: embedded, convnext_b, none")

PICTURES = (32, 224, 224, 3)
# The deep maps of ConvNeXt-L at 1,024 px and of ViT-B/16 at 384 px.
MAPS = ((1, 32, 32, 1536), (16, 24, 24, 768))


def run() -> list[dict[str, Any]]:
    """Measure and print all rows."""
    rows = timing.Rows(
        "amplitudes: JAX, torch; pcnorm: closed form, FFT; hosts: without, with adapters"
    )
    amplitude_rows(rows, PICTURES)
    for shape in MAPS:
        pcnorm_rows(rows, shape)
    for name in _HOSTS.value:
        if name != "none":
            gba_hosts.host_rows(rows, gba_hosts.HOSTS[name]())
    return rows.rows


def amplitude_rows(rows: timing.Rows, shape: tuple[int, ...], *, repeats: int = 3) -> None:
    """Every amplitude augmentation, forward and gradient with respect to the pictures, against torch."""
    images = jax.random.uniform(jax.random.key(0), shape)
    theirs = _torch_augmentations(np.asarray(images))
    if not theirs:
        print("  torch is not installed: its side of the rows is left out", flush=True)
    # The key is an argument: the draws of a constant one would be made while compiling.
    key = jax.random.key(1)
    for work, ours in _augmentations().items():
        forward = jax.jit(ours)
        gradient = jax.jit(jax.grad(lambda x, key, ours=ours: jnp.sum(ours(x, key) ** 2)))
        other = theirs.get(work, (None, None))
        for name, call, reference in zip(("forward", "gradient"), (forward, gradient), other):
            seconds = timing.seconds(functools.partial(call, images, key), repeats=repeats)
            against = reference and timing.seconds(reference, repeats=repeats)
            rows.add(f"{work}, {shape[0]} x {shape[1]} px, {name}", seconds, against)


def _augmentations() -> dict[str, Callable[[jax.Array, jax.Array], jax.Array]]:
    augment = lambda kind: lambda x, key: fourier.augment_amplitude(x, kind=kind, key=key)
    return {
        "fda": lambda x, key: fourier.fda(x, x[::-1]),
        "apr": lambda x, key: fourier.apr(x, key=key),
        "amplitude_mixup": lambda x, key: fourier.amplitude_mixup(x, key=key),
        **{f"augment_amplitude({kind})": augment(kind) for kind in fourier.KINDS},
    }


def _torch_augmentations(images: np.ndarray) -> dict[str, tuple[Callable, Callable]]:
    """(forward, gradient) of the same work in torch, whose layout is (B, 3, H, W); {} without torch."""
    if not importlib.util.find_spec("torch"):
        return {}
    import torch

    from launch.benchmarks import torch_fourier

    x = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))

    def pair(work):
        learned = x.clone().requires_grad_(True)

        def forward():
            with torch.no_grad():
                work(x)

        def gradient():
            learned.grad = None
            work(learned).square().sum().backward()

        return forward, gradient

    return {name: pair(work) for name, work in torch_fourier.augmentations().items()}


def pcnorm_rows(rows: timing.Rows, shape: tuple[int, ...], *, repeats: int = 5) -> None:
    """PCNorm of one map in closed form against its definition."""
    x = jax.random.normal(jax.random.key(0), shape)
    mean, scale = jnp.full((1, 1, 1, shape[-1]), 0.1), jnp.full((1, 1, 1, shape[-1]), 0.8)
    for name in ("forward", "gradient"):
        times = []
        for norm in (pcnorm.pcnorm, pcnorm_by_fft):
            total = lambda x, mean, scale, norm=norm: jnp.sum(norm(x, mean, scale) ** 2)
            call = jax.jit(norm if name == "forward" else jax.grad(total))
            times.append(timing.seconds(lambda: call(x, mean, scale), repeats=repeats))  # noqa: B023
        rows.add(f"pcnorm, {' x '.join(map(str, shape))}, {name}", *times)


def pcnorm_by_fft(x: jax.Array, mean: jax.Array, scale: jax.Array) -> jax.Array:
    """The amplitude of (x - mean) / scale with the phase of x: what `pcnorm` is defined as."""
    transform = lambda y: jnp.fft.rfft2(y, axes=(1, 2))
    amplitude, phase = jnp.abs(transform((x - mean) / scale)), jnp.angle(transform(x))
    spectrum = jax.lax.complex(amplitude * jnp.cos(phase), amplitude * jnp.sin(phase))
    return jnp.fft.irfft2(spectrum, s=x.shape[1:3], axes=(1, 2))
