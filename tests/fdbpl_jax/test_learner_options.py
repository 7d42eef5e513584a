"""Every learner with every option of its prompts, under hard labels and a teacher: a step is made, or one line says why not."""

import jax
import pytest

from fdbpl_jax import task
from fdbpl_jax.config import ConfigError
from fdbpl_jax.learners import LEARNERS

OPTIONS = {
    "name in the middle": {"prompt.class_token_position": "middle"},
    "name in front": {"prompt.class_token_position": "front"},
    "a context for each class": {"prompt.class_specific": True, "data.split": "all"},
    "noise": {"prompt.context_init": "", "prompt.negative_init": ""},
    "fewer words than vectors": {
        "prompt.context": 5,
        "prompt.context_init": "... a photo",
        "prompt.negative_init": "... no photo",
    },
    "fixed words": {"prompt.words": "of a"},
    "vectors in two blocks": {"prompt.depth": 2},
    "two sentences": {"data.templates": ("a photo of a {}.", "a {} in the picture.")},
}
"""Of prompts, by dotted key."""

NOTHING = "no text is learned; leave class_specific=False and class_token_position=end"
REFUSED = {
    ("cocoop", "a context for each class"): "its context already differs by picture",
    ("cocoop", "vectors in two blocks"): "set config.prompt.depth=1",
    ("maple", "a context for each class"): "pictures have no class yet",
    **{("promptkd", option): NOTHING for option in list(OPTIONS)[:3]},
    **{("vpt", option): NOTHING for option in list(OPTIONS)[:3]},
}


def _traced(config):
    """The first step, as shapes: nothing is compiled."""
    made = task.build(config)
    params = made.init(jax.random.key(0))
    batch = next(iter(made.train_data(1)))
    slope = jax.value_and_grad(made.loss, has_aux=True)
    _, gradient = jax.eval_shape(
        slope, params.trainable, params.frozen, params.stats, batch, jax.random.key(1)
    )
    assert jax.tree.structure(gradient) == jax.tree.structure(params.trainable)


@pytest.mark.slow
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("learner", LEARNERS)
def test_every_option_goes_with_a_learner_or_is_refused(small, learner, option):
    # FDBPL adds a negative text, to VPT too: there is something to place.
    methods = {"promptkd": ("kdpl",), "vpt": ("ce", "fdbpl")}.get(learner, ("fdbpl",))
    for method in methods:
        changes: dict[str, object] = {"prompt.text_mode": "auto"}
        if method != "ce":
            changes |= {"teacher_source": "online", "data.fresh": "True"}
        if learner == "maple":
            changes["prompt.negative_init"] = "no photo"
        config = small(learner, method, **{**changes, **OPTIONS[option]})
        words = REFUSED.get((learner, option))
        if words is None or (learner, method) == ("vpt", "fdbpl"):
            _traced(config)
            continue
        with pytest.raises(ConfigError, match=words):
            task.build(config)
