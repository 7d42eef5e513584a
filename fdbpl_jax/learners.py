"""Prompt learners: what of CLIP is learned, as features that combine freely with the supervision `config.method`.

| learner | paper (arXiv) | learned |
|---|---|---|
| coop | 2109.01134 | text context |
| cocoop | 2203.05557 | text context, and a small network that shifts it by each picture's feature |
| kgcoop | 2303.13283 | text context, kept near the template's text features |
| prograd | 2205.14865 | text context; what speaks against the zero-shot prediction is taken out of its gradient |
| vpt | 2203.12119 | visual tokens in every layer of the image tower, for a fixed text |
| ivlp | 2210.03117, ablation | text prompts and visual tokens, each layer its own |
| maple | 2210.03117 | text prompts in several layers; visual tokens are linear maps of them |
| promptsrc | 2307.06948 | as ivlp, held near the frozen model, averaged over epochs |
| promptkd | 2403.02781 | visual tokens and a projector into the teacher's space, whose text features are the classes |

How many vectors, layers and how large weights are numbers of the configuration; the published ones stand in
`configs/fdbpl_learners.py`. Under every learner but promptkd, FDBPL adds a negative text context to what is learned.
"""

import dataclasses

REGULARISERS = ("kgcoop", "prograd", "promptsrc")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learner:
    """What a learner consists of.

    Attributes:
      text: a text context is learned; without it classes are a fixed sentence's.
      visual: the image tower is given learned tokens.
      coupled: these are linear maps of the text prompts.
      conditional: the context depends on the picture.
      projector: picture features are mapped into the teacher's space, where classes are the teacher's text features.
      average: what is used in the end is a weighted mean over epochs.
      regularisers: names of REGULARISERS.
      method: the supervision that its paper has, a value of `config.method`; PromptKD's differs from KDPL by a factor.
    """

    text: bool = True
    visual: bool = False
    coupled: bool = False
    conditional: bool = False
    projector: bool = False
    average: bool = False
    regularisers: tuple[str, ...] = ()
    method: str = "ce"


LEARNERS: dict[str, Learner] = {
    "coop": Learner(),
    "cocoop": Learner(conditional=True),
    "kgcoop": Learner(regularisers=("kgcoop",)),
    "prograd": Learner(regularisers=("prograd",)),
    "vpt": Learner(text=False, visual=True),
    "ivlp": Learner(visual=True),
    "maple": Learner(visual=True, coupled=True),
    "promptsrc": Learner(visual=True, average=True, regularisers=("promptsrc",)),
    "promptkd": Learner(text=False, visual=True, projector=True, method="kdpl"),
}


def label(method: str, learner: str, *, online: bool = False) -> str:
    """What a run is called in results.jsonl.

    "zeroshot"; the learner's name under its paper's supervision; "kdpl" and "fdbpl" for CoOp's context; else
    LEARNER_METHOD. A teacher that runs online adds "_online".
    """
    if method == "zeroshot":
        return method
    if method == LEARNERS[learner].method:
        name = learner
    else:
        name = method if learner == "coop" else f"{learner}_{method}"
    return f"{name}_online" if online else name
