"""Visual prompts: learned tokens in the image tower, in the form that VPT, IVLP and MaPLe use them with CLIP.

M tokens stand behind the patches, without positions, and pass the tower's first norm with them (visual prompt tuning,
arXiv 2203.12119). At the entrance of each of the next J - 1 blocks, what became of them is dropped and fresh tokens take
their place; behind the last of these blocks they flow on as any other token. MaPLe (arXiv 2210.03117) does not learn the
tokens themselves but a linear map per block from the text prompts of the same block.

Shapes: B images, J blocks with tokens of their own, M tokens, w width of the image tower, d of the text tower, D embedding
width.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from core_jax import clip
from fdbpl_jax.prompts import STD, PromptError


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisualConfig:
    """Learned tokens of the image tower.

    Attributes:
      tokens: M, per block.
      depth: J, how many blocks get tokens of their own, the first included.
    """

    tokens: int = 4
    depth: int = 9


def init(config: VisualConfig, student: clip.Clip, *, key: Array) -> Float[Array, "J M w"]:
    """The trainable tokens of every block, float32: N(0, 0.02^2).

    Args:
      config: M and J.
      student: its image tower says how wide they are, and how many blocks there are.
      key: for noise.

    Raises:
      PromptError: impossible numbers, all of them in one message; an image tower that is no ViT.
    """
    width, blocks = _tower(student)
    problems = []
    if config.tokens < 1:
        problems.append(f"visual.tokens is {config.tokens}: expected 1 or more")
    if not 1 <= config.depth <= blocks:
        problems.append(_depth_problem("visual.depth", config.depth, blocks))
    if problems:
        raise PromptError("; ".join(problems))
    return STD * jax.random.normal(key, (config.depth, config.tokens, width), jnp.float32)


def init_coupling(
    depth: int, student: clip.Clip, *, key: Array
) -> dict[str, Float[Array, "J d w"] | Float[Array, "J w"]]:
    """The trainable maps from text prompts to visual ones: {"kernel", "bias"}, float32.

    As in MaPLe's code: a linear layer as torch starts one, U(-1/sqrt(d), 1/sqrt(d)); the first block has a draw of its
    own, the others start as copies of a second.

    Args:
      depth: J, that of the text prompts.
      student: its towers say how wide the maps are.
      key: for both draws.

    Raises:
      PromptError: more blocks than the image tower has; an image tower that is no ViT.
    """
    width, blocks = _tower(student)
    if not 1 <= depth <= blocks:
        raise PromptError(_depth_problem("prompt.depth", depth, blocks))
    entry = student.config.text.width
    bound = entry**-0.5
    kernel_key, bias_key = jax.random.split(key)
    draws = min(depth, 2)
    copies = jnp.minimum(jnp.arange(depth), 1)
    uniform = lambda key, shape: jax.random.uniform(key, shape, jnp.float32, -bound, bound)[copies]
    return {
        "kernel": uniform(kernel_key, (draws, entry, width)),
        "bias": uniform(bias_key, (draws, width)),
    }


def coupled(
    coupling: dict[str, Array], text_prompts: Float[Array, "J M d"]
) -> Float[Array, "J M w"]:
    """The visual prompts that text prompts imply: visual[j] = text_prompts[j] kernel[j] + bias[j].

    Args:
      coupling: "kernel" (J, d, w) and "bias" (J, w), from `init_coupling`.
      text_prompts: the shared context first, then the deep prompts.

    Raises:
      ValueError: text prompts for another number of blocks, or of another width.
    """
    kernel, bias = coupling["kernel"], coupling["bias"]
    if text_prompts.ndim != 3 or (text_prompts.shape[0], text_prompts.shape[2]) != kernel.shape[:2]:
        raise ValueError(
            f"text prompts have shape {text_prompts.shape}, but the coupling maps "
            f"({kernel.shape[0]}, M, {kernel.shape[1]})"
        )
    return jnp.einsum("jmd,jdw->jmw", text_prompts, kernel) + bias[:, None]


def encode(
    params: dict,
    config: clip.ClipConfig,
    pixels: Float[Array, "B H W 3"],
    visual: Float[Array, "J M w"],
) -> Float[Array, "B D"]:
    """Image features under visual prompts, unnormalised.

    Args:
      params: the student's parameters; "vision" is read.
      config: the student's.
      pixels: normalised, in the type that the tower is to compute in.
      visual: the tokens of every block, from `init` or `coupled`.

    Raises:
      ValueError: no tokens, tokens of another width than the tower's, or for more blocks than it has.
    """
    width, blocks = config.vit.width, config.vit.layers
    fits = visual.ndim == 3 and visual.shape[2] == width and 1 <= visual.shape[0] <= blocks
    if not fits or not visual.shape[1]:
        raise ValueError(
            f"visual prompts have shape {visual.shape}, but this image tower takes (J, M, {width}) with J from 1 to "
            f"{blocks} and M from 1 on"
        )
    tokens = visual.shape[1]
    fresh = {f"block_{j}": visual[j + 1] for j in range(visual.shape[0] - 1)}

    def tap(name: str, x: Array) -> Array:
        if name not in fresh:
            return x
        learned = jnp.broadcast_to(fresh[name].astype(x.dtype), (x.shape[0], tokens, width))
        return jnp.concatenate([x[:, :-tokens], learned], axis=1)

    return clip.encode_image(params, config, pixels, tap=tap, prompts=visual[0])


def _tower(student: clip.Clip) -> tuple[int, int]:
    """Width and number of blocks of the student's image tower."""
    if not isinstance(student.config.vision, clip.VisionConfig):
        raise PromptError(
            "visual prompts are tokens of a ViT, but the student's image tower is none: learn text prompts alone, or "
            "take another student"
        )
    return student.config.vision.width, student.config.vision.layers


def _depth_problem(key: str, depth: int, blocks: int) -> str:
    return f"{key} is {depth}: expected 1 to {blocks}, the blocks of the student's image tower"
