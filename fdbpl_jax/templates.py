"""Sentences around a class name, and the lists of them that papers average over.

Zero-shot text features are better as the mean over many sentences (arXiv 2103.00020, section 3.1.4). The lists here are those
that the field shares, in their order, which no mean depends on:

| name | sentences | from |
|---|---|---|
| imagenet_80 | 80 | CLIP's notebook of prompts for ImageNet; CoOp's `imagenet_templates.py` |
| imagenet_7 | 7 | the subset that CLIP's authors found by forward selection over the 80 |
| promptsrc_60 | 60 | what PromptSRC (arXiv 2307.06948) takes its frozen text features from |
| dataset | 1 | the data set's own sentence (`datasets.LAYOUTS`) |

CoOp's ensemble for data sets other than ImageNet is imagenet_7 and dataset together.
"""

import difflib
from collections.abc import Sequence

IMAGENET_80 = (
    "a bad photo of a {}.",
    "a photo of many {}.",
    "a sculpture of a {}.",
    "a photo of the hard to see {}.",
    "a low resolution photo of the {}.",
    "a rendering of a {}.",
    "graffiti of a {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a tattoo of a {}.",
    "the embroidered {}.",
    "a photo of a hard to see {}.",
    "a bright photo of a {}.",
    "a photo of a clean {}.",
    "a photo of a dirty {}.",
    "a dark photo of the {}.",
    "a drawing of a {}.",
    "a photo of my {}.",
    "the plastic {}.",
    "a photo of the cool {}.",
    "a close-up photo of a {}.",
    "a black and white photo of the {}.",
    "a painting of the {}.",
    "a painting of a {}.",
    "a pixelated photo of the {}.",
    "a sculpture of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a plastic {}.",
    "a photo of the dirty {}.",
    "a jpeg corrupted photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a rendering of the {}.",
    "a {} in a video game.",
    "a photo of one {}.",
    "a doodle of a {}.",
    "a close-up photo of the {}.",
    "a photo of a {}.",
    "the origami {}.",
    "the {} in a video game.",
    "a sketch of a {}.",
    "a doodle of the {}.",
    "a origami {}.",
    "a low resolution photo of a {}.",
    "the toy {}.",
    "a rendition of the {}.",
    "a photo of the clean {}.",
    "a photo of a large {}.",
    "a rendition of a {}.",
    "a photo of a nice {}.",
    "a photo of a weird {}.",
    "a blurry photo of a {}.",
    "a cartoon {}.",
    "art of a {}.",
    "a sketch of the {}.",
    "a embroidered {}.",
    "a pixelated photo of a {}.",
    "itap of the {}.",
    "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.",
    "a plushie {}.",
    "a photo of the nice {}.",
    "a photo of the small {}.",
    "a photo of the weird {}.",
    "the cartoon {}.",
    "art of the {}.",
    "a drawing of the {}.",
    "a photo of the large {}.",
    "a black and white photo of a {}.",
    "the plushie {}.",
    "a dark photo of a {}.",
    "itap of a {}.",
    "graffiti of the {}.",
    "a toy {}.",
    "itap of my {}.",
    "a photo of a cool {}.",
    "a photo of a small {}.",
    "a tattoo of the {}.",
)
IMAGENET_7 = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
_PLAIN = "a photo of a {}."
# PromptSRC's list is the first 60 of the 80, with the plain sentence in front.
PROMPTSRC_60 = (_PLAIN, *(one for one in IMAGENET_80[:60] if one != _PLAIN))

LISTS = {"imagenet_80": IMAGENET_80, "imagenet_7": IMAGENET_7, "promptsrc_60": PROMPTSRC_60}
OWN = "dataset"


class TemplateError(ValueError):
    """Sentences that cannot stand around a class name; the message names all of them."""


def named(name: str) -> tuple[str, ...]:
    """The sentences of a list of `LISTS`.

    Raises:
      TemplateError: there is no such list.
    """
    return resolve((name,), own=None)


def _each(values: Sequence[str]) -> list[str]:
    """The values, names in one text ("imagenet_7,dataset", as a command line has them) taken apart."""
    apart = (value.split(",") if "{" not in value else [value] for value in values)
    return [value.strip() for part in apart for value in part]


def problems(values: Sequence[str]) -> list[str]:
    """What is wrong with values that are to be names of lists, "dataset", or sentences with one {}."""
    known = (*LISTS, OWN)
    found = []
    for value in _each(values):
        if value in known or value.count("{}") == 1:
            continue
        if " " in value or "{" in value:
            found.append(
                f"{value!r} has {value.count('{}')} places {{}} for the class name, not one"
            )
            continue
        near = difflib.get_close_matches(value, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        found.append(f"{value!r} is neither a sentence with one {{}} nor a list{hint}")
    return found


def resolve(values: Sequence[str], *, own: str | None) -> tuple[str, ...]:
    """The sentences that values stand for, each once, in order of first appearance.

    Args:
      values: names of `LISTS`, "dataset", several of them with commas, or sentences with one {}; none at all: the data
        set's own sentence.
      own: that sentence; None where there is no data set.

    Raises:
      TemplateError: values that are none of these, all in one message.
    """
    values = _each(values)
    wrong = problems(values)
    if own is None and OWN in values:
        wrong.append(f"{OWN!r} stands for a data set's own sentence, and there is no data set")
    if wrong:
        raise TemplateError(
            f"templates: {'; '.join(wrong)}; the lists are {', '.join((*LISTS, OWN))}"
        )
    chosen = values or ((own,) if own else ())
    sentences: list[str] = []
    for value in chosen:
        sentences += (own,) if value == OWN and own else LISTS.get(value, (value,))
    return tuple(dict.fromkeys(sentences))
