"""What an object of the embedded world can be: shape x colour x texture, 256 classes, and which of them pre-training never sees.

Two orders of the same classes. `CLASSES` puts the compositions whose attribute numbers add up to an even number first and
the odd ones second, each half a fixed shuffle that holds every shape and colour 16 times; pre-training draws from it.
`CLASSES_BY_SHAPE` is the label order of `world/objects`: its first half has the first four shapes, its second half the
others. The field's base / new rule takes the first half of the labels as base classes, so a new class has a shape that
none of the base classes has, as the new classes of real data sets are other things and not other mixtures.
"""

import hashlib

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "diamond", "heart")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "cyan", "white")
TEXTURES = ("plain", "striped", "dotted", "checkered")

# Linear RGB-like tones in [0, 1], jittered by `COLOUR_JITTER` per channel; far enough apart that no two can meet.
PALETTE = (
    (0.90, 0.10, 0.12),
    (0.13, 0.72, 0.18),
    (0.12, 0.22, 0.92),
    (0.95, 0.90, 0.12),
    (0.60, 0.14, 0.76),
    (0.98, 0.50, 0.06),
    (0.10, 0.84, 0.90),
    (0.95, 0.95, 0.95),
)
COLOUR_JITTER = 0.06
SECOND_TONE = 0.3


def class_name(shape: int | str, colour: int | str, texture: int | str) -> str:
    """Name of a composition, for example "red striped ring".

    Args:
      shape: index into `SHAPES`, or one of its names.
      colour: index into `COLOURS`, or one of its names.
      texture: index into `TEXTURES`, or one of its names.

    Returns:
      "<colour> <texture> <shape>".

    Raises:
      ValueError: an attribute is unknown; the message names every one that is.
    """
    words, problems = [], []
    for kind, value, names in (
        ("colour", colour, COLOURS),
        ("texture", texture, TEXTURES),
        ("shape", shape, SHAPES),
    ):
        if isinstance(value, str):
            known = value in names
            words.append(value)
        else:
            known = 0 <= int(value) < len(names)
            words.append(names[int(value)] if known else "")
        if not known:
            problems.append(
                f"{kind} {value!r} is not one of {', '.join(names)} (0..{len(names) - 1})"
            )
    if problems:
        raise ValueError("; ".join(problems))
    return " ".join(words)


def _order(triple: tuple[int, int, int]) -> tuple[int, str]:
    return sum(triple) % 2, hashlib.sha256(class_name(*triple).encode()).hexdigest()


# Row i holds the (shape, colour, texture) indices of class i.
CLASS_ATTRIBUTES: tuple[tuple[int, int, int], ...] = tuple(
    sorted(
        (
            (shape, colour, texture)
            for shape in range(len(SHAPES))
            for colour in range(len(COLOURS))
            for texture in range(len(TEXTURES))
        ),
        key=_order,
    )
)
CLASSES: tuple[str, ...] = tuple(class_name(*triple) for triple in CLASS_ATTRIBUTES)
CLASSES_BY_SHAPE: tuple[str, ...] = tuple(
    name
    for late in (False, True)
    for name, (shape, _, _) in zip(CLASSES, CLASS_ATTRIBUTES, strict=True)
    if (shape >= len(SHAPES) // 2) is late
)
_INDEX = {name: i for i, name in enumerate(CLASSES)}

# About a tenth of the compositions never appear in pre-training; every shape, colour and texture, and every pair of
# them, still does, so that what is missing is the combination alone.
HELD_OUT: frozenset[str] = frozenset(
    class_name(shape, colour, texture)
    for shape, colour, texture in CLASS_ATTRIBUTES
    if (3 * shape + 5 * colour + 7 * texture) % 10 == 0
)


def class_index(name: str) -> int:
    """Index of a class name in `CLASSES`.

    Raises:
      ValueError: the name is not a class of the world.
    """
    if name not in _INDEX:
        raise ValueError(
            f"{name!r} is not a class of the embedded world; expected '<colour> <texture> <shape>', "
            f"for example {CLASSES[0]!r}"
        )
    return _INDEX[name]


def check_classes(names: tuple[str, ...]) -> None:
    """Checks a list of classes.

    Raises:
      ValueError: the list is empty, repeats a name or holds one that is not a class of the world; names all of them.
    """
    unknown = sorted({name for name in names if name not in _INDEX})
    twice = sorted({name for name in names if names.count(name) > 1})
    problems = [f"not classes of the embedded world: {', '.join(map(repr, unknown))}"] * bool(
        unknown
    )
    problems += [f"named more than once: {', '.join(map(repr, twice))}"] * bool(twice)
    problems += ["the list of classes is empty; expected at least one"] * (not names)
    if problems:
        raise ValueError(
            "; ".join(problems) + f". Class names read '<colour> <texture> <shape>': {CLASSES[0]!r}"
        )
