"""Mesh axes ("data", "model") and the ordered rules that place every array on them.

A rule is (regex, PartitionSpec), or (regex, function of shape and mesh that gives one) such as `over_model`. The first
regex that matches a whole path such as "trainable/prompt/context" decides.
"""

import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from core_jax.train.settings import ConfigError
from core_jax.train.task import Params, Rules

AXES = ("data", "model")


def make_mesh(shape: Sequence[int] | str | None = None) -> Mesh:
    """The mesh of all devices, Auto axes.

    Args:
      shape: (data, model) sizes, or text as `read_mesh` takes it; None and "" put every device on "data".

    Returns:
      Mesh with the axes ("data", "model").

    Raises:
      ConfigError: the text is no mesh, or devices of several processes would share parameters.
      ValueError: the sizes do not multiply to the number of devices.
    """
    count = jax.device_count()
    if isinstance(shape, str):
        shape = read_mesh(shape, count)
    shape = (count, 1) if shape is None else tuple(shape)
    if len(shape) != 2 or shape[0] * shape[1] != count:
        raise ValueError(
            f"mesh={shape} does not fit {count} devices: expected (data, model) with "
            f"data * model == {count}"
        )
    kinds = (AxisType.Auto,) * 2
    if jax.process_count() == 1:
        return jax.make_mesh(shape, AXES, kinds)
    # Process by process, as they read a batch; jax.make_mesh takes no GPUs of several machines.
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    grid = np.array(devices).reshape(shape)
    _check_groups(grid)
    return Mesh(grid, AXES, axis_types=kinds)


def _check_groups(devices: np.ndarray) -> None:
    # A process reads its own slice of a batch: one device of a group would see other samples than the next.
    processes = [sorted({device.process_index for device in group}) for group in devices]
    if shared := next((found for found in processes if len(found) > 1), None):
        raise ConfigError(
            f"mesh=data:{devices.shape[0]},model:{devices.shape[1]}: the processes {shared} would share the parameters of one "
            "group, and each reads its own part of a batch; choose a size of model that divides the devices of a process"
        )


def read_mesh(text: str, count: int) -> tuple[int, int]:
    """(data, model) sizes from "data:4,model:2"; one of them may be -1, which is all the devices that are left.

    Args:
      text: an axis that is not named has size 1, but for "data" in "model:2", which takes what is left; "" is "data:-1".
      count: of devices.

    Raises:
      ConfigError: another form or axis, or sizes that do not multiply to `count`.
    """
    given = _named_sizes(text)
    data, model = given["data"] or (1 if given["model"] == -1 else -1), given["model"] or 1
    if data == -1 and model > 0 and count % model == 0:
        data = count // model
    elif model == -1 and data > 0 and count % data == 0:
        model = count // data
    if data * model != count or min(data, model) < 1:
        raise ConfigError(
            f"mesh={text!r} does not fit {count} devices: expected sizes whose product is {count}, at most one of them -1"
        )
    return data, model


def _named_sizes(text: str) -> dict[str, int]:
    given: dict[str, int] = dict.fromkeys(AXES, 0)
    for part in filter(None, text.replace(" ", "").split(",")):
        name, colon, size = part.partition(":")
        if name not in AXES or not colon or not re.fullmatch(r"-1|[1-9]\d*", size) or given[name]:
            raise ConfigError(
                f"mesh={text!r}: {part!r} is not data:SIZE or model:SIZE, each once, SIZE a number or -1 for all devices "
                "that are left"
            )
        given[name] = int(size)
    if given["data"] == given["model"] == -1:
        raise ConfigError(f"mesh={text!r}: expected sizes, at most one of them -1")
    return given


def where_it_fits(mesh: str | tuple[int, int]) -> str | tuple[int, int]:
    """A mesh, or "" on a machine whose devices it does not fit: a run may be judged elsewhere than it was trained.

    Raises:
      ConfigError: text that is no mesh on any machine.
    """
    if isinstance(mesh, str):
        _named_sizes(mesh)
    try:
        make_mesh(mesh)
    except ValueError:
        return ""
    return mesh


def over_model(shape: Sequence[int], mesh: Mesh) -> PartitionSpec:
    """Cuts an array over "model" along its largest axis that divides, the last of equal ones; vectors stay whole.

    Of a layer that widens and one that narrows again the wide axis is cut in both, so that what lies between them stays
    where it is computed.
    """
    parts = mesh.shape["model"]
    fits = [i for i, size in enumerate(shape) if size % parts == 0 and size > 1]
    if parts == 1 or len(shape) < 2 or not fits:
        return PartitionSpec()
    axis = max(fits, key=lambda i: (shape[i], i))
    return PartitionSpec(*(["model" if i == axis else None for i in range(axis + 1)]))


def path_name(path: Any) -> str:
    """A key path of jax.tree_util as "a/b/c"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named_leaves(params: Params) -> dict[str, Any]:
    """Every leaf by its path "trainable/...", "frozen/..." or "stats/...", in tree order."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def params_shardings(params: Params, rules: Rules, mesh: Mesh) -> Params:
    """Where every array lives.

    Args:
      params: arrays or `jax.ShapeDtypeStruct`s.
      rules: ordered pairs (see the module), matched against whole paths.
      mesh: axes "data" and "model".

    Returns:
      Params of `NamedSharding`.

    Raises:
      ValueError: trainable paths without a rule, rules that decide nothing, specs that do not fit
        their arrays. All of them are in the one message.
    """
    compiled = [(re.compile(pattern), spec) for pattern, spec in rules]
    decided: set[int] = set()
    problems: list[str] = []
    specs: dict[str, PartitionSpec] = {}
    for path, leaf in named_leaves(params).items():
        index = next((i for i, (regex, _) in enumerate(compiled) if regex.fullmatch(path)), None)
        if index is not None:
            decided.add(index)
            spec = compiled[index][1]
            specs[path] = spec(np.shape(leaf), mesh) if callable(spec) else spec
            problems += _spec_problems(path, np.shape(leaf), specs[path], mesh)
        elif path.startswith("trainable/"):
            problems.append(f"no rule matches {path} {np.shape(leaf)}")
        else:
            specs[path] = PartitionSpec()
    for index, (regex, _) in enumerate(compiled):
        if index not in decided:
            problems.append(
                f"rule {index} {regex.pattern!r} decides nothing: it matches no whole path, or "
                "earlier rules take all it matches"
            )
    if problems:
        raise ValueError(
            "sharding_rules do not fit the parameters:\n  "
            + "\n  ".join(problems)
            + '\nA pattern must match a whole path; ("trainable/.*", PartitionSpec()) as the last rule '
            "replicates whatever is left."
        )
    return jax.tree_util.tree_map_with_path(
        lambda path, _: NamedSharding(mesh, specs[path_name(path)]), params
    )


def _spec_problems(path: str, shape: tuple, spec: PartitionSpec, mesh: Mesh) -> list[str]:
    if len(spec) > len(shape):
        return [f"{path} {shape} has {len(shape)} axes, its rule {spec} names {len(spec)}"]
    problems = []
    for size, names in zip(shape, spec, strict=False):
        names = () if names is None else names if isinstance(names, tuple) else (names,)
        unknown = [name for name in names if name not in mesh.shape]
        if unknown:
            problems.append(f"{path}: {spec} names the axes {unknown}, the mesh has {AXES}")
            continue
        parts = int(np.prod([mesh.shape[name] for name in names], dtype=int))
        if size % parts:
            problems.append(
                f"{path} {shape}: an axis of {size} does not divide into {parts} parts {spec}"
            )
    return problems


def opt_state_shardings(
    optimizer: optax.GradientTransformation, trainable: Any, shardings: Any, mesh: Mesh
) -> Any:
    """Shardings of the optimizer's state: moments lie with their parameter, the rest is replicated.

    Args:
      optimizer: optax transformation.
      trainable: arrays or `jax.ShapeDtypeStruct`s.
      shardings: tree of `NamedSharding` like `trainable`.
      mesh: for the replicated leaves.

    Returns:
      Tree of `NamedSharding` like `optimizer.init(trainable)`.
    """
    replicated = NamedSharding(mesh, PartitionSpec())
    abstract = jax.eval_shape(optimizer.init, trainable)

    def place_of(leaf: Any, param: Any, sharding: NamedSharding) -> Any:
        # `optax.partition` leaves a hole where another transformation takes care of the parameter.
        if isinstance(leaf, optax.MaskedNode):
            return leaf
        # Factored moments (adafactor) stand at a parameter's place with another shape.
        return sharding if leaf.shape == param.shape else replicated

    return optax.tree.map_params(
        optimizer,
        place_of,
        abstract,
        trainable,
        shardings,
        transform_non_params=lambda _: replicated,
        is_leaf=lambda leaf: isinstance(leaf, optax.MaskedNode),
    )


def place(tree: Any, shardings: Any, *, copy: bool) -> Any:
    """Put host or device arrays where their shardings say.

    Args:
      tree: arrays, equal on every process.
      shardings: tree of `NamedSharding` like `tree`.
      copy: never share memory with `tree`; needed for whatever is donated later.

    Returns:
      Tree of global jax.Array.
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings, may_alias=False if copy else None)

    def assemble(leaf: Any, sharding: NamedSharding) -> jax.Array:
        leaf = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    return jax.tree.map(assemble, tree, shardings)


def whole(tree: Any) -> Any:
    """The arrays of a tree with all of each on every device, wherever their parts lay; for code that reads them by itself."""

    def one(x: Any) -> Any:
        if not isinstance(x, jax.Array) or x.is_fully_replicated:
            return x
        replicated = NamedSharding(x.sharding.mesh, PartitionSpec())  # pyright: ignore
        return jax.jit(lambda y: y, out_shardings=replicated)(x)

    return jax.tree.map(one, tree)
