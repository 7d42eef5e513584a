"""DRNet: sizes, a torch restatement, split and direct path, the baselines within it, antisymmetry, dropout, statistics."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from core_jax.nn import STATS
from core_jax.train import Params
from gaze_jax import augment
from gaze_jax.networks import drnet, trunks
from gaze_jax.networks.drnet import DRNetConfig
from gaze_jax.networks.drnet_network import Network

# Nothing random but dropout, and small heads.
QUIET = DRNetConfig(weight=0.25, augment=False, corrupt=0.0, normalise="scale", hidden=8)
B = 3


def _counts(params):
    return sum(x.size for x in jax.tree.leaves(params.trainable))


def _batch(rng, count=B):
    picture = lambda: rng.integers(0, 256, (count, 36, 60, 1), np.uint8)
    angles = lambda: rng.normal(0, 0.3, (count, 2)).astype(np.float32)
    return {
        "image": picture(),
        "gaze": angles(),
        "head": angles(),
        "person": np.zeros(count, np.int32),
        "side": np.zeros(count, np.int32),
        "ref_image": picture(),
        "ref_gaze": angles(),
        "ref_head": angles(),
    }


@functools.cache
def _params():
    """Parameters whose norms and biases do something; those of the network's variants are parts of them."""
    rng = np.random.default_rng(1)
    params = drnet.make(QUIET).init(jax.random.key(0))
    shake = lambda x: x + 0.1 * jnp.asarray(rng.uniform(size=x.shape), x.dtype)
    tree = jax.tree.map(lambda x: shake(x) if x.ndim == 1 else x, (params.trainable, params.stats))
    return Params(trainable=tree[0], stats=tree[1])


@functools.cache
def _model(**changes):
    return drnet.make(dataclasses.replace(QUIET, **changes))


@functools.cache
def _jitted(function):
    return jax.jit(function)


def _loss(model, params, batch, key=None):
    key = jax.random.key(0) if key is None else key
    step = _jitted(model.loss)
    return step(params.trainable, params.frozen, params.stats, batch, key)


def _compare(model, params, batch):
    both = _jitted(model.references.encode)
    query = both(params, batch["image"], batch["head"])
    reference = both(params, batch["ref_image"], batch["ref_head"])
    compare = _jitted(model.references.compare)
    return compare(params, query, reference), compare(params, reference, query)


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        ("drnet", 59_552 + 115_008 + 2 * 1_180_426),
        # Without the difference map, and without the reference's head pose in the last layer.
        ("absolute", 59_552 + 4_160 + 1_180_426 - 4),
        ("difference", 59_552 + 115_008 - 4_160 + 1_180_426),
    ],
)
def test_parameter_counts(use, expected):
    model = drnet.make(DRNetConfig(use=use))
    assert _counts(jax.eval_shape(model.init, jax.random.key(0))) == expected
    assert use != "drnet" or expected == 2_535_412


@pytest.mark.parametrize("backbone", ["vgg16", "resnet18"])
def test_other_backbones_have_the_same_form(backbone):
    model = drnet.make(dataclasses.replace(QUIET, backbone=backbone))
    params = jax.eval_shape(model.init, jax.random.key(0))
    batch = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, _batch(np.random.default_rng(0))))
    gaze = jax.eval_shape(model.predict, params, batch["image"], batch["head"])
    assert gaze.shape == (B, 2)
    _, aux = jax.eval_shape(
        model.loss, params.trainable, {}, params.stats, batch, jax.random.key(0)
    )
    assert jax.tree.structure(aux.stats) == jax.tree.structure(params.stats)


class TorchDRNet(torch.nn.Module):
    """The same network, written again; flattened channels last, as ours is."""

    def __init__(self, hidden=8):
        super().__init__()
        conv, norm = torch.nn.Conv2d, torch.nn.BatchNorm2d
        self.trunk = torch.nn.ModuleDict(
            {
                "conv_0": conv(1, 32, 5),
                "norm_0": norm(32),
                "conv_1": conv(32, 32, 5),
                "norm_1": norm(32),
                "conv_2": conv(32, 64, 4),
                "norm_2": norm(64),
            }
        )
        self.first, self.norm = conv(128, 64, 3, padding=1), norm(64)
        self.second, self.shortcut = conv(64, 64, 3, padding=1), conv(64, 64, 1)
        linear = torch.nn.Linear
        self.gaze, self.difference = (
            torch.nn.ModuleDict({"fc": linear(4608, hidden), "out": linear(hidden + 4, 2)})
            for _ in range(2)
        )

    def forward(self, query, reference, h_query, h_reference):
        x = torch.cat([query, reference])
        x = torch.nn.functional.interpolate(x, (48, 72), mode="bilinear", align_corners=False)
        for i in range(3):
            x = torch.relu(self.trunk[f"norm_{i}"](self.trunk[f"conv_{i}"](x)))
            x = torch.nn.functional.max_pool2d(x, 2) if i < 2 else x
        f, g = x.chunk(2)
        m = self.second(torch.relu(self.norm(self.first(torch.cat([f, g], 1)))))
        answers = []
        for head, maps in ((self.gaze, m + self.shortcut(f)), (self.difference, m)):
            y = torch.relu(maps).permute(0, 2, 3, 1).flatten(1)
            y = torch.relu(head["fc"](y))
            answers.append(head["out"](torch.cat([y, h_query, h_reference], 1)))
        return answers


def _copied(params):
    theirs, state = TorchDRNet(), {}
    names = {"scale": "weight", "mean": "running_mean", "var": "running_var", "kernel": "weight"}
    for tree in (params.trainable, params.stats):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            *rest, last = jax.tree_util.keystr(path, simple=True, separator=".").split(".")
            leaf = np.asarray(leaf)
            axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(leaf.ndim)
            value = torch.tensor(leaf.transpose(axes) if axes else leaf)
            state[".".join([*rest, names.get(last, last)])] = value
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    return theirs


def _theirs(network, batch):
    pictures = lambda x: torch.tensor(x.transpose(0, 3, 1, 2)).float() / 255
    with torch.no_grad():
        return network(
            pictures(batch["image"]),
            pictures(batch["ref_image"]),
            torch.tensor(batch["head"]),
            torch.tensor(batch["ref_head"]),
        )


@pytest.mark.parametrize("channels", [1, 3])
def test_convolution_by_windows_is_a_convolution(channels):
    x = jax.random.normal(jax.random.key(0), (2, 12, 16, channels))
    by_windows = trunks.PhaseConv(5, 6, jnp.float32)
    variables = by_windows.init(jax.random.key(1), x)
    plain = nn.Conv(6, (5, 5), padding="VALID")

    def answers(params, x):
        return by_windows.apply({"params": params}, x), trunks.windows(
            plain.apply({"params": params}, x)
        )

    ours, theirs = jax.jit(answers)(variables["params"], x)
    np.testing.assert_allclose(ours.reshape(theirs.shape), theirs, atol=1e-5)


def test_equals_torch_in_inference_by_the_split_path_and_in_training():
    params = _params()
    model = _model(dropout=0.0)
    batch = _batch(np.random.default_rng(2))
    theirs = _copied(params)
    expected = _theirs(theirs.eval(), batch)
    got, _ = _compare(model, params, batch)
    for ours, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, other, atol=1e-5)

    value, aux = _loss(model, params, batch)
    gaze, difference = (x.numpy() for x in _theirs(theirs.train(), batch))
    loss = 0.25 * np.abs(gaze - batch["gaze"]).mean()
    loss += 0.75 * np.abs(difference - (batch["gaze"] - batch["ref_gaze"])).mean()
    np.testing.assert_allclose(value, loss, atol=1e-5)
    total, count = aux.metrics["loss_gaze"]
    assert count == 2 * B
    np.testing.assert_allclose(total, np.abs(gaze - batch["gaze"]).sum(), atol=1e-4)
    # One statistic over queries and references, kept as torch keeps it.
    state = theirs.state_dict()
    for path, leaf in jax.tree_util.tree_leaves_with_path(aux.stats):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        name = name.replace(".mean", ".running_mean").replace(".var", ".running_var")
        np.testing.assert_allclose(leaf, state[name], atol=1e-5)


@pytest.mark.parametrize("antisymmetric", [False, True])
def test_split_kernel_is_the_direct_path(antisymmetric):
    params = _params()
    model = _model(dropout=0.0, antisymmetric=antisymmetric)
    config = dataclasses.replace(QUIET, antisymmetric=antisymmetric)
    batch = _batch(np.random.default_rng(3))
    images = np.concatenate([batch["image"], batch["ref_image"]])
    pictures = augment.resize(augment.normalise(jnp.asarray(images), "scale"), 48, 72)
    network = Network(config)
    head = jnp.concatenate([batch["head"], batch["ref_head"]])
    variables = {"params": params.trainable, STATS: params.stats}
    direct = jax.jit(lambda v: network.apply(v, pictures, head, method=network.pair))(variables)
    (gaze, difference), (_, opposite) = _compare(model, params, batch)
    np.testing.assert_allclose(gaze, direct[0], atol=1e-5)
    np.testing.assert_allclose(difference, direct[1], atol=1e-5)
    if antisymmetric:
        np.testing.assert_array_equal(difference, -opposite)
    else:
        assert np.max(np.abs(difference + opposite)) > 1e-3


def test_single_is_a_pair_with_itself_and_antisymmetric_difference_is_then_zero():
    batch = _batch(np.random.default_rng(4))
    alike = batch | {"ref_image": batch["image"], "ref_head": batch["head"]}
    for antisymmetric in (False, True):
        params = _params()
        model = _model(dropout=0.0, antisymmetric=antisymmetric)
        (gaze, difference), _ = _compare(model, params, alike)
        single = _jitted(model.predict)(params, batch["image"], batch["head"])
        np.testing.assert_allclose(single, gaze, atol=1e-6)
        assert antisymmetric == (not np.any(difference))


def test_weight_zero_is_diffnn():
    batch, params = _batch(np.random.default_rng(5)), _params()
    model, diffnn = _model(weight=0.0), _model(use="difference")
    value, aux = _loss(model, params, batch)
    own = jax.eval_shape(diffnn.init, jax.random.key(0))
    unused = set(params.trainable) - set(own.trainable)
    assert unused == {"gaze", "shortcut"}
    # What Diff-NN has not got counts for nothing at weight 0.
    doubled = {name: jax.tree.map(lambda x: 2 * x, params.trainable[name]) for name in unused}
    other = Params(trainable=params.trainable | doubled, stats=params.stats)
    assert _loss(model, other, batch)[0] == value
    shared = {name: params.trainable[name] for name in own.trainable}
    own = Params(trainable=shared, stats=params.stats)
    expected, expected_aux = _loss(diffnn, own, batch)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for a, b in zip(*map(jax.tree.leaves, (aux.stats, expected_aux.stats)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert diffnn.predict is None
    codes = jax.eval_shape(diffnn.references.encode, own, batch["image"], batch["head"])
    gaze, difference = jax.eval_shape(diffnn.references.compare, own, codes, codes)
    assert gaze is None
    assert difference.shape == (B, 2)


def test_absolute_needs_no_reference():
    model = _model(use="absolute")
    params = jax.eval_shape(model.init, jax.random.key(0))
    batch = {k: v for k, v in _batch(np.random.default_rng(6)).items() if "ref" not in k}
    assert model.references is None
    _, aux = jax.eval_shape(
        model.loss, params.trainable, {}, params.stats, batch, jax.random.key(0)
    )
    assert set(aux.metrics) == {"loss_gaze"}
    features = jax.eval_shape(model.features, params, batch["image"], batch["head"])
    assert features.shape == (B, QUIET.hidden)


def test_dropout_is_for_training_only():
    params = _params()
    model = _model(dropout=0.5)
    batch = _batch(np.random.default_rng(7))
    first, again, other = (_loss(model, params, batch, jax.random.key(i))[0] for i in (0, 0, 1))
    assert first == again
    assert first != other
    quiet = _model(dropout=0.0)
    ask = lambda m: jax.jit(m.predict)(params, batch["image"], batch["head"])
    np.testing.assert_array_equal(ask(model), ask(quiet))


def test_features_are_what_the_gaze_head_ends_with():
    params = _params()
    model = _model(dropout=0.0)
    batch = _batch(np.random.default_rng(8))
    units = _jitted(model.features)(params, batch["image"], batch["head"])
    out = params.trainable["gaze"]["out"]
    joined = np.concatenate([units, batch["head"], batch["head"]], 1)
    gaze = joined @ np.asarray(out["kernel"]) + np.asarray(out["bias"])[None]
    single = _jitted(model.predict)(params, batch["image"], batch["head"])
    np.testing.assert_allclose(single, gaze, atol=1e-5)


def test_without_head_pose_the_angles_change_nothing():
    model = _model(uses_head=False)
    tree = dict(_params().trainable)
    for name in ("gaze", "difference"):
        out = tree[name]["out"]
        tree[name] = tree[name] | {"out": out | {"kernel": out["kernel"][: QUIET.hidden]}}
    params = Params(trainable=tree, stats=_params().stats)
    assert not model.uses_head
    batch = _batch(np.random.default_rng(9))
    ask = _jitted(model.predict)
    zero = ask(params, batch["image"], np.zeros((B, 2), np.float32))
    np.testing.assert_array_equal(ask(params, batch["image"], batch["head"]), zero)


def test_recommended_preset_keeps_losses_and_statistics_in_float32():
    config = DRNetConfig(**drnet.PRESETS["recommended"], hidden=QUIET.hidden)
    model, batch = drnet.make(config, dtype="bfloat16"), _batch(np.random.default_rng(10))
    params = _params()
    # The value is tested without noise and in float32; here only what comes out matters.
    value, aux = jax.eval_shape(
        model.loss, params.trainable, {}, params.stats, batch, jax.random.key(0)
    )
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves((value, aux)))
    gaze = jax.eval_shape(model.predict, params, batch["image"], batch["head"])
    assert gaze.dtype == jnp.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": 1.5, "dropout": 1.0}, "weight=1.5.*dropout=1.0"),
        ({"shortcut": "identity", "backbone": "vgg16"}, "use 'projection'"),
    ],
)
def test_impossible_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        DRNetConfig(**changes)
