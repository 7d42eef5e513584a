"""Mask average precision AP@[.5:.95] through pycocotools, an optional extra that is imported on first use.

Images are added one by one and kept as run lengths, so a whole data set fits in memory. Shapes: (H, W) maps of one
image, n predicted masks, G true segments. Scores are shares in [0, 1]; nan where there was nothing to find.
"""

import contextlib
import io
import json
import math
from collections.abc import Collection
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Int32

# The rows of COCOeval.stats in their order; recalls follow.
_NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


def _pycocotools() -> tuple[Any, Any, Any]:
    """The class COCO, the class COCOeval and the module of run lengths."""
    try:
        from pycocotools import mask
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise ImportError(
            "mask AP needs pycocotools, which is not installed: pip install 'clip-methods-jax[coco]', or pip install "
            "pycocotools; all other scores work without it"
        ) from error
    return COCO, COCOeval, mask


class MaskAP:
    """Collects the instances of a data set and scores them with COCO's own evaluation.

    Args:
      things: the classes that are scored; masks and segments of others are left out.

    Raises:
      ImportError: pycocotools is not installed.
    """

    def __init__(self, things: Collection[int]):
        self._coco, self._evaluation, self._mask = _pycocotools()
        self._things = sorted(int(c) for c in things)
        self._images: list[dict[str, int]] = []
        self._truths: list[dict[str, Any]] = []
        self._predictions: list[dict[str, Any]] = []

    def add(
        self,
        masks: Bool[np.ndarray, "n H W"],
        classes: Int[np.ndarray, "n"],
        scores: Float[np.ndarray, "n"],
        truth: Int32[np.ndarray, "H W"],
        truth_classes: Int[np.ndarray, "G"],
        *,
        crowd: Bool[np.ndarray, "G"] | None = None,
    ) -> None:
        """Adds one image.

        Args:
          masks: predicted masks; they may overlap, empty ones are left out.
          classes: their classes.
          scores: their scores; COCO keeps the 100 best of an image and class.
          truth: true segment of every pixel, -1 for none.
          truth_classes: class of each true segment; rows without pixels are padding.
          crowd: which true segments are crowds, where predictions count neither as hits nor as errors.

        Raises:
          ValueError: the arrays do not belong to one image (all of it in one message).
        """
        masks, truth_classes = np.asarray(masks), np.asarray(truth_classes)
        is_crowd = np.zeros(len(truth_classes), bool) if crowd is None else np.asarray(crowd)
        bad = []
        if masks.dtype != np.bool_ or masks.shape[1:] != truth.shape:
            bad.append(
                f"masks {masks.shape} of {masks.dtype}: expected (n, {truth.shape}) of bool, the size of the truth"
            )
        if not len(masks) == len(classes) == len(scores):
            bad.append(f"{len(masks)} masks, {len(classes)} classes and {len(scores)} scores")
        if is_crowd.shape != truth_classes.shape:
            bad.append(f"crowd {is_crowd.shape}: expected {truth_classes.shape}, one per segment")
        if truth.size and not -1 <= int(truth.min()) <= int(truth.max()) < len(truth_classes):
            bad.append(
                f"true segments {truth.min()}..{truth.max()} with a table of {len(truth_classes)} classes"
            )
        if bad:
            raise ValueError("cannot add this image:\n  " + "\n  ".join(bad))

        image = len(self._images) + 1
        self._images.append({"id": image, "height": truth.shape[0], "width": truth.shape[1]})
        for mask, label, score in zip(masks, classes, scores):
            if int(label) in self._things and mask.any():
                entry = self._entry(image, mask, int(label), len(self._predictions))
                self._predictions.append(entry | {"score": float(score), "iscrowd": 0})
        for segment in np.unique(truth[truth >= 0]).tolist():
            if int(truth_classes[segment]) in self._things:
                entry = self._entry(
                    image, truth == segment, int(truth_classes[segment]), len(self._truths)
                )
                self._truths.append(entry | {"iscrowd": int(is_crowd[segment])})

    def _entry(self, image: int, mask: np.ndarray, label: int, before: int) -> dict[str, Any]:
        lengths = self._mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        box = self._mask.toBbox(lengths).tolist()
        return {
            # From 1: COCOeval reads a match with id 0 as no match.
            "id": before + 1,
            "image_id": image,
            "category_id": label,
            # As text, which JSON can hold and pycocotools reads as well.
            "segmentation": lengths | {"counts": lengths["counts"].decode("ascii")},
            "area": float(mask.sum()),
            "bbox": box,
        }

    def export(self) -> bytes:
        """Everything that was added, for `merge` in another process."""
        return json.dumps([self._images, self._truths, self._predictions]).encode()

    def merge(self, exported: bytes) -> None:
        """Adds the images of another collector of the same things."""
        own = self._images, self._truths, self._predictions
        images = len(self._images)
        for rows, new in zip(own, json.loads(exported), strict=True):
            for row in new:
                image = {"image_id": row["image_id"] + images} if "image_id" in row else {}
                rows.append(row | image | {"id": len(rows) + 1})

    def scores(self) -> dict[str, float]:
        """COCO's summary: {"ap" (mean over IoU .5 to .95), "ap50", "ap75", "ap_small", "ap_medium", "ap_large"}.

        Classes without ground truth are excluded; a part without ground truth, as small objects, is nan.
        """
        if not self._truths:
            return dict.fromkeys(_NAMES, math.nan)
        # COCO's code reports on standard output, which belongs to the results of the caller.
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = self._evaluation(
                self._index(self._truths), self._index(self._predictions), "segm"
            )
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        stats = evaluation.stats[: len(_NAMES)].tolist()
        return {name: math.nan if x < 0 else x for name, x in zip(_NAMES, stats, strict=True)}

    def _index(self, annotations: list[dict[str, Any]]) -> Any:
        coco = self._coco()
        coco.dataset = {
            "images": self._images,
            "annotations": annotations,
            "categories": [{"id": c} for c in self._things],
        }
        coco.createIndex()
        return coco
