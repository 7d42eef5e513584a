"""The released equations of SDA and CCA as torch modules whose state dicts have the reference implementation's names.

Written from the equations, maps (B, E, h, w); what the JAX modules and the table of names are compared with.
"""

import torch
from torch import nn
from torch.nn import functional

STYLES = 64


def _away_from_zero(x):
    return torch.where(x.abs() < 1e-5, torch.full_like(x, 1e-5), x)


def _amplitude(f):
    return _away_from_zero(f.real**2 + f.imag**2).sqrt()


def _phase(f):
    return torch.atan2(f.imag, _away_from_zero(f.real))


def _channels(v):
    return v[..., None, None]


class StoredNorm(nn.Module):
    """A batch norm that is never trained: statistics and affine, applied apart."""

    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, width):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def normed(self, x):
        return (x - _channels(self.running_mean)) / _channels(self.running_var + 1e-5).sqrt()

    def affine(self, x):
        return x * _channels(self.weight) + _channels(self.bias)


class Style(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.register_buffer("proto_mean", torch.zeros(STYLES, width))
        self.register_buffer("proto_std", torch.zeros(STYLES, width))
        self.bn = StoredNorm(width)

    def forward(self, u, weights):
        f = torch.fft.fft2(self.bn.normed(u))
        amplitude = _channels(weights @ self.proto_std) * _amplitude(f)
        amplitude = amplitude + _channels(weights @ self.proto_mean)
        half = u.shape[-1] // 2 + 1
        spectrum = torch.polar(amplitude, _phase(f))[..., :half]
        return self.bn.affine(torch.fft.irfft2(spectrum, s=u.shape[2:]))


class Attention(nn.Module):
    def __init__(self, width, text_width):
        super().__init__()
        self.q_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.k_proj, self.v_proj = nn.Linear(text_width, width), nn.Linear(text_width, width)

    def forward(self, q, rows):
        scores = self.q_proj(q) @ self.k_proj(rows).T / q.shape[-1] ** 0.5
        return self.out_proj(scores.softmax(-1) @ self.v_proj(rows))


class Words(nn.Module):
    def __init__(self, width, text_width):
        super().__init__()
        self.layer_norm_q_1, self.layer_norm_k_1 = nn.LayerNorm(width), nn.LayerNorm(text_width)
        self.attn, self.bn = Attention(width, text_width), StoredNorm(width)

    def forward(self, u, rows):
        q = self.layer_norm_q_1(u.flatten(2).transpose(1, 2))
        on_map = lambda x: x.transpose(1, 2).reshape(u.shape)
        delta = on_map(self.attn(q, self.layer_norm_k_1(rows)))
        # PCNorm by its definition. The clamps of SDA, which move bins below 1e-5, are left out here.
        f, normed = torch.fft.fft2(delta), torch.fft.fft2(self.bn.normed(delta))
        delta = torch.fft.ifft2(torch.polar(normed.abs(), f.angle())).real
        return on_map(q) + self.bn.affine(delta)


class Adapter(nn.Module):
    """What both have in common; `sum_convs` and `refine` are used by the two."""

    def __init__(self, width):
        super().__init__()
        conv = lambda size: nn.Conv2d(width, width, size, padding=size // 2, groups=width)
        self.conv1, self.conv2, self.conv3 = conv(3), conv(5), conv(7)
        self.projector = nn.Conv2d(width, width, 1)
        self.prompt = nn.Parameter(torch.zeros(width))
        self.top_down_transform = nn.Parameter(torch.eye(width))

    def sum_convs(self, x):
        return self.conv1(x) + self.conv2(x) + self.conv3(x)

    def refine(self, y):
        z = functional.silu(self.projector(y)).flatten(2).transpose(1, 2)
        mask = functional.cosine_similarity(z, self.prompt[None, None], dim=-1).clamp(0, 1)
        added = (mask[..., None] * z) @ self.top_down_transform
        return y + added.transpose(1, 2).reshape(y.shape)


class Shallow(Adapter):
    def __init__(self, width):
        super().__init__(width)
        self.st = Style(width)

    def forward(self, x, weights):
        return self.refine(x + self.st(self.sum_convs(x), weights) / 3)


class Deep(Adapter):
    def __init__(self, width, text_width):
        super().__init__(width)
        self.ci = Words(width, text_width)

    def forward(self, x, rows):
        return self.refine(self.ci(self.sum_convs(x) / 3, rows))


class Backbone(nn.Module):
    """The adapters where a checkpoint has them, beside a tensor of CLIP and the host's void row."""

    def __init__(self, shallow, deep, text_width):
        super().__init__()
        parts = {"mona_st": Shallow(shallow), "mona_sem": Deep(deep, text_width)}
        self.backbone = nn.ModuleDict({**parts, "clip_model": nn.Linear(2, 2)})
        self.void_embedding = nn.Embedding(1, text_width)


def random_checkpoint(shallow, deep, text_width):
    """A model in which no tensor is at its initial 0, 1 or identity."""
    torch.manual_seed(0)
    model = Backbone(shallow, deep, text_width)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                value.normal_(0, 0.4)
                if name.endswith("running_var"):
                    value.abs_().add_(0.5)
    return model.eval()
