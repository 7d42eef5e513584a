"""The second head by hand."""

import jax
import numpy as np
import pytest

from gaze_jax.networks import double_head

#       yaw: channels 0 to 2      pitch: 3 to 5
F = np.array([[-3, -1, -2, 5, 6, 7], [1, 2, 3, -1, -2, -3]], np.float32)
KEEP = np.array([1, 0, 1, 1, 1, 0], bool)


@pytest.mark.parametrize(
    ("mask", "expected"), [("zero", [[6, 0], [0, 3]]), ("exclude", [[6, -2], [-1, 3]])]
)
def test_both_masks_by_hand(mask, expected):
    np.testing.assert_array_equal(double_head.answer(F, KEEP, mask), expected)


def test_without_dropped_channels_both_masks_agree():
    keep = np.ones(6, bool)
    zero, exclude = (double_head.answer(F, keep, mask) for mask in ("zero", "exclude"))
    np.testing.assert_array_equal(zero, exclude)
    np.testing.assert_array_equal(zero, [[7, -1], [-1, 3]])


def test_masks_drop_exactly_five_and_never_leave_a_half_empty():
    keep = np.asarray(
        jax.vmap(lambda key: double_head.draw(32, 5, key=key))(
            jax.random.split(jax.random.key(0), 2000)
        )
    )
    np.testing.assert_array_equal(keep.sum(1), 27)
    assert keep[:, :16].any(1).all()
    assert keep[:, 16:].any(1).all()
    holds_a_zero = 1 - keep[:, :16].all(1).mean()
    assert holds_a_zero == pytest.approx(0.978, abs=0.01)
    f = -np.ones((3, 32), np.float32)
    for own in keep[:50]:
        np.testing.assert_array_equal(double_head.answer(f, own, "exclude"), -1)


@pytest.mark.parametrize("mask", ["zero", "exclude"])
def test_gradient_goes_to_the_largest_channel_alone(mask):
    grad = jax.grad(lambda f: double_head.answer(f, KEEP, mask).sum())(F)
    # Zeroed channels that win take the gradient with them.
    zero = [[0, 0, 0, 0, 1, 0], [0, 0, 1, 0, 0, 0]]
    exclude = [[0, 0, 1, 0, 1, 0], [0, 0, 1, 1, 0, 0]]
    np.testing.assert_array_equal(grad, zero if mask == "zero" else exclude)


@pytest.mark.parametrize(("width", "dropped"), [(32, 16), (31, 5), (32, -1)])
def test_masks_that_could_empty_a_half_are_refused(width, dropped):
    with pytest.raises(ValueError, match="so that each half keeps one"):
        double_head.draw(width, dropped, key=jax.random.key(0))
