"""Prompted CLIP models in torch whose modules carry the names of the public repositories: what checkpoints are read from.

Written after CoOp's, CoCoOp's, KgCoOp's, MaPLe's (with its VPT and IVLP), PromptSRC's and PromptKD's modules, for small towers.
A state dict of one of these models has the names, shapes and buffers of theirs. The frozen weights are those of a CLIP here.
"""

from collections import OrderedDict

import numpy as np
import torch
from torch import nn

SENTENCE = "a photo of a"
KINDS = ("coop", "kgcoop", "cocoop", "maple", "ivlp", "promptsrc", "vpt", "promptkd")
# Whose repository saves the prompt learner alone.
LEARNER_ALONE = ("coop", "kgcoop", "cocoop")
TEXT_TOKENS = {"maple": 2}
TOKENS, TEXT_DEPTH, IMAGE_DEPTH, TEACHER = 3, 3, 2, 20


def _tensor(array) -> torch.Tensor:
    return torch.from_numpy(np.array(array, np.float32))


def _random(*shape: int) -> nn.Parameter:
    return nn.Parameter(0.5 * torch.randn(*shape))


class Block(nn.Module):
    """A residual attention block whose last tokens, or those behind the first, may be put in anew."""

    def __init__(self, params: dict, heads: int, fresh: int = 0, *, text: bool):
        super().__init__()
        width = params["norm1"]["scale"].shape[0]
        hidden = params["fc1"]["bias"].shape[0]
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(width, hidden), gelu=nn.Identity(), c_proj=nn.Linear(hidden, width)
            )
        )
        attention = params["attention"]
        parts = ("query", "key", "value")
        with torch.no_grad():
            for part, name in (("weight", "kernel"), ("bias", "bias")):
                stacked = [np.transpose(attention[p][name]) for p in parts]
                getattr(self.attn, f"in_proj_{part}").copy_(_tensor(np.concatenate(stacked)))
                for layer, ours in (
                    (self.attn.out_proj, attention["out"]),
                    (self.mlp.c_fc, params["fc1"]),
                    (self.mlp.c_proj, params["fc2"]),
                ):
                    getattr(layer, part).copy_(_tensor(np.transpose(ours[name])))
            for norm, name in ((self.ln_1, "norm1"), (self.ln_2, "norm2")):
                norm.weight.copy_(_tensor(params[name]["scale"]))
                norm.bias.copy_(_tensor(params[name]["bias"]))
        self.text = text
        if fresh:
            self.VPT_shallow = _random(fresh, width)

    def forward(self, x: torch.Tensor, fresh: torch.Tensor | None = None) -> torch.Tensor:
        fresh = getattr(self, "VPT_shallow", fresh)
        if fresh is not None:
            learned = fresh.expand(len(x), -1, -1)
            count = learned.shape[1]
            kept = (x[:, :1], learned, x[:, 1 + count :]) if self.text else (x[:, :-count], learned)
            x = torch.cat(kept, dim=1)
        length = x.shape[1]
        mask = torch.full((length, length), -torch.inf).triu(1) if self.text else None
        seen = self.ln_1(x)
        x = x + self.attn(seen, seen, seen, need_weights=False, attn_mask=mask)[0]
        hidden = self.mlp.c_fc(self.ln_2(x))
        return x + self.mlp.c_proj(hidden * torch.sigmoid(1.702 * hidden))


class Transformer(nn.Module):
    """The blocks of a tower; those behind the first, below `depth`, own fresh tokens."""

    def __init__(self, params: dict, config, fresh: int = 0, depth: int = 0, *, text: bool):
        super().__init__()
        self.resblocks = nn.Sequential(
            *(
                Block(params[f"block_{i}"], config.heads, fresh if 0 < i < depth else 0, text=text)
                for i in range(config.layers)
            )
        )

    def forward(self, x: torch.Tensor, deeper=()) -> torch.Tensor:
        for i, block in enumerate(self.resblocks):
            x = block(x, deeper[i - 1] if 0 < i <= len(deeper) else None)
        return x


class ImageEncoder(nn.Module):
    """The image tower, with prompts of its own or given ones."""

    def __init__(self, student, tokens: int = 0, depth: int = 0):
        super().__init__()
        params, config = student.params["vision"], student.config.vision
        kernel = _tensor(params["patch"]["kernel"]).permute(3, 2, 0, 1)
        patch = config.patch_size
        self.conv1 = nn.Conv2d(3, config.width, patch, patch, bias=False)
        self.conv1.weight = nn.Parameter(kernel.contiguous())
        self.class_embedding = nn.Parameter(_tensor(params["class_embedding"]))
        self.positional_embedding = nn.Parameter(_tensor(params["position_embedding"]))
        self.ln_pre, self.ln_post = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        for norm, name in ((self.ln_pre, "pre_norm"), (self.ln_post, "post_norm")):
            norm.weight = nn.Parameter(_tensor(params[name]["scale"]))
            norm.bias = nn.Parameter(_tensor(params[name]["bias"]))
        self.proj = nn.Parameter(_tensor(params["projection"]["kernel"]))
        self.transformer = Transformer(params, config, tokens, depth, text=False)
        if tokens:
            self.VPT = _random(tokens, config.width)

    def forward(self, pixels: torch.Tensor, first=None, deeper=()) -> torch.Tensor:
        x = self.conv1(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1)
        x = x + self.positional_embedding
        first = getattr(self, "VPT", first)
        if first is not None:
            x = torch.cat([x, first.expand(len(x), -1, -1)], dim=1)
        x = self.transformer(self.ln_pre(x), deeper)
        return self.ln_post(x[:, 0]) @ self.proj


class TextEncoder(nn.Module):
    """The text tower without its token embeddings, which the prompt learner has used."""

    def __init__(self, student, tokens: int = 0, depth: int = 0):
        super().__init__()
        params, config = student.params["text"], student.config.text
        self.transformer = Transformer(params, config, tokens, depth, text=True)
        self.positional_embedding = nn.Parameter(_tensor(params["position_embedding"]))
        self.ln_final = nn.LayerNorm(config.width)
        self.ln_final.weight = nn.Parameter(_tensor(params["final_norm"]["scale"]))
        self.ln_final.bias = nn.Parameter(_tensor(params["final_norm"]["bias"]))
        self.text_projection = nn.Parameter(_tensor(params["projection"]["kernel"]))

    def forward(self, prompts: torch.Tensor, end: torch.Tensor, deeper=()) -> torch.Tensor:
        x = self.transformer(prompts + self.positional_embedding, deeper)
        return self.ln_final(x)[torch.arange(len(x)), end] @ self.text_projection


class PromptLearner(nn.Module):
    """Context vectors, the embedded sentences around them, and what a kind learns beside them."""

    def __init__(self, kind: str, student, names):
        super().__init__()
        config = student.config
        d, w, width = config.text.width, config.vision.width, config.projection_dim
        count = TEXT_TOKENS.get(kind, 4)
        self.ctx = _random(count, d)
        if kind == "kgcoop":
            self.bias_vectors = _random(1, d)
            self.meta_net = nn.Sequential(OrderedDict(linear1=nn.Linear(d, d), relu=nn.ReLU()))
        if kind == "cocoop":
            hidden = max(1, width // 16)
            self.meta_net = nn.Sequential(
                OrderedDict(
                    linear1=nn.Linear(width, hidden), relu=nn.ReLU(), linear2=nn.Linear(hidden, d)
                )
            )
        if kind == "maple":
            self.proj = nn.Linear(d, w)
            deep = range(TEXT_DEPTH - 1)
            self.compound_prompts_text = nn.ParameterList([_random(count, d) for _ in deep])
            self.compound_prompt_projections = nn.ModuleList([nn.Linear(d, w) for _ in deep])
        if kind == "promptsrc":
            self.ZS_image_encoder = ImageEncoder(student)
        ids = student.tokenizer([f"{SENTENCE} {name}." for name in names])
        self.end = torch.from_numpy((ids == student.tokenizer.eos).argmax(1))
        embedded = _tensor(np.asarray(student.params["text"]["token_embedding"])[ids])
        self.register_buffer("token_prefix", embedded[:, :1])
        self.register_buffer("token_suffix", embedded[:, 1 + count :])

    def forward(self, ctx: torch.Tensor) -> torch.Tensor:
        ctx = ctx.expand(len(self.token_prefix), -1, -1)
        return torch.cat([self.token_prefix, ctx, self.token_suffix], dim=1)


class ImageTrans(nn.Module):
    """PromptKD's projector."""

    def __init__(self, width: int, teacher: int):
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.Conv2d(width, teacher, 1),
            nn.BatchNorm2d(teacher),
            nn.ReLU(),
            nn.Conv2d(teacher, teacher, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv1(x[..., None, None])[..., 0, 0]


class CustomCLIP(nn.Module):
    """The model that a repository trains, by kind."""

    def __init__(self, kind: str, student, names, *, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        own = kind in ("ivlp", "promptsrc", "vpt", "promptkd")
        self.kind = kind
        if kind not in ("vpt", "promptkd"):
            self.prompt_learner = PromptLearner(kind, student, names)
        self.image_encoder = ImageEncoder(student, *((TOKENS, IMAGE_DEPTH) if own else ()))
        if kind == "promptkd":
            self.VPT_image_trans = ImageTrans(student.config.projection_dim, TEACHER)
            with torch.no_grad():
                for value in self.VPT_image_trans.conv1[1].state_dict().values():
                    if value.is_floating_point():
                        value.copy_(1.0 + torch.rand_like(value))
        else:
            deep = (4, TEXT_DEPTH) if kind in ("ivlp", "promptsrc") else ()
            self.text_encoder = TextEncoder(student, *deep)
        self.logit_scale = nn.Parameter(_tensor(student.params["logit_scale"]))
        self.eval().requires_grad_(False)

    def image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, D), or (B, T) behind a projector; unit norm."""
        first, deeper = None, ()
        if self.kind == "maple":
            learner = self.prompt_learner
            first = learner.proj(learner.ctx)
            maps, deep = learner.compound_prompt_projections, learner.compound_prompts_text
            deeper = [linear(one) for linear, one in zip(maps, deep, strict=True)]
        found = self.image_encoder(pixels, first, deeper)
        if self.kind == "promptkd":
            found = self.VPT_image_trans(found)
        return nn.functional.normalize(found, dim=-1)

    def text_features(self, picture: torch.Tensor | None = None) -> torch.Tensor:
        """(C, D), unit norm; CoCoOp's for one picture's feature (D,)."""
        learner = self.prompt_learner
        ctx, deeper = learner.ctx, ()
        if self.kind == "cocoop":
            ctx = ctx + learner.meta_net(picture)
        if self.kind == "maple":
            deeper = list(learner.compound_prompts_text)
        found = self.text_encoder(learner(ctx), learner.end, deeper)
        return nn.functional.normalize(found, dim=-1)

    def saved(self) -> dict[str, np.ndarray]:
        """The state dict that the repository saves, as arrays."""
        module = self.prompt_learner if self.kind in LEARNER_ALONE else self
        return {name: value.numpy().copy() for name, value in module.state_dict().items()}
