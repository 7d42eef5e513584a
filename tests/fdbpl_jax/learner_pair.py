"""A tiny random CLIP pair as transformers builds it, and the problem that both sides of the learners' tests get.

Student: 16 pixels, patches of 8, three layers a tower, text width 16, image width 24, 32 embedding dimensions. Teacher: 24
pixels, other widths.
"""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import CLIPConfig, CLIPModel

from tests.fdbpl_jax.conftest import WORDS
from tests.fdbpl_jax.torch_learners import Problem

START, END, PAD = 1, 3, 0
_IDS = {word: 4 + i for i, word in enumerate(WORDS)}
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)
PICTURES = 4


def model(*, seed: int, text: int, vision: int, image: int, projection: int) -> CLIPModel:
    """A random model whose features tell sentences and pictures apart."""
    torch.manual_seed(seed)
    shared = {"num_hidden_layers": 3, "num_attention_heads": 2, "hidden_act": "quick_gelu"}
    config = CLIPConfig(
        text_config={
            **shared,
            "hidden_size": text,
            "intermediate_size": 2 * text,
            "vocab_size": 4 + len(WORDS),
            "max_position_embeddings": 20,
            "bos_token_id": START,
            "eos_token_id": END,
            "pad_token_id": PAD,
        },
        vision_config={
            **shared,
            "hidden_size": vision,
            "intermediate_size": 2 * vision,
            "image_size": image,
            "patch_size": 8,
        },
        projection_dim=projection,
    )
    built = CLIPModel(config)
    with torch.no_grad():
        # Zero biases and unit scales would hide prompts that land in the wrong place.
        for weight in built.parameters():
            weight += 0.1 * torch.randn(weight.shape)
        built.text_model.embeddings.token_embedding.weight *= 5.0
        built.vision_model.embeddings.patch_embedding.weight *= 5.0
    return built.eval().requires_grad_(False)


def pair() -> tuple[CLIPModel, CLIPModel]:
    """Student and teacher, float32."""
    return (
        model(seed=1, text=16, vision=24, image=16, projection=32),
        model(seed=2, text=24, vision=32, image=24, projection=20),
    )


def ids(sentences: Sequence[str]) -> torch.Tensor:
    """Token ids, padded to the longest sentence."""
    rows = [
        [START, *(_IDS[word] for word in text.replace(".", " .").split()), END]
        for text in sentences
    ]
    longest = max(map(len, rows))
    return torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])


def pictures(size: int) -> np.ndarray:
    """Random uint8 pictures, each of a colour of its own under the noise: the models tell them apart."""
    rng = np.random.default_rng(size)
    colour = rng.integers(0, 2, (PICTURES, 2, 2, 3)).repeat(size // 2, 1).repeat(size // 2, 2)
    return (155 * colour + rng.integers(0, 101, colour.shape)).astype(np.uint8)


def flips() -> np.ndarray:
    """Which of them are seen mirrored."""
    return np.arange(PICTURES) % 2 == 1


def pixels(images: np.ndarray) -> torch.Tensor:
    """(B, 3, S, S) as the towers take them, in float64."""
    seen = np.where(flips()[:, None, None, None], images[:, :, ::-1], images) / 255.0
    return torch.from_numpy(((seen - _MEAN) / _STD).transpose(0, 3, 1, 2).copy())


def problem(
    models: Sequence[CLIPModel], classes: Sequence[str], templates: Sequence[str]
) -> Problem:
    """The problem in float64; the sentences to be prompted are "a photo of a NAME."."""
    student, teacher = models
    return Problem(
        student=student,
        teacher=teacher,
        ids=ids([f"a photo of a {name}." for name in classes]),
        templates=[ids([t.format(name) for name in classes]) for t in templates],
        teacher_ids=ids([templates[0].format(name) for name in classes]),
        pixels=pixels(pictures(16)),
        teacher_pixels=pixels(pictures(24)),
        label=torch.arange(PICTURES) % len(classes),
    )


def tensors(tree: dict) -> dict:
    """NumPy arrays as float64 leaves that are learned."""
    return {
        name: tensors(value)
        if isinstance(value, dict)
        else torch.from_numpy(np.array(value, np.float64)).requires_grad_(True)
        for name, value in tree.items()
    }
