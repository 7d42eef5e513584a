"""Mesh axes ("data", "model") and the ordered rules that place every array on them.

A rule is (regex, PartitionSpec). The first regex that matches a whole path such as
"trainable/prompt/context" decides.
"""

import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from core_jax.train.task import Params, Rules

AXES = ("data", "model")


def make_mesh(shape: Sequence[int] | None = None) -> Mesh:
    """The mesh of all devices, Auto axes.

    Args:
      shape: (data, model) sizes; None puts every device on "data".

    Returns:
      Mesh with the axes ("data", "model").

    Raises:
      ValueError: the sizes do not multiply to the number of devices.
    """
    count = jax.device_count()
    shape = (count, 1) if shape is None else tuple(shape)
    if len(shape) != 2 or shape[0] * shape[1] != count:
        raise ValueError(
            f"mesh_shape {shape} does not fit {count} devices: expected (data, model) with "
            f"data * model == {count}"
        )
    return jax.make_mesh(shape, AXES, (AxisType.Auto,) * 2)


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
      rules: ordered (regex, PartitionSpec) pairs, matched against whole paths.
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
            specs[path] = compiled[index][1]
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
