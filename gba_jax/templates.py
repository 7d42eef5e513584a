"""Prompt templates: the sentences a word is put into before the text tower sees it.

- `vild14` (ViLD, arXiv 2104.13921; used by mask-classification hosts): 14 sentences, five without and nine with a size;
- `scene` (cost-aggregation hosts, arXiv 2303.11797): one sentence;
- `single` (CLIP, arXiv 2103.00020): one sentence;
- `file:NAME`: the user's own, one sentence a line.
"""

import dataclasses
import functools
import pathlib

from core_jax.data import files

SLOT = "{}"
_SIZES = ("small", "medium", "large")
_FILE = "file:"

KNOWN: dict[str, tuple[str, ...]] = {
    "vild14": (
        "a photo of a {}.",
        "This is a photo of a {}",
        "There is a {} in the scene",
        "There is the {} in the scene",
        "a photo of a {} in the scene",
        *(f"a photo of a {size} {SLOT}." for size in _SIZES),
        *(f"This is a photo of a {size} {SLOT}." for size in _SIZES),
        *(f"There is a {size} {SLOT} in the scene." for size in _SIZES),
    ),
    "scene": ("A photo of a {} in the scene",),
    "single": ("a photo of a {}.",),
}


class TemplateError(ValueError):
    """Templates that do not exist or cannot be used; the message lists every bad line."""


@dataclasses.dataclass(frozen=True)
class Templates:
    """Sentences with one {} each, and the name they were asked for by.

    Raises:
      TemplateError: there is no sentence, or some hold {} never or more than once; all are listed.
    """

    name: str
    lines: tuple[str, ...]

    def __post_init__(self):
        _check(self.name, dict(enumerate(self.lines, 1)))

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the sentences in order; the name does not count."""
        return files.digest(list(self.lines))

    def fill(self, word: str) -> list[str]:
        """The word in every sentence; other braces in either stay as they are."""
        return [line.replace(SLOT, word) for line in self.lines]


def resolve(name: str) -> Templates:
    """The templates of a name.

    Args:
      name: a key of `KNOWN`, or "file:NAME" with the path of a UTF-8 text file: a sentence a line, empty lines left out.

    Raises:
      TemplateError: the name is unknown, the file cannot be read, or lines of it have no single {}.
    """
    if name in KNOWN:
        return Templates(name, KNOWN[name])
    if not name.startswith(_FILE):
        raise TemplateError(
            f"templates {name!r} are unknown: expected one of {', '.join(KNOWN)}, or file:NAME for your own"
        )
    path = pathlib.Path(name.removeprefix(_FILE))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateError(f"the template file {path} cannot be read: {error}") from error
    numbered = {i: line.strip() for i, line in enumerate(text.splitlines(), 1) if line.strip()}
    _check(str(path), numbered)
    return Templates(name, tuple(numbered.values()))


def _check(name: str, numbered: dict[int, str]) -> None:
    if not numbered:
        raise TemplateError(
            f"templates {name} hold no sentence: expected at least one line with a {SLOT}"
        )
    bad = [f"line {i}: {line!r}" for i, line in numbered.items() if line.count(SLOT) != 1]
    if bad:
        raise TemplateError(
            f"{len(bad)} of {len(numbered)} templates in {name} do not hold {SLOT} exactly once:\n  "
            + "\n  ".join(bad)
        )
