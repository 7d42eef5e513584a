"""CLIP in torch under OpenAI's tensor names, restated: its ResNet and text tower run, its ViT has names and shapes."""

import torch
from torch import nn

from core_jax.clip import VisionConfig


class Bottleneck(nn.Module):
    def __init__(self, inside: int, width: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inside, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.pool, self.downsample = nn.AvgPool2d(stride), None
        if stride > 1 or inside != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(inside, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x):
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu()
        y = self.bn3(self.conv3(self.pool(y)))
        return (y + (x if self.downsample is None else self.downsample(self.pool(x)))).relu()


class AttentionPool(nn.Module):
    def __init__(self, c, projection_dim: int):
        super().__init__()
        self.heads, width = c.heads, c.channels
        self.positional_embedding = nn.Parameter(torch.randn((c.image_size // 32) ** 2 + 1, width))
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))
        self.c_proj = nn.Linear(width, projection_dim)

    def forward(self, x):
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(1, keepdim=True), x], 1) + self.positional_embedding
        split = lambda y: y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        query, key, value = split(self.q_proj(x)), split(self.k_proj(x)), split(self.v_proj(x))
        weights = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
        return self.c_proj((weights @ value).transpose(1, 2).flatten(2)[:, 0])


class ResNet(nn.Module):
    def __init__(self, c, projection_dim: int):
        super().__init__()
        half = c.width // 2
        self.conv1 = nn.Conv2d(3, half, 3, stride=2, padding=1, bias=False)
        self.conv2 = nn.Conv2d(half, half, 3, padding=1, bias=False)
        self.conv3 = nn.Conv2d(half, c.width, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(half), nn.BatchNorm2d(half)
        self.bn3 = nn.BatchNorm2d(c.width)
        inside = c.width
        for stage, depth in enumerate(c.depths):
            width, blocks = c.width * 2**stage, []
            for i in range(depth):
                blocks.append(Bottleneck(inside, width, 2 if stage and not i else 1))
                inside = 4 * width
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.attnpool = AttentionPool(c, projection_dim)

    def map(self, x):
        for conv, bn in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            x = bn(conv(x)).relu()
        x = nn.functional.avg_pool2d(x, 2)
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


class ResidualBlock(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.c_fc, self.mlp.c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        mask = torch.full((len(x), len(x)), -torch.inf).triu(1)
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, attn_mask=mask)[0]
        hidden = self.mlp.c_fc(self.ln_2(x))
        return x + self.mlp.c_proj(hidden * (1.702 * hidden).sigmoid())


def transformer(width: int, layers: int, heads: int) -> nn.Module:
    made = nn.Module()
    made.resblocks = nn.ModuleList([ResidualBlock(width, heads) for _ in range(layers)])
    return made


class ViT(nn.Module):
    """Names and shapes only: what it computes is tested against transformers."""

    def __init__(self, c, projection_dim: int):
        super().__init__()
        self.class_embedding = nn.Parameter(torch.randn(c.width))
        self.positional_embedding = nn.Parameter(torch.randn(c.tokens, c.width))
        self.proj = nn.Parameter(torch.randn(c.width, projection_dim))
        self.conv1 = nn.Conv2d(3, c.width, c.patch_size, c.patch_size, bias=False)
        self.ln_pre, self.ln_post = nn.LayerNorm(c.width), nn.LayerNorm(c.width)
        self.transformer = transformer(c.width, c.layers, c.heads)


class Reference(nn.Module):
    def __init__(self, c):
        super().__init__()
        t = c.text
        kind = ViT if isinstance(c.vision, VisionConfig) else ResNet
        self.visual = kind(c.vision, c.projection_dim)
        self.transformer = transformer(t.width, t.layers, t.heads)
        self.token_embedding = nn.Embedding(t.vocab_size, t.width)
        self.positional_embedding = nn.Parameter(torch.randn(t.context_length, t.width))
        self.ln_final = nn.LayerNorm(t.width)
        self.text_projection = nn.Parameter(torch.randn(t.width, c.projection_dim))
        self.logit_scale = nn.Parameter(torch.tensor(1.0))

    def text(self, ids):
        x = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        x = x.transpose(0, 1)
        for block in self.transformer.resblocks:
            x = block(x)
        x = self.ln_final(x).transpose(0, 1)
        return x[torch.arange(len(x)), ids.argmax(-1)] @ self.text_projection
