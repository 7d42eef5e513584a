"""The eye baselines: published sizes, torch restatements of LeNet and ResNet-8, and the mean of the labels."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from core_jax.train import Params
from gaze_jax import losses, recipe
from gaze_jax.networks import eye_baselines

COUNTS = {"lenet_eye": 1_827_076, "resnet8_eye": 77_046, "mean": 2}


class TorchLeNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv_0, self.conv_1 = torch.nn.Conv2d(1, 20, 5), torch.nn.Conv2d(20, 50, 5)
        self.fc, self.out = torch.nn.Linear(3600, 500), torch.nn.Linear(502, 2)

    def forward(self, x, head):
        for conv in (self.conv_0, self.conv_1):
            x = torch.nn.functional.max_pool2d(conv(x), 2)
        # Ours flattens channels last.
        x = torch.relu(self.fc(x.permute(0, 2, 3, 1).flatten(1)))
        return self.out(torch.cat([x, head], 1))


class TorchResNet8(torch.nn.Module):
    def __init__(self):
        super().__init__()
        conv = lambda a, b, size, stride: torch.nn.Conv2d(a, b, size, stride, size // 2, bias=False)
        self.conv, before = conv(1, 16, 3, 1), 16
        for i, (width, stride) in enumerate(((16, 1), (32, 2), (64, 2))):
            self.add_module(f"norm_{i}_0", torch.nn.BatchNorm2d(before))
            self.add_module(f"conv_{i}_0", conv(before, width, 3, stride))
            self.add_module(f"norm_{i}_1", torch.nn.BatchNorm2d(width))
            self.add_module(f"conv_{i}_1", conv(width, width, 3, 1))
            if i:
                self.add_module(f"down_{i}", conv(before, width, 1, stride))
            before = width
        self.norm, self.out = torch.nn.BatchNorm2d(64), torch.nn.Linear(66, 2)

    def forward(self, x, head):
        x, part = self.conv(x), self.get_submodule
        for i in range(3):
            x = torch.relu(part(f"norm_{i}_0")(x))
            y = torch.relu(part(f"norm_{i}_1")(part(f"conv_{i}_0")(x)))
            x = part(f"conv_{i}_1")(y) + (part(f"down_{i}")(x) if i else x)
        x = torch.relu(self.norm(x)).mean((2, 3))
        return self.out(torch.cat([x, head], 1))


def _batch(rng, count=6):
    gaze = rng.normal(0, 0.2, (count, 2)).astype(np.float32)
    return {
        "image": rng.integers(0, 256, (count, 36, 60, 1), np.uint8),
        "head": rng.normal(0, 0.2, (count, 2)).astype(np.float32),
        "gaze": gaze,
        "person": np.array([0, 0, 0, 1, 1, 2], np.int32)[:count],
        "side": np.array([0, 0, 1, 0, 0, 0], np.int32)[:count],
    }


def _copy_into(torch_model, params):
    """Our parameters and statistics in the torch network, by name."""
    flat = {}
    for tree in (params.trainable, params.stats):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            flat[jax.tree_util.keystr(path, simple=True, separator=".")] = np.asarray(leaf)
    names = {"scale": "weight", "mean": "running_mean", "var": "running_var", "kernel": "weight"}
    state = {}
    for name, leaf in flat.items():
        *rest, last = [part for part in name.split(".") if part != "units"]
        axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(leaf.ndim)
        state[".".join([*rest, names.get(last, last)])] = torch.tensor(
            leaf.transpose(axes) if axes else leaf
        )
    missing, unexpected = torch_model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)


def _count(params):
    return sum(x.size for x in jax.tree.leaves(params.trainable))


@pytest.mark.parametrize("name", ["lenet_eye", "resnet8_eye"])
def test_equal_torch_in_training_and_inference(name):
    model, rng = eye_baselines.make(name), np.random.default_rng(0)
    params, batch = model.init(jax.random.key(0)), _batch(rng)
    assert _count(params) == COUNTS[name]
    # Statistics and biases that do something.
    shake = lambda tree: jax.tree.map(
        lambda x: x + 0.1 * jnp.asarray(rng.uniform(size=x.shape), x.dtype) if x.ndim == 1 else x,
        tree,
    )
    params = Params(trainable=shake(params.trainable), stats=shake(params.stats))
    theirs = TorchLeNet() if name == "lenet_eye" else TorchResNet8()
    _copy_into(theirs, params)
    pictures = torch.tensor(batch["image"].transpose(0, 3, 1, 2)).float() / 255
    head, gaze = torch.tensor(batch["head"]), torch.tensor(batch["gaze"])

    got = jax.jit(model.predict)(params, batch["image"], batch["head"])
    with torch.no_grad():
        expected = theirs.eval()(pictures, head)
    np.testing.assert_allclose(got, expected, atol=1e-5)

    value, aux = jax.jit(model.loss)(
        params.trainable, params.frozen, params.stats, batch, jax.random.key(1)
    )
    with torch.no_grad():
        predicted = theirs.train()(pictures, head)
    np.testing.assert_allclose(value, torch.nn.functional.mse_loss(predicted, gaze), atol=1e-5)
    state = theirs.state_dict()
    for path, leaf in jax.tree_util.tree_leaves_with_path(aux.stats):
        key = jax.tree_util.keystr(path, simple=True, separator=".").removeprefix("units.")
        key = key.replace(".mean", ".running_mean").replace(".var", ".running_var")
        np.testing.assert_allclose(leaf, state[key], atol=1e-5)


def test_gazenet_has_vggs_convolutions_and_its_own_dense_part():
    model = eye_baselines.make("gazenet_eye")
    params = jax.eval_shape(model.init, jax.random.key(0))
    # Thirteen convolutions of VGG-16 on one channel; the last map is 4 x 7 x 512.
    convolutions = 14_714_688 - 2 * 9 * 64
    assert _count(params) == convolutions + (4 * 7 * 512 + 1) * 512 + (512 + 2 + 1) * 2
    images = jax.ShapeDtypeStruct((3, 36, 60, 1), jnp.uint8)
    head = jax.ShapeDtypeStruct((3, 2), jnp.float32)
    assert jax.eval_shape(model.predict, params, images, head).shape == (3, 2)
    assert jax.eval_shape(model.features, params, images, head).shape == (3, 512)


def test_mean_is_the_mean_of_all_labels_seen():
    model, rng = eye_baselines.make("mean"), np.random.default_rng(0)
    params = model.init(jax.random.key(0))
    optimizer = recipe.optimizer(eye_baselines.RECIPES["mean"], 5)
    trainable, state, seen = params.trainable, optimizer.init(params.trainable), []

    @jax.jit
    def step(trainable, state, batch):
        grads = jax.grad(model.loss, has_aux=True)(trainable, {}, {}, batch, jax.random.key(0))[0]
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(grads, state, trainable)
        return optax.apply_updates(trainable, updates), state

    for _ in range(5):
        batch = _batch(rng)
        seen.append(batch["gaze"])
        trainable, state = step(trainable, state, batch)
    got = model.predict(Params(trainable=trainable), batch["image"], batch["head"])
    np.testing.assert_allclose(got, np.tile(np.mean(seen, (0, 1)), (6, 1)), atol=1e-6)


def test_pairwise_loss_adds_its_weighted_mean():
    plain, rng = eye_baselines.make("lenet_eye"), np.random.default_rng(0)
    params, batch = plain.init(jax.random.key(0)), _batch(rng)
    arguments = (params.trainable, params.frozen, params.stats, batch, jax.random.key(1))
    value, _ = plain.loss(*arguments)
    more, aux = losses.with_pairwise(plain, 0.5).loss(*arguments)
    total, count = aux.metrics["loss_pairwise"]
    assert count == 2 * 2  # pairs (0, 1) and (3, 4), two angles each
    np.testing.assert_allclose(more - value, 0.5 * total / count, rtol=1e-5)
    assert losses.with_pairwise(plain, 0.0) is plain


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"'alexnet'.*lenet_eye"):
        eye_baselines.make("alexnet")
