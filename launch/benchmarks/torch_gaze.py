"""DRNet (arXiv 2208.04298) and GazeTR-Hybrid (arXiv 2105.14424) in torch, for the benchmark: ours is given the same weights.

Written as one would in torch: NCHW, torch's own layers, a difference map from the concatenated maps. Pictures come as the
uint8 arrays that ours get.
"""

import dataclasses

import jax
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from core_jax.clip import table
from core_jax.train import Params
from gaze_jax.networks import gazetr_weights
from gaze_jax.networks.cfe import CFEConfig
from gaze_jax.networks.drnet_network import DRNetConfig
from gaze_jax.networks.face_input import INPUTS

_TORCH_NAMES = {
    "kernel": "weight",
    "scale": "weight",
    "mean": "running_mean",
    "var": "running_var",
}


class DRNet(nn.Module):
    """The network of `gaze_jax.networks.drnet` with its own trunk: (query, reference) to (gaze, difference)."""

    def __init__(self, config: DRNetConfig, grey: int = 1):
        super().__init__()
        self.config = config
        width, maps = config.channels, 6 * 12
        self.trunk = nn.ModuleDict()
        plan = ((grey, 32, 5), (32, 32, 5), (32, 64, 4))
        for i, (before, after, size) in enumerate(plan):
            self.trunk[f"conv_{i}"] = nn.Conv2d(before, after, size)
            self.trunk[f"norm_{i}"] = nn.BatchNorm2d(after)
        self.first, self.norm = nn.Conv2d(128, width, 3, padding=1), nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.shortcut = nn.Conv2d(64, width, 1)
        head = lambda: nn.ModuleDict(
            {
                "fc": nn.Linear(width * maps, config.hidden),
                "out": nn.Linear(config.hidden + 4, 2),
            }
        )
        self.gaze, self.difference = head(), head()

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """E of uint8 pictures (B, c, H, W)."""
        x = images.float() / 255
        if self.config.normalise == "image":
            sd, mean = torch.std_mean(x, (1, 2, 3), correction=0, keepdim=True)
            x = (x - mean) / sd.clamp(min=1 / 255)
        size = self.config.input_size
        x = functional.interpolate(x, size, mode="bilinear", align_corners=False)
        for i in range(3):
            x = functional.relu(self.trunk[f"norm_{i}"](self.trunk[f"conv_{i}"](x)))
            x = functional.max_pool2d(x, 2) if i < 2 else x
        return x

    def compare(self, query, reference, h_query, h_reference) -> tuple[torch.Tensor, torch.Tensor]:
        """(gaze, difference) from maps."""
        linear = self.first(torch.cat([query, reference], 1))
        m = self.second(functional.relu(self.norm(linear)))
        heads = torch.cat([h_query, h_reference], 1)
        residual = m + self.shortcut(query)
        return self._answer(self.gaze, residual, heads), self._answer(self.difference, m, heads)

    def single(self, images: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
        """Gaze from one picture."""
        maps = self.maps(images)
        return self.compare(maps, maps, head, head)[0]

    def loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The loss of a batch of pairs."""
        maps = self.maps(torch.cat([batch["image"], batch["ref_image"]]))
        query, reference = maps.chunk(2)
        gaze, difference = self.compare(query, reference, batch["head"], batch["ref_head"])
        w = self.config.weight
        own = functional.l1_loss(gaze, batch["gaze"])
        rest = functional.l1_loss(difference, batch["gaze"] - batch["ref_gaze"])
        return w * own + (1 - w) * rest

    def _answer(self, head, maps, angles) -> torch.Tensor:
        # Channels last, as the weights have it.
        y = functional.relu(maps).permute(0, 2, 3, 1).flatten(1)
        y = functional.dropout(functional.relu(head["fc"](y)), self.config.dropout, self.training)
        return head["out"](torch.cat([y, angles], 1))


def drnet(config: DRNetConfig, params: Params) -> DRNet:
    """The torch network with our weights."""
    state = {}
    for tree in (params.trainable, params.stats):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            *rest, last = jax.tree_util.keystr(path, simple=True, separator=".").split(".")
            axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(leaf.ndim)
            array = np.array(leaf if axes is None else leaf.transpose(axes))
            state[".".join([*rest, _TORCH_NAMES.get(last, last)])] = torch.from_numpy(array)
    return _loaded(DRNet(config), state)


class Block(nn.Module):
    """A basic block of a ResNet."""

    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.downsample = None
        if stride > 1 or before != after:
            conv = nn.Conv2d(before, after, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(after))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, E, h, w) to the block's own size."""
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)))


class Trunk(nn.Module):
    """ResNet of basic blocks, and the 1x1 convolution behind it."""

    def __init__(self, config: CFEConfig):
        super().__init__()
        width = before = config.trunk.width
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        for stage, depth in enumerate(config.trunk.depths):
            after, blocks = width * 2**stage, []
            for i in range(depth):
                blocks.append(Block(before, after, 2 if stage and not i else 1))
                before = after
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        reduce = nn.Conv2d(before, config.width, 1)
        self.conv = nn.Sequential(reduce, nn.BatchNorm2d(config.width), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, S, S) to (B, width, S / 32, S / 32)."""
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for stage in range(4):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        return self.conv(x)


class Layer(nn.Module):
    """A post-norm layer; positions reach queries and keys."""

    def __init__(self, config: CFEConfig):
        super().__init__()
        width, drop = config.width, config.dropout
        self.self_attn = nn.MultiheadAttention(width, config.heads, drop, batch_first=True)
        self.linear1 = nn.Linear(width, config.mlp_width)
        self.linear2 = nn.Linear(config.mlp_width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(drop)

    def forward(self, x: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        """(B, L, F) to the same."""
        placed, drop = x + position, self.dropout
        x = self.norm1(x + drop(self.self_attn(placed, placed, x, need_weights=False)[0]))
        return self.norm2(x + drop(self.linear2(drop(functional.relu(self.linear1(x))))))


class Encoder(nn.Module):
    """The layers, and a norm of the first token."""

    def __init__(self, config: CFEConfig):
        super().__init__()
        self.layers = nn.ModuleList([Layer(config) for _ in range(config.layers)])
        self.norm = nn.LayerNorm(config.width)

    def forward(self, x: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        """(B, L, F) to (B, F)."""
        for layer in self.layers:
            x = layer(x, position)
        return self.norm(x[:, 0])


class GazeTR(nn.Module):
    """GazeTR-Hybrid with the names of its public weights; its answer is (yaw, pitch)."""

    mean: torch.Tensor
    sd: torch.Tensor

    def __init__(self, config: CFEConfig):
        super().__init__()
        form = INPUTS[config.input]
        self.bgr = form.order == "bgr"
        as_map = lambda values: torch.tensor(values).view(1, 3, 1, 1)
        self.register_buffer("mean", as_map(form.mean), persistent=False)
        self.register_buffer("sd", as_map(form.std), persistent=False)
        self.base_model = Trunk(config)
        self.encoder = Encoder(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embedding = nn.Embedding(config.tokens, config.width)
        self.feed = nn.Linear(config.width, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 RGB (B, 3, S, S) to (yaw, pitch)."""
        x = images.flip(1) if self.bgr else images
        x = self.base_model((x.float() / 255 - self.mean) / self.sd).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        return self.feed(self.encoder(x, self.pos_embedding.weight))

    def loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """L1 against "gaze", which is (pitch, yaw)."""
        return functional.l1_loss(self(batch["image"]), batch["gaze"].flip(1))


def gazetr(config: CFEConfig, params: Params) -> GazeTR:
    """The torch network with our weights, by the table that writes GazeTR's files."""
    head = jax.tree.map(lambda x: x[..., ::-1], params.trainable["head"])
    tree = {"params": {**params.trainable, "head": head}, "stats": params.stats}
    fresh = dataclasses.replace(config, trunk_init="scratch", weights="")
    tensors = table.write(tree, gazetr_weights.TABLE, gazetr_weights.shapes(fresh))
    state = {name: torch.from_numpy(np.array(x)) for name, x in tensors.items()}
    state["cls_token"] = state["cls_token"][None, None]
    return _loaded(GazeTR(config), state)


def _loaded(network, state):
    missing, unexpected = network.load_state_dict(state, strict=False)
    wrong = [name for name in missing if not name.endswith("num_batches_tracked")] + unexpected
    if wrong:
        raise ValueError(f"torch's {type(network).__name__} has other tensors: {', '.join(wrong)}")
    return network
