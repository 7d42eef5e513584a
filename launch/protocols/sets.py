"""The data sets of the protocols: the field's eleven, ImageNet's variants, and what the embedded world has in their place.

A protocol on `world_objects` is the same protocol on rendered pictures; its results are called synthetic. As domains it has
the same scenes in styles that the training pictures are not in, as other data sets tasks that ask for one attribute alone,
or for compositions that the models' pre-training never showed. All of them are written as real files.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from core_jax import world
from core_jax.data import files
from core_jax.world import attributes
from core_jax.world import datasets as world_sets
from fdbpl_jax import datasets
from fdbpl_jax.transfer import Target
from launch.config import ConfigError

Path = pathlib.Path

IMAGENET = "imagenet"
OTHERS = (
    *("caltech101", "oxford_pets", "stanford_cars", "oxford_flowers", "food101"),
    *("fgvc_aircraft", "sun397", "dtd", "eurosat", "ucf101"),
)
ELEVEN = (IMAGENET, *OTHERS)
VARIANTS = ("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r")
SHOTS = (1, 2, 4, 8, 16)

WORLD = "world_objects"
_PREFIX = "world_"
# Those that the pictures of `world_objects` are not in.
WORLD_STYLES = tuple(f"{_PREFIX}{name}" for name in ("clean", *world.TEST_STYLES))
_ATTRIBUTES = {
    "world_shapes": (attributes.SHAPES, 0),
    "world_colours": (attributes.COLOURS, 1),
    "world_textures": (attributes.TEXTURES, 2),
}
_HELD_OUT = "world_held_out"
WORLD_OTHERS = (*_ATTRIBUTES, _HELD_OUT)
_TEMPLATE = "a {}."


def is_synthetic(name: str) -> bool:
    """Whether a data set's pictures are rendered."""
    return name.startswith(_PREFIX)


def targets(names: Sequence[str], root: str | Path) -> list[Target]:
    """The data sets that names stand for; nothing is written or read.

    Args:
      names: of data sets below the root, of sets of the embedded world, or "NAME=FOLDER" for an image folder.
      root: of the data sets; the world's own lie in folders of their names below it.

    Raises:
      ConfigError: names that stand for nothing, or stand there twice, all in one message.
    """
    found, problems = {}, []
    for text in names:
        name, equals, folder = text.partition("=")
        if equals:
            one = Target(name=name, dataset=datasets.FOLDER, root=folder)
        elif name in WORLD_STYLES or name == _HELD_OUT:
            one = Target(name=name, dataset=WORLD, root=str(Path(root) / name))
        elif name in _ATTRIBUTES:
            place, reader = str(Path(root) / name), datasets.FOLDER
            one = Target(name=name, dataset=reader, root=place, template=_TEMPLATE)
        elif name in datasets.NAMES and name != datasets.FOLDER:
            one = Target(name=name, dataset=name, root=str(root))
        else:
            known = ", ".join((*datasets.LAYOUTS, *WORLD_STYLES, *WORLD_OTHERS))
            problems.append(
                f"--targets={text}: no such data set; there are {known}, and NAME=FOLDER is an image folder"
            )
            continue
        if not name or name in found:
            problems.append(f"--targets={text}: expected different names")
        found[name] = one
    if problems:
        raise ConfigError("\n".join(problems))
    return list(found.values())


def write_world(wanted: Sequence[Target], root: str | Path) -> None:
    """Write those of the targets that are the embedded world's, in the size and number of its `world_objects`.

    Args:
      wanted: from `targets`.
      root: where `world_objects` lies, complete.

    Raises:
      core_jax.world.WorldFolderError: a folder holds something else.
    """
    own = [target for target in wanted if is_synthetic(target.name) and target.name != WORLD]
    if not own:
        return
    marker = Path(root) / WORLD / "world.json"
    source = json.loads(marker.read_text(encoding="utf-8"))["parameters"]
    for target in own:
        print(f"pictures of {target.name} -> {target.root}", flush=True)
        _write(target, source)


def write_dictionary(path: Path) -> None:
    """A dictionary of everything that the embedded world's words can name: all classes, and descriptions with fewer words."""
    names = [
        *world.CLASSES,
        *(f"{colour} {shape}" for colour in world.COLOURS for shape in world.SHAPES),
        *(f"{texture} {shape}" for texture in world.TEXTURES for shape in world.SHAPES),
        *world.SHAPES,
    ]
    files.atomic_write(path, "\n".join(names) + "\n")


def _write(target: Target, source: Mapping[str, Any]) -> None:
    """One set of the world: a style of the same scenes, or other pictures in another label space."""
    root, size, seed = Path(target.root), source["size"], source["seed"]
    tests, classes = source["test_per_class"], tuple(source["classes"])
    # Readers want a training list that names every class.
    few = {"train_per_class": 1, "val_per_class": 1, "size": size}
    style = target.name.removeprefix(_PREFIX)
    if target.name in WORLD_STYLES:
        world.write_objects(
            root, seed=seed, test_per_class=tests, styles=style, classes=classes, **few
        )
        return
    styles = tuple((name, share) for name, share in source["styles"])
    other = {"seed": seed + 1, "styles": styles, **few}
    if target.name == _HELD_OUT:
        classes = tuple(sorted(world.HELD_OUT))
        world.write_objects(root, test_per_class=tests, classes=classes, **other)
        return
    # Many classes share an attribute: a quarter of the pictures of each is plenty.
    folder = world.write_objects(root, test_per_class=max(1, tests // 4), classes=classes, **other)
    names, position = _ATTRIBUTES[target.name]
    table = json.loads((folder / world_sets.OBJECTS_SPLIT).read_text(encoding="utf-8"))
    present = [attributes.CLASS_ATTRIBUTES[attributes.class_index(c)][position] for c in classes]
    label = {value: place for place, value in enumerate(sorted(set(present)))}
    pictures = f"{folder.relative_to(root).as_posix()}/images"
    rows = {
        split: [
            [f"{pictures}/{path}", label[present[old]], names[present[old]]]
            for path, old, _ in table[split]
        ]
        for split in table
    }
    files.atomic_write(root / "split.json", json.dumps(rows) + "\n")
