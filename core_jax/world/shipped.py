"""Where the small CLIP pair lies that ships with the package."""

import pathlib

PAIR: tuple[str, ...] = ("student", "teacher")
_FOLDER = pathlib.Path(__file__).parent / "pair"


def pair(name: str) -> pathlib.Path:
    """Folder of a shipped tower pair in HuggingFace's layout, for `core_jax.clip.load`.

    Args:
      name: "student" or "teacher".

    Raises:
      ValueError: there is no such member.
      FileNotFoundError: the installed package lacks the files.
    """
    if name not in PAIR:
        raise ValueError(
            f"the embedded pair has no member {name!r}; expected one of {', '.join(PAIR)}"
        )
    folder = _FOLDER / name
    if not (folder / "model.safetensors").is_file():
        raise FileNotFoundError(
            f"{folder / 'model.safetensors'} is missing: the package was installed without its data files. "
            "Install it again (pip install -e .), or train the pair with --config=configs/world_clip.py"
        )
    return folder
