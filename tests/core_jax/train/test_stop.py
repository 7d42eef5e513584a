"""SIGTERM at any time of a run: it saves and leaves, also when the word came before its first step."""

import os
import signal

import pytest

from core_jax import train
from tests.core_jax.train import toy


def test_the_word_before_the_first_step_is_not_lost(tmp_path):
    task = toy.make(5)

    def told(seed):
        os.kill(os.getpid(), signal.SIGTERM)
        return toy.train_data(seed)

    options = train.FitOptions(seed=1, progress=False)
    with pytest.raises(train.Preempted, match="saved step 1 ") as caught:
        train.fit(toy.make(5, train_data=told), options, workdir=tmp_path)
    assert caught.value.code == train.PREEMPTED_EXIT_CODE
    state = train.fit(task, options, workdir=tmp_path, resume=True)
    assert int(state["step"]) == 5


def test_the_word_in_the_last_step_changes_nothing(tmp_path):
    def told(trainable, frozen, stats):
        os.kill(os.getpid(), signal.SIGTERM)
        return {}

    options = train.FitOptions(seed=1, eval_every=5, progress=False)
    state = train.fit(toy.make(5, evaluate=told), options, workdir=tmp_path)
    assert int(state["step"]) == 5
    assert (tmp_path / "timing.json").is_file()
