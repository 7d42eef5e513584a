"""Pictures and words to label maps, overlays and one JSON file: what `launch.predict` does with a segmenter."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

from launch import config as config_lib

Path = pathlib.Path
RESULT = "segmentation.json"
# As the readers of data sets have it: this value of a 16-bit mask is no class.
UNLABELLED = 65_535


def from_config(values: dict[str, Any]) -> Any:
    """The predictor of a configuration whose host needs no training.

    Raises:
      ConfigError: it is no such configuration.
    """
    from gba_jax import trained

    if (values.get("task"), values.get("host")) != ("gba", "maskclip"):
        raise config_lib.ConfigError(
            f"--config names task {values.get('task')} with host {values.get('host')}, which has to be trained; expected "
            "task gba with host maskclip, or --workdir of a run"
        )
    return trained.predictor(values, {}, {})


def from_clip(name: str) -> Any:
    """The training-free host on a CLIP by folder (HuggingFace's or OpenCLIP's), hub id, or as world:student, world:teacher.

    Raises:
      ConfigError: it is no ViT.
    """
    from core_jax.train import Params
    from gba_jax import backbones, predict, templates, windows
    from gba_jax.model import Segmenter

    # The embedded pair knows the words of its world alone: no "photo of a medium ...", and scenes of 128 pixels.
    embedded = name.startswith("world:")
    opened = backbones.open_backbone(name, image_size=128 if embedded else None, mode="residual")
    backbone = opened.backbone
    if backbone.image_size is None:
        raise config_lib.ConfigError(
            f"--clip={name}: a ConvNeXt; segmentation without training needs a ViT"
        )
    return predict.of(
        Segmenter(host="maskclip", backbone=backbone),
        Params(trainable={}, frozen={"clip": opened.params}, stats={}),
        encoder=opened.encoder,
        sentences=templates.resolve("single" if embedded else "vild14"),
        plan=windows.whole(backbone.image_size),
    )


def with_windows(model: Any, side: int) -> Any:
    """A predictor that sees pictures squeezed to `side`, through windows of its own size that overlap by a third to a half.

    Raises:
      ConfigError: the model takes pictures of any size, or larger ones than that.
    """
    from gba_jax import windows

    plan = model.plan
    if isinstance(plan, windows.Padded):
        raise config_lib.ConfigError(
            f"--resize={side}: this model takes pictures of any size and needs no windows"
        )
    window = plan.window if isinstance(plan, windows.Sliding) else plan.size
    try:
        # Window maps are averaged on a grid on which all windows begin: a stride with large common divisors keeps it coarse.
        strides = range(max(1, window // 2), max(1, 2 * window // 3) + 1)
        stride = max(strides, key=lambda stride: (math.gcd(side, window, stride), stride))
        plan = windows.sliding(side, window, stride)
        return dataclasses.replace(model, plan=plan)
    except ValueError as error:
        raise config_lib.ConfigError(f"--resize={side}: {error}") from error


def segment_files(
    model: Any,
    paths: Sequence[Path],
    classes: Sequence[str],
    out: str | Path,
    *,
    background: str = "none",
    things: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Segment picture files and write what was found.

    Args:
      model: gba_jax.predict.Predictor.
      paths: pictures.
      classes: "name" or "name, synonym, ..." each.
      out: folder to write into; made if missing.
      background: the policy (`gba_jax.predict`).
      things: first words of the countable classes, whose segments are told apart; ["all"] for all.

    Returns:
      One dict a picture, as written.

    Raises:
      ValueError: pictures or words cannot be used; nothing was written.
    """
    import tqdm

    from core_jax.data import files
    from core_jax.train import report
    from gba_jax import predict, vocabulary

    words = vocabulary.build(classes, _flags(classes, things))
    ask = predict.prepare(words, model=model, background=background)
    _check(paths)
    out, rows = Path(out), []
    bar = tqdm.tqdm(zip(paths, _stems(paths)), total=len(paths), unit="picture", disable=None)
    for path, stem in bar:
        found = ask(path)
        names = {"labels": f"{stem}_labels.png", "overlay": f"{stem}_overlay.png"}
        _write_map(found.label_map, out / names["labels"])
        with files.atomic_path(out / names["overlay"]) as temporary:
            found.picture().save(temporary, format="PNG")
        height, width = found.label_map.shape
        row = {"file": str(path), "height": height, "width": width, **names}
        row |= {"unlabelled": float((found.label_map < 0).mean()), "classes": found.classes}
        if found.segments is not None and found.segment_map is not None:
            row |= {"segments_map": f"{stem}_segments.png", "segments": found.segments}
            _write_map(found.segment_map, out / row["segments_map"])
        rows.append(row)
    names = {"classes": list(classes), "background": background, "unlabelled": UNLABELLED}
    text = json.dumps({**names, "pictures": rows}, indent=1, ensure_ascii=False)
    files.atomic_write(out / RESULT, text + "\n")
    print(report.terminal(table(rows)), end="")
    count = "1 picture" if len(rows) == 1 else f"{len(rows)} pictures"
    print(f"{count}: {out / RESULT}, and a label map and an overlay for each")
    return rows


def table(rows: Sequence[dict[str, Any]]) -> Any:
    """A line a picture: its largest classes, and what is unlabelled."""
    from core_jax.train import report

    shown = lambda row: ", ".join(
        f"{c['name']} {100 * c['share']:.0f} %" for c in row["classes"][:4]
    )
    return report.Table(
        title="Classes by share of the picture",
        columns=("picture", "classes", "unlabelled %"),
        rows=tuple((r["file"], shown(r) or "-", 100 * r["unlabelled"]) for r in rows),
        digits=1,
    )


def _flags(classes: Sequence[str], things: Sequence[str]) -> list[bool]:
    names = [text.split(",")[0].strip() for text in classes]
    if list(things) == ["all"]:
        return [True] * len(names)
    unknown = [name for name in things if name not in names]
    if unknown:
        raise config_lib.ConfigError(
            f"--things: {', '.join(unknown)} not among the classes {', '.join(names[:20])}"
        )
    return [name in things for name in names]


def _check(paths: Sequence[Path]) -> None:
    """Read every picture once before the first is written, so that all bad ones can be named."""
    from core_jax.data import images

    problems = []
    for path in paths:
        try:
            images.decode(path)
        except images.ImageError as error:
            problems.append(str(error))
    if problems:
        raise images.ImageError(
            f"{len(problems)} of {len(paths)} pictures cannot be read, nothing was segmented:\n  "
            + "\n  ".join(problems)
        )


def _stems(paths: Sequence[Path]) -> list[str]:
    """A name for the files of each picture: the picture's own, numbered where several have it."""
    used: dict[str, int] = {}
    names = []
    for path in paths:
        count = used[path.stem] = used.get(path.stem, 0) + 1
        names.append(path.stem if count == 1 else f"{path.stem}-{count}")
    return names


def _write_map(labels: Any, path: Path) -> None:
    """A 16-bit PNG of labels, with `UNLABELLED` for -1."""
    import numpy as np
    from PIL import Image

    from core_jax.data import files

    with files.atomic_path(path) as temporary:
        values = np.where(labels < 0, UNLABELLED, labels).astype(np.uint16)
        Image.fromarray(values).save(temporary, format="PNG")
