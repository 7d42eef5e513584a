"""The plug on toy backbones: identity, flows, state, token grids, messages, and what hosts may import."""

import ast
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gba_jax.adapters import GBA, GBAConfig, Plug, TapSpec, init, initial_stats

KEY = jax.random.key(4)
D, V = 5, 6
MAPS = (TapSpec("res2", 4, 4, "map"), TapSpec("res3", 6, 8, "map"), TapSpec("res5", 8, 32, "map"))
TOKENS = (TapSpec("block_0", 8, 16, "tokens", 1), TapSpec("dense", 8, 16, "tokens", 1))


def _text():
    text = np.random.default_rng(0).normal(size=(V, D)).astype(np.float32)
    return text / np.linalg.norm(text, axis=1, keepdims=True)


WORDS = {"text": _text(), "row_mask": np.ones(V, bool)}


def _backbone(x, tap=lambda name, x: x):
    """Three stages that double the width's information; publishes maps before and after every tap."""
    maps = {}
    for spec in MAPS:
        mix = np.random.default_rng(spec.channels).normal(size=(x.shape[-1], spec.channels))
        x = jnp.tanh(x @ mix.astype(np.float32))
        maps[f"{spec.name}/raw"] = x
        x = maps[spec.name] = tap(spec.name, x)
    return maps


def _pixels():
    return np.random.default_rng(1).normal(size=(4, 6, 5, 3)).astype(np.float32)


def _gba(preset="intent", **switches):
    module = GBA(MAPS, "res2", "res5", preset, GBAConfig(**switches))
    return module, *init(module, D, key=KEY)


def _awake(params):
    """Parameters whose gains are no longer 0."""
    rng = np.random.default_rng(7)
    return jax.tree.map(lambda p: p + 0.3 * rng.normal(size=p.shape).astype(np.float32), params)


@pytest.mark.parametrize("flow", ["through", "stop", "side"])
def test_fresh_adapters_leave_every_map_as_it_was(flow):
    module, params, stats = _gba(sda_flow=flow)
    plain = _backbone(_pixels())

    @jax.jit
    def run(params, stats, plain):
        plug = Plug(module, params, stats, **WORDS)
        maps = plug.merge(_backbone(_pixels(), plug))
        # The taps alone, without a state, on maps that are already there.
        alone = Plug(module, params, {}, **WORDS)
        tapped = {
            name: x if name.endswith("/raw") else alone(name, plain[f"{name}/raw"])
            for name, x in plain.items()
        }
        return maps, plug.stats, alone.merge(tapped)

    maps, after, tapped = run(params, stats, plain)
    assert maps.keys() == plain.keys()
    # One program against many: the compiler may round the backbone itself differently.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), maps, plain)
    jax.tree.map(np.testing.assert_array_equal, after, stats)
    jax.tree.map(np.testing.assert_array_equal, tapped, plain)
    assert "fft" not in run.lower(params, stats, plain).as_text().lower()


def test_flows_decide_what_later_stages_see_and_what_learns():
    modules = {flow: _gba(sda_flow=flow) for flow in ("through", "stop", "side")}
    params = _awake(modules["through"][1])

    @jax.jit
    def look(params):
        """(outputs, gradients of SDA's gain) of every flow, and the plain maps: in one program, so that equal is equal."""
        outputs, slopes = {}, {}
        for flow, (module, _, stats) in modules.items():

            def run(params, module=module, stats=stats):
                plug = Plug(module, params, stats, **WORDS)
                maps = plug.merge(_backbone(_pixels(), plug))
                return {name: maps[name] for name in ("res2", "res3")}

            outputs[flow], pull = jax.vjp(run, params)
            # The slope of the sum of one map's squares.
            slopes[flow] = {
                name: jnp.abs(
                    pull({n: 2 * x if n == name else 0 * x for n, x in outputs[flow].items()})[0][
                        "sda"
                    ]["gain"]
                ).max()
                for name in outputs[flow]
            }
        return outputs, slopes, _backbone(_pixels())

    outputs, slopes, plain = jax.device_get(look(params))
    for flow in ("stop", "side"):
        np.testing.assert_array_equal(outputs[flow]["res2"], outputs["through"]["res2"])
    np.testing.assert_array_equal(outputs["stop"]["res3"], outputs["through"]["res3"])
    np.testing.assert_array_equal(outputs["side"]["res3"], plain["res3"])
    assert np.abs(outputs["through"]["res3"] - plain["res3"]).max() > 1e-2
    assert all(slopes[flow]["res2"] > 0 for flow in slopes)
    assert slopes["through"]["res3"] > 0
    assert slopes["stop"]["res3"] == slopes["side"]["res3"] == 0


@pytest.mark.parametrize(
    ("preset", "switches", "keys"),
    [
        ("intent", {}, {"style_bank"}),
        ("intent", {"style": "apr"}, set()),
        ("intent", {"norm": "pcnorm_bn"}, {"style_bank", "cca_norm"}),
        ("released", {}, {"style_bank", "sda_norm", "cca_norm"}),
    ],
    ids=["default", "stateless", "pcnorm_bn", "released"],
)
def test_state_keeps_its_structure_through_training_steps(preset, switches, keys):
    module, params, stats = _gba(preset, **switches)
    assert set(stats) == keys

    @jax.jit
    def step(params, stats, key):
        plug = Plug(module, params, stats, **WORDS, train=True, key=key)
        return jnp.sum(_backbone(_pixels(), plug)["res5"]), plug.stats

    types = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    after = stats
    for i in range(2):
        loss, after = step(params, after, jax.random.fold_in(KEY, i))
    assert np.isfinite(loss)
    assert types(after) == types(stats)
    if preset == "released":
        jax.tree.map(np.testing.assert_array_equal, after, stats)
    if "style_bank" in keys and preset == "intent":
        assert int(after["style_bank"]["pushed"]) == 8
    if switches == {"norm": "pcnorm_bn"}:
        assert np.abs(after["cca_norm"]["mean"]).max() > 0


def test_tokens_go_through_their_grid_and_prefixes_bypass():
    module = GBA(TOKENS, "block_0", "dense", "intent", GBAConfig())
    params, stats = init(module, D, key=KEY)
    params = _awake(params)
    tokens = np.random.default_rng(3).normal(size=(2, 1 + 6, 8)).astype(np.float32)
    maps = (TapSpec("block_0", 8, 16, "map"), TapSpec("dense", 8, 16, "map"))
    plain = GBA(maps, "block_0", "dense", "intent", GBAConfig())

    @functools.partial(jax.jit, static_argnums=1)
    def both(tokens, name):
        y = Plug(module, params, stats, **WORDS, grid=(2, 3))(name, tokens)
        return y, Plug(plain, params, stats, **WORDS)(name, tokens[:, 1:].reshape(2, 2, 3, 8))

    for name in ("block_0", "dense"):
        y, expected = both(tokens, name)
        np.testing.assert_array_equal(y[:, 0], tokens[:, 0])
        np.testing.assert_allclose(y[:, 1:], expected.reshape(2, 6, 8), atol=1e-6)
        assert np.abs(y[:, 1:] - tokens[:, 1:]).max() > 1e-2
    with pytest.raises(ValueError, match="6 tokens behind 1, but the grid is 2 x 2"):
        Plug(module, params, stats, **WORDS)("dense", tokens)


@pytest.mark.parametrize(("shallow", "deep"), [("res2", None), (None, "res5"), (None, None)])
def test_either_adapter_may_be_left_out(shallow, deep):
    module = GBA(MAPS, shallow, deep)
    params, stats = init(module, D, key=KEY)
    assert set(params) == {k for k, v in {"sda": shallow, "cca": deep}.items() if v}
    assert Plug(module, params, stats, **WORDS).clip_name == (deep and f"{deep}/raw")

    @jax.jit
    def run(params, stats):
        plug = Plug(module, params, stats, **WORDS, train=True, key=KEY)
        return _backbone(_pixels(), plug), plug.stats

    maps, after = run(params, stats)
    assert all(np.isfinite(x).all() for x in maps.values())
    assert jax.tree.structure(after) == jax.tree.structure(initial_stats(module))


def test_clip_map_is_before_the_adapter_unless_said_otherwise():
    names = [
        Plug(module, params, stats, **WORDS).clip_name
        for module, params, stats in (_gba(), _gba(clip_tap="post_cca"), _gba("released"))
    ]
    assert names == ["res5/raw", "res5", "res5"]


def test_vocabulary_sampling_reaches_cca_in_training_only():
    rows = 40
    text = np.random.default_rng(0).normal(size=(rows, D)).astype(np.float32)
    words = {"text": text, "row_mask": np.ones(rows, bool)}
    words |= {"class_of_row": np.arange(rows, dtype=np.int32), "present": np.zeros(rows, bool)}
    x = np.random.default_rng(2).normal(size=(1, 3, 3, 8)).astype(np.float32)
    modules = {probability: _gba(sample_vocabulary=probability) for probability in (0.0, 1.0)}

    @jax.jit
    def run(params):
        """In one program, so that equal is equal."""
        outputs = {}
        for probability, (module, _, stats) in modules.items():
            for train in (False, True):
                plug = Plug(module, params, stats, **words, train=train, key=KEY)
                outputs[probability, train] = plug("res5", x)
        return outputs

    outputs = jax.device_get(run(_awake(modules[0.0][1])))
    np.testing.assert_array_equal(outputs[0.0, True], outputs[0.0, False])
    np.testing.assert_array_equal(outputs[1.0, False], outputs[0.0, False])
    assert np.abs(outputs[1.0, True] - outputs[0.0, True]).max() > 1e-4


def test_everything_that_does_not_fit_is_reported_together():
    with pytest.raises(ValueError, match=r"shallow='stage2'.*deep='stage5' is not a tap; there are res2, res3, res5"):  # fmt: skip
        GBA(MAPS, "stage2", "stage5")
    with pytest.raises(ValueError, match=r"kind='pixels'.*expected two taps"):
        GBA((TapSpec("a", 4, 4, "pixels"),), "a", "a")
    with pytest.raises(ValueError, match=r"norm='batch'.*refresh_steps=0"):
        GBAConfig(norm="batch", refresh_steps=0)
    with pytest.raises(ValueError, match="preset is 'public'"):
        GBA(MAPS, "res2", "res5", "public")
    _, params, stats = _gba()
    swapped = GBA(MAPS, "res3", "res2")
    with pytest.raises(ValueError, match=r"sda was made for 4 channels, tap 'res3' has 6; cca was made for 8"):  # fmt: skip
        Plug(swapped, params, stats, **WORDS)
    module = _gba()[0]
    with pytest.raises(ValueError, match="text rows of width 5, they have 9"):
        Plug(module, params, stats, text=jnp.zeros((V, 9)), row_mask=WORDS["row_mask"])
    with pytest.raises(ValueError, match="sda at tap 'res2' has no parameters"):
        Plug(module, {"cca": params["cca"]}, stats, **WORDS)
    with pytest.raises(ValueError, match=r"'res2' was announced with 4 channels.*\(1, 2, 2, 9\)"):
        Plug(module, params, stats, **WORDS)("res2", jnp.zeros((1, 2, 2, 9)))
    with pytest.raises(ValueError, match="pass key="):
        Plug(module, params, stats, **WORDS, train=True)
    zero = {"style_bank": {**stats["style_bank"], "ready": jnp.ones((), bool)}}
    with pytest.raises(ValueError, match="all 64 rows of the style bank are 0"):
        Plug(module, params, zero, **WORDS)


def test_hosts_and_the_core_never_import_an_adapter():
    root = pathlib.Path(__file__).parents[2]
    files = [*(root / "core_jax").rglob("*.py"), *(root / "gba_jax" / "hosts").rglob("*.py")]
    problems = []
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                names = {node.module or "", *(f"{node.module}.{a.name}" for a in node.names)}
            elif isinstance(node, ast.Import):
                names = {alias.name for alias in node.names}
            else:
                continue
            if names & {"gba_jax.adapters.sda", "gba_jax.adapters.cca"}:
                problems.append(f"{path.relative_to(root)}:{node.lineno}")
    assert not problems
