"""FC-CLIP's trained part in torch, read from tensors under its own names: the reference of the Flax modules.

Maps are (B, E, h, w) here. Everything is written from the description of the method around torch's own attention, grid
sampling and norms.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

PIXELS, QUERIES = "sem_seg_head.pixel_decoder", "sem_seg_head.predictor"


class Reference:
    """The forward pass on named tensors."""

    def __init__(self, tensors, *, heads, points, groups):
        self.t = {name: torch.tensor(value) for name, value in tensors.items()}
        self.heads, self.points, self.groups = heads, points, groups

    def linear(self, name, x):
        return F.linear(x, self.t[f"{name}.weight"], self.t[f"{name}.bias"])

    def norm(self, name, x):
        return F.layer_norm(x, x.shape[-1:], self.t[f"{name}.weight"], self.t[f"{name}.bias"], 1e-5)

    def group_norm(self, name, x):
        weight, bias = self.t[f"{name}.weight"], self.t[f"{name}.bias"]
        return F.group_norm(x, self.groups, weight, bias, 1e-5)

    def conv(self, name, x, padding=0):
        return F.conv2d(x, self.t[f"{name}.weight"], self.t.get(f"{name}.bias"), padding=padding)

    def mlp(self, name, x, count=3):
        for i in range(count):
            x = self.linear(f"{name}.layers.{i}", x)
            x = x.relu() if i < count - 1 else x
        return x

    def feed_forward(self, name, norm, x):
        hidden = self.linear(f"{name}.linear1", x).relu()
        return self.norm(f"{name}.{norm}", x + self.linear(f"{name}.linear2", hidden))

    def attention(self, name, kind, query, key, value, blocked=None):
        """Post-norm residual attention is left to the caller; `blocked` is (B, Q, S)."""
        module = nn.MultiheadAttention(query.shape[-1], self.heads, batch_first=True)
        start = f"{name}.{kind}."
        own = {k.removeprefix(start): v for k, v in self.t.items() if k.startswith(start)}
        module.load_state_dict(own)
        if blocked is not None:
            blocked = blocked.repeat_interleave(self.heads, dim=0)
        return module(query, key, value, attn_mask=blocked, need_weights=False)[0]

    def deformable(self, name, query, memory, sizes):
        batch, length, width = memory.shape
        depth = width // self.heads
        shape = (batch, length, self.heads, len(sizes), self.points)
        offsets = self.linear(f"{name}.sampling_offsets", query).view(*shape, 2)
        weights = self.linear(f"{name}.attention_weights", query).view(
            batch, length, self.heads, -1
        )
        weights = weights.softmax(-1).view(shape)
        values = self.linear(f"{name}.value_proj", memory).view(batch, length, self.heads, depth)
        own = torch.cat([_centres(h, w) for h, w in sizes])[None, :, None, None]
        total, start = 0, 0
        for i, (h, w) in enumerate(sizes):
            level = values[:, start : start + h * w].permute(0, 2, 3, 1)
            start += h * w
            places = own + offsets[:, :, :, i] / torch.tensor([w, h])
            grid = (2 * places - 1).transpose(1, 2).flatten(0, 1)
            level = level.reshape(batch * self.heads, depth, h, w)
            found = F.grid_sample(level, grid, align_corners=False).view(
                batch, self.heads, depth, length, self.points
            )
            total = total + torch.einsum("bmdnp,bnmp->bnmd", found, weights[:, :, :, i])
        return self.linear(f"{name}.output_proj", total.reshape(batch, length, width))

    def pixel_decoder(self, maps, layers):
        names = ("res5", "res4", "res3")
        projected = []
        for i, name in enumerate(names):
            start = f"{PIXELS}.input_proj.{i}"
            projected.append(self.group_norm(f"{start}.1", self.conv(f"{start}.0", maps[name])))
        sizes = [tuple(x.shape[2:]) for x in projected]
        level = self.t[f"{PIXELS}.transformer.level_embed"]
        x = torch.cat([_tokens(y) for y in projected], 1)
        position = torch.cat(
            [sine(h, w, x.shape[-1]).flatten(0, 1) + level[i] for i, (h, w) in enumerate(sizes)]
        )
        for i in range(layers):
            name = f"{PIXELS}.transformer.encoder.layers.{i}"
            found = self.deformable(f"{name}.self_attn", x + position, x, sizes)
            x = self.feed_forward(name, "norm2", self.norm(f"{name}.norm1", x + found))
        parts = x.split([h * w for h, w in sizes], dim=1)
        levels = [
            part.transpose(1, 2).unflatten(2, size) for part, size in zip(parts, sizes, strict=True)
        ]
        fine = self.conv(f"{PIXELS}.adapter_1", maps["res2"])
        fine = self.group_norm(f"{PIXELS}.adapter_1.norm", fine)
        fine = fine + _resize(levels[-1], fine.shape[2:])
        fine = self.conv(f"{PIXELS}.layer_1", fine, padding=1)
        fine = self.group_norm(f"{PIXELS}.layer_1.norm", fine).relu()
        return levels, self.conv(f"{PIXELS}.mask_features", fine)

    def predict(self, x, features, rows, counts):
        """`rows` holds the words of all classes, `counts` how many each class has; void is appended."""
        o = self.norm(f"{QUERIES}.decoder_norm", x)
        masks = torch.einsum("bqe,behw->bqhw", self.mlp(f"{QUERIES}.mask_embed", o), features)
        inside = (masks > 0).float()
        inside = inside / (inside.sum((2, 3), keepdim=True) + 1e-8)
        pooled = torch.einsum("behw,bqhw->bqe", features, inside)
        pooled = self.norm(f"{QUERIES}._mask_pooling_proj.0", pooled)
        pooled = self.linear(f"{QUERIES}._mask_pooling_proj.1", pooled)
        word = F.normalize(self.mlp(f"{QUERIES}.class_embed", pooled + o), dim=-1)
        scale = self.t[f"{QUERIES}.logit_scale"].exp().clamp(max=100)
        void = F.normalize(self.t["void_embedding.weight"], dim=-1)
        logits = scale * word @ torch.cat([rows, void]).T
        best = [part.max(-1).values for part in logits.split([*counts, 1], dim=-1)]
        return torch.stack(best, -1), masks

    def decoder(self, levels, features, rows, counts, layers):
        level = self.t[f"{QUERIES}.level_embed.weight"]
        memory = [_tokens(x) + level[i] for i, x in enumerate(levels)]
        where = [sine(*x.shape[2:], x.shape[1]).flatten(0, 1) for x in levels]
        x = self.t[f"{QUERIES}.query_feat.weight"].expand(features.shape[0], -1, -1)
        position = self.t[f"{QUERIES}.query_embed.weight"]
        outputs = [self.predict(x, features, rows, counts)]
        for i in range(layers):
            turn = i % 3
            blocked = _resize(outputs[-1][1], levels[turn].shape[2:]).sigmoid().flatten(2) < 0.5
            blocked = blocked & ~blocked.all(-1, keepdim=True)
            name = f"{QUERIES}.transformer_cross_attention_layers.{i}"
            keys = memory[turn] + where[turn]
            found = self.attention(
                name, "multihead_attn", x + position, keys, memory[turn], blocked
            )
            x = self.norm(f"{name}.norm", x + found)
            name = f"{QUERIES}.transformer_self_attention_layers.{i}"
            found = self.attention(name, "self_attn", x + position, x + position, x)
            x = self.norm(f"{name}.norm", x + found)
            x = self.feed_forward(f"{QUERIES}.transformer_ffn_layers.{i}", "norm", x)
            outputs.append(self.predict(x, features, rows, counts))
        return outputs


def sine(height, width, channels):
    """(height, width, channels): rows in the first half, columns in the second."""
    half = channels // 2
    out = torch.zeros(height, width, channels)
    for c in range(half):
        frequency = 10_000 ** (2 * (c // 2) / half)
        wave = torch.sin if c % 2 == 0 else torch.cos
        rows = torch.arange(1, height + 1) / height * 2 * math.pi
        columns = torch.arange(1, width + 1) / width * 2 * math.pi
        out[..., c] = wave(rows / frequency)[:, None]
        out[..., half + c] = wave(columns / frequency)[None]
    return out


def _centres(height, width):
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([x / width, y / height], -1).flatten(0, 1)


def _tokens(x):
    return x.flatten(2).transpose(1, 2)


def _resize(x, size):
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
