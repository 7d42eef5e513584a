"""Record sizes and bytes against the format's table; JSON comparison; names."""

import struct

import numpy as np
import pytest

from fdbpl_jax import layout
from fdbpl_jax.layout import ImageRow

SHA = "00112233445566778899aabbccddeeff" + "f" * 32


def test_sizes_are_the_table_s():
    assert layout.label_dtype(regions=100, classes=500, top_k=10).itemsize == 28 + 53 * 100 == 5328
    assert layout.label_dtype(regions=100, classes=37, top_k=None).itemsize == 28 + 100 * (
        9 + 2 * 37 + 2
    )
    assert layout.feature_dtype(regions=100, width=512).itemsize == 24 + 2 * 100 * 512
    for dtype in (
        layout.label_dtype(regions=3, classes=9, top_k=2),
        layout.feature_dtype(regions=3, width=5),
    ):
        assert dtype.itemsize == sum(dtype[name].itemsize for name in dtype.names)


def test_a_top_k_record_byte_by_byte():
    arrays = {
        "box": np.array([[[1, 2, 300, 4], [5, 6, 7, 65535]]], np.uint16),
        "flip": np.array([[True, False]]),
        "index": np.array([[[40000, 1], [2, 3]]], np.uint16),
        "logp": np.array([[[-0.5, -1.5], [-0.25, -8.0]]], np.float16),
        "rest": np.array([[-30.0, -2.0]], np.float16),
        "entropy": np.array([[0.125, 1.0]], np.float16),
    }
    (found,) = layout.encode_labels(range(7, 8), [ImageRow("a", SHA, 301, 65535, 0)], arrays)
    expected = b"RLK1" + struct.pack("<I", 7) + struct.pack("<2H", 301, 65535)
    expected += bytes.fromhex(SHA)[:16]
    expected += struct.pack("<8H", 1, 2, 300, 4, 5, 6, 7, 65535) + b"\x01\x00"
    expected += struct.pack("<4H", 40000, 1, 2, 3) + struct.pack("<4e", -0.5, -1.5, -0.25, -8.0)
    expected += struct.pack("<2e", -30.0, -2.0) + struct.pack("<2e", 0.125, 1.0)
    assert found == expected


def test_a_dense_record_and_a_feature_record_byte_by_byte():
    arrays = {
        "box": np.array([[[1, 2, 3, 4]]], np.uint16),
        "flip": np.array([[False]]),
        "logp": np.array([[[-0.5, -1.5, -2.0]]], np.float16),
        "entropy": np.array([[0.5]], np.float16),
        "feature": np.array([[[0.6, -0.8]]], np.float16),
    }
    rows, images = range(1), [ImageRow("a", SHA, 8, 9, 0)]
    (found,) = layout.encode_labels(rows, images, arrays)
    head = struct.pack("<I", 0)
    body = struct.pack("<2H", 8, 9) + bytes.fromhex(SHA)[:16] + struct.pack("<4H", 1, 2, 3, 4)
    assert found == b"RLD1" + head + body + b"\x00" + struct.pack("<4e", -0.5, -1.5, -2.0, 0.5)
    (found,) = layout.encode_features(rows, images, arrays)
    assert found == b"RLF1" + head + bytes.fromhex(SHA)[:16] + struct.pack("<2e", 0.6, -0.8)


def test_images_round_trip(tmp_path):
    rows = (ImageRow("a/é b.png", SHA, 3, 4, 5), ImageRow("line\u2028break.png", SHA, 1, 2, 0))
    (tmp_path / "i").write_text(layout.dump_images(rows), encoding="utf-8")
    assert layout.load_images(tmp_path / "i") == rows


def test_shard_rows_cover_everything_once():
    assert layout.shard_rows(10, 4) == [range(0, 4), range(4, 8), range(8, 10)]
    assert layout.shard_rows(4, 4) == [range(0, 4)]


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("world:student", "world-student"),
        ("openai/clip-vit-base-patch32", "clip-vit-base-patch32"),
        ("/models/my model/", "my-model"),
        ("///", "student"),
    ],
)
def test_slugs(name, slug):
    assert layout.slug(name) == slug


def test_differences_name_every_leaf():
    old = {"a": 1, "b": {"c": [1, 2], "d": "x"}, "gone": 0, "list": [1]}
    new = {"a": 1, "b": {"c": [1, 3], "d": "y"}, "list": [1, 2]}
    assert layout.differences(new, old) == [
        "b.c[1]: 2, now 3",
        "b.d: 'x', now 'y'",
        "gone: 0, now None",
        "list: 1 entries, now 2",
    ]
    assert layout.differences(old, old) == []
