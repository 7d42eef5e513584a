"""A ResNet in torch under torchvision's names, written from the paper: the reference of ours."""

import numpy as np
import torch
from torch import nn


class Block(nn.Module):
    """Basic with one factor of width, bottleneck with four."""

    def __init__(self, kind: str, inside: int, width: int, stride: int):
        super().__init__()
        basic = kind == "basic"
        outside = width if basic else 4 * width
        sizes = (
            ((inside, width, 3, stride), (width, width, 3, 1))
            if basic
            else ((inside, width, 1, 1), (width, width, 3, stride), (width, outside, 1, 1))
        )
        self.count = len(sizes)
        for i, (before, after, size, step) in enumerate(sizes, 1):
            conv = nn.Conv2d(before, after, size, step, padding=size // 2, bias=False)
            setattr(self, f"conv{i}", conv)
            setattr(self, f"bn{i}", nn.BatchNorm2d(after))
        self.downsample = None
        if stride > 1 or inside != outside:
            self.downsample = nn.Sequential(
                nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside)
            )

    def forward(self, x):
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = y.relu() if i < self.count else y
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class ResNet(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.conv1 = nn.Conv2d(3, config.width, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(config.width)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        inside = config.width
        for stage, depth in enumerate(config.depths):
            width, blocks = config.width * 2**stage, []
            for i in range(depth):
                blocks.append(Block(config.block, inside, width, 2 if stage and not i else 1))
                inside = width * (1 if config.block == "basic" else 4)
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))

    def stages(self, x):
        x = self.maxpool(self.bn1(self.conv1(x)).relu())
        maps = []
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
            maps.append(x)
        return maps

    def forward(self, x):
        return self.stages(x)[-1]


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights, norms and running statistics, so that every tensor matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith("num_batches_tracked"):
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            elif tensor.ndim <= 1:
                tensor.copy_(0.2 * noise)
            else:
                tensor.copy_(noise / max(1, tensor[0].numel()) ** 0.5)
    return module


def tensors(module: nn.Module) -> dict[str, np.ndarray]:
    """The state under its own names, without torch's counters."""
    return {
        name: value.numpy().copy()
        for name, value in module.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def nchw(x) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.asarray(x).transpose(0, 3, 1, 2)))


def nhwc(x: torch.Tensor) -> np.ndarray:
    return x.detach().numpy().transpose(0, 2, 3, 1)
