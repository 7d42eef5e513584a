"""`gba_jax.fourier`'s amplitude operations in torch.fft, for the benchmark: maps (B, E, H, W), float32.

The random choices are arguments, so that both sides can be given the same.
"""

from collections.abc import Callable

import torch

SMALLEST = 1e-6
Maps = torch.Tensor


def swap(x: Maps, other: Maps, where: torch.Tensor | None = None) -> Maps:
    """Amplitudes of `other`, everywhere or where told, with the phase of `x`."""
    spectrum = _spectrum(x)
    amplitude, new = spectrum.abs(), _spectrum(other).abs()
    new = new if where is None else torch.where(where, new, amplitude)
    return _with_amplitude(spectrum, amplitude, new, x)


def fda(x: Maps, other: Maps, beta: float = 0.05) -> Maps:
    """As `fourier.fda`."""
    height, width = x.shape[-2:]
    reach = int(beta * min(height, width))
    return swap(x, other, _low(height, width, reach, reach))


def mixup(x: Maps, order: torch.Tensor, share: torch.Tensor) -> Maps:
    """As `fourier.amplitude_mixup`, the share (B, 1, 1, 1) given."""
    spectrum = _spectrum(x)
    amplitude = spectrum.abs()
    new = amplitude + share * (amplitude[order] - amplitude)
    return _with_amplitude(spectrum, amplitude, new, x)


def aloft_e(x: Maps, noise: torch.Tensor) -> Maps:
    """As `fourier.aloft_e`, the normal noise (B, E, H, W // 2 + 1) given."""
    height, width = x.shape[-2:]
    spectrum = _spectrum(x)
    amplitude = spectrum.abs()
    spread = amplitude.detach().std(0, correction=0, keepdim=True)
    rows, columns = torch.arange(height), torch.arange(width // 2 + 1)
    mirrored = noise[..., torch.minimum(rows, height - rows), :]
    noise = torch.where((columns == 0) | (2 * columns == width), mirrored, noise)
    low = _low(height, width, int(height * 0.5**0.5) // 2, int(width * 0.5**0.5) // 2)
    new = torch.where(low, (amplitude + spread * noise).clamp(min=0), amplitude)
    return _with_amplitude(spectrum, amplitude, new, x)


def augmentations() -> dict[str, Callable[[Maps], Maps]]:
    """The benchmark's work by name, with fresh random choices at every call, as in `fourier`."""
    order = lambda x: torch.randperm(len(x))
    share = lambda x: torch.rand(len(x), 1, 1, 1)
    noise = lambda x: torch.randn(*x.shape[:-1], x.shape[-1] // 2 + 1)
    change = {
        "mixup": lambda x: mixup(x, order(x), share(x)),
        "apr": lambda x: swap(x, x[order(x)]),
        "fda": lambda x: fda(x, x[order(x)]),
        "aloft_e": lambda x: aloft_e(x, noise(x)),
    }

    def augment(kind: str) -> Callable[[Maps], Maps]:
        def call(x: Maps) -> Maps:
            chosen = torch.rand(len(x), 1, 1, 1) < 0.5
            return torch.where(chosen, change[kind](x).clamp(0, 1), x)

        return call

    return {
        "fda": lambda x: fda(x, x.flip(0)),
        "apr": change["apr"],
        "amplitude_mixup": change["mixup"],
        **{f"augment_amplitude({kind})": augment(kind) for kind in change},
    }


def _spectrum(x: Maps) -> torch.Tensor:
    return torch.fft.rfft2(x, norm="ortho")


def _with_amplitude(spectrum, old, new, like) -> Maps:
    ratio = new / old.clamp(min=SMALLEST)
    return torch.fft.irfft2(spectrum * ratio, s=like.shape[-2:], norm="ortho")


def _low(height: int, width: int, up: int, across: int) -> torch.Tensor:
    rows, columns = torch.arange(height), torch.arange(width // 2 + 1)
    return (torch.minimum(rows, height - rows) <= up)[:, None] & (columns <= across)[None]
