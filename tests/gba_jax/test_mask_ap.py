"""Mask AP by hand where the answer is known, and against pycocotools' own way over JSON files."""

import contextlib
import io
import json
import math
import sys

import numpy as np
import pytest

from gba_jax import mask_ap


def test_a_missing_extra_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(ImportError, match="pip install"):
        mask_ap.MaskAP([0])


def _bar(first, last, size=100):
    mask = np.zeros((4, size), bool)
    mask[:, first:last] = True
    return mask


def _truth(*bars):
    segments = np.full((4, 100), -1, np.int32)
    for n, (first, last) in enumerate(bars):
        segments[:, first:last] = n
    return segments


def _score(masks, classes, scores, truth, truth_classes, things=(0, 1), **more):
    pytest.importorskip("pycocotools")
    ap = mask_ap.MaskAP(things)
    masks = np.stack(masks) if masks else np.zeros((0, 4, 100), bool)
    ap.add(masks, np.array(classes), np.array(scores), truth, np.array(truth_classes), **more)
    return ap.scores()


def test_thresholds_are_counted():
    """IoU 62 / 100 passes .50, .55 and .60: three of ten thresholds."""
    got = _score([_bar(0, 62)], [0], [0.9], _truth((0, 100)), [0])
    assert got["ap"] == pytest.approx(0.3)
    assert (got["ap50"], got["ap75"]) == (pytest.approx(1.0), 0.0)
    assert math.isnan(got["ap_large"])


def test_a_better_scored_error_halves_precision_and_a_worse_one_does_not():
    masks, truth = [_bar(0, 30), _bar(60, 90)], _truth((0, 30))
    assert _score(masks, [0, 0], [0.2, 0.9], truth, [0])["ap"] == pytest.approx(0.5)
    assert _score(masks, [0, 0], [0.9, 0.2], truth, [0])["ap"] == pytest.approx(1.0)


def test_crowds_stuff_and_absent_classes_do_not_count():
    masks, truth = [_bar(0, 30), _bar(40, 60), _bar(80, 90)], _truth((0, 30), (40, 60), (80, 90))
    # The second truth is a crowd, the third is stuff: neither is asked for, and neither prediction is an error.
    got = _score(
        masks, [0, 0, 7], [0.5, 0.9, 0.9], truth, [0, 0, 7], crowd=np.array([False, True, False])
    )
    assert got["ap"] == pytest.approx(1.0)


def test_no_prediction_is_zero_and_no_truth_is_nan():
    assert _score([], [], [], _truth((0, 30)), [0])["ap"] == 0.0
    nothing = _score([_bar(0, 9)], [0], [0.5], _truth(), [])
    assert all(math.isnan(x) for x in nothing.values())


def test_arrays_of_different_images_are_refused_together():
    pytest.importorskip("pycocotools")
    with pytest.raises(ValueError, match="cannot add this image") as error:
        mask_ap.MaskAP([0]).add(
            np.zeros((2, 3, 3)), np.zeros(1, int), np.zeros(2), _truth((0, 5)), np.zeros(0, int)
        )
    for part in ("of float64", "2 masks, 1 classes", "table of 0 classes"):
        assert part in str(error.value)


def test_equal_to_cocos_files(tmp_path):
    """The same masks written as COCO JSON and scored by the calls of its documentation."""
    mask_api = pytest.importorskip("pycocotools.mask")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(0)
    ap = mask_ap.MaskAP([0, 1, 2])
    truths, results, images = [], [], []
    for image in range(1, 7):
        truth = np.kron(rng.integers(-1, 5, (4, 4)), np.ones((16, 16))).astype(np.int32)
        table, crowd = rng.integers(0, 4, 5), rng.uniform(size=5) < 0.2
        masks = np.stack([truth == n for n in range(5)] * 2)
        masks = np.stack([np.roll(m, rng.integers(0, 6), axis=1) for m in masks])
        classes = np.concatenate([table, table[::-1]])
        scores = rng.uniform(size=10)
        ap.add(masks, classes, scores, truth, table, crowd=crowd)
        images.append({"id": image, "height": 64, "width": 64})

        def lengths(mask):
            coded = mask_api.encode(np.asfortranarray(mask.astype(np.uint8)))
            return coded | {"counts": coded["counts"].decode()}

        for n in range(5):
            if (truth == n).any() and table[n] < 3:
                truths.append(
                    {
                        "id": len(truths) + 1,
                        "image_id": image,
                        "category_id": int(table[n]),
                        "segmentation": lengths(truth == n),
                        "area": int((truth == n).sum()),
                        "iscrowd": int(crowd[n]),
                    }
                )
        results += [
            {
                "image_id": image,
                "category_id": int(c),
                "segmentation": lengths(m),
                "score": float(s),
            }
            for m, c, s in zip(masks, classes, scores)
            if c < 3 and m.any()
        ]
    categories = [{"id": c, "name": str(c)} for c in range(3)]
    (tmp_path / "truth.json").write_text(
        json.dumps({"images": images, "annotations": truths, "categories": categories})
    )
    (tmp_path / "results.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(tmp_path / "truth.json"))
        evaluation = COCOeval(coco, coco.loadRes(str(tmp_path / "results.json")), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    got = ap.scores()
    assert 0.05 < got["ap"] < 0.95
    for value, expected in zip(got.values(), evaluation.stats[:6]):
        assert value == pytest.approx(math.nan if expected < 0 else expected, nan_ok=True)
