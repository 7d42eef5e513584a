"""The few-shot rule against published lists and against Dassl's own loop; lists that are given as files."""

import json
import pickle
import re
import subprocess
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from fdbpl_jax import check, datasets
from tests.fdbpl_jax import coop_layout

# EuroSAT's training pictures of each class; its validation list has two for every five of these.
TRAIN = (1500, 1500, 1500, 1250, 1250, 1000, 1250, 1500, 1250, 1500)
# Lists that others published for CoOp's split of EuroSAT: places in its full lists, by (shots, seed).
# github.com/linzhiqiu/cross_modal_adaptation, indices/eurosat.
PUBLISHED = {
    (1, 1): (
        "275 2665 3129 5022 5991 7507 8920 10217 11527 12429",
        "96 1099 1229 2257 2727 2999 3421 3702 4656 5256",
    ),
    # The first classes of the validation list are enough to see that one generator draws both.
    (4, 2): (
        "115 187 173 739 1846 2871 2131 2015 4240 3434 4242 3073 5690 4824 5382 5305 6792 6511 6864 6661 "
        "7514 7274 7922 7036 8056 8745 8952 8652 10028 10117 10326 9586 11897 11113 11233 11222 12048 12361 "
        "12665 12355",
        "139 522 368 526 1173 786 1056 1024 1737 1572 1562 1570 2239 2292 2028 1882 2788 2686 2504 2666 3178 "
        "3036 3135 3071 3327 3450 3342 3673",
    ),
    (4, 3): (
        "487 1213 1114 267 2257 2736 2470 2781 4189 3134 4240 3026 5460 5031 5628 4979 6142 6713 6857 6875 "
        "7487 7406 7654 7881 8308 8474 8310 9071 10048 9281 10625 9381 11076 11960 10837 11366 12063 12551 "
        "12968 13218",
        "396 437 404 590 1055 737 974 699 1236 1339 1706 1422 1932 2294 2144 2023 2698 2620 2737 2454 3015 "
        "3059 2997 3093 3379 3473 3499 3408",
    ),
}


@pytest.mark.parametrize(("shots", "seed"), PUBLISHED)
def test_published_lists(shots, seed):
    train = np.repeat(np.arange(10), TRAIN)
    val = np.repeat(np.arange(10), np.array(TRAIN) * 2 // 5)
    found = datasets.few_shot_indices(train.tolist(), val.tolist(), shots=shots, seed=seed)
    wanted = [[int(place) for place in text.split()] for text in PUBLISHED[shots, seed]]
    assert found[0] == wanted[0]
    assert found[1][: len(wanted[1])] == wanted[1]
    assert len(found[1]) == 10 * min(shots, 4)
    # Labels of any kind that can be counted.
    assert datasets.few_shot_indices(train, val, shots=shots, seed=seed) == found


def test_golden_case():
    """Positions within the label, for train labels of 20, 3, 40 pictures and val of 6, 2, 8."""
    labels = [label for label, count in enumerate((20, 3, 40)) for _ in range(count)]
    val = [label for label, count in enumerate((6, 2, 8)) for _ in range(count)]
    train, drawn = datasets.few_shot_indices(labels, val, shots=4, seed=1)
    assert train == [4, 18, 2, 8, *(20, 21, 22), *(23 + i for i in (7, 31, 28, 30))]
    assert drawn == [5, 3, 1, 0, *(6, 7), *(8 + i for i in (7, 0, 3, 5))]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_labels_in_any_order(seed):
    """Labels with gaps; some have fewer pictures than shots, one has as many as the most."""
    draw = np.random.default_rng(seed).permutation
    labels = draw(np.repeat([0, 3, 4, 9, 12, 40, 41], [12, 20, 3, 17, 1, 30, 16])).tolist()
    val = draw(np.repeat([0, 3, 4, 9, 40, 50], [5, 4, 3, 1, 30, 8])).tolist()
    for shots in (1, 2, 4, 8, 16):
        made = [
            [types.SimpleNamespace(label=label, place=i) for i, label in enumerate(one)]
            for one in (labels, val)
        ]
        wanted = coop_layout.dassl(*made, shots, seed)
        found = datasets.few_shot_indices(labels, val, shots=shots, seed=seed)
        assert found == tuple([item.place for item in one] for one in wanted)


def test_kinds_of_labels():
    """Lists, arrays of each library, generators, names: only which labels are equal matters."""
    labels, val = [4, 1, 4, 4, 1, 1, 4, 7], [1, 4, 4, 1]
    wanted = datasets.few_shot_indices(labels, val, shots=2, seed=3)
    assert all(type(place) is int for one in wanted for place in one)
    kinds = (np.array, jnp.array, torch.tensor, iter, lambda one: [f"class {i}" for i in one])
    for kind in kinds:
        found = datasets.few_shot_indices(kind(labels), kind(val), shots=2, seed=np.int64(3))
        assert found == wanted
    with pytest.raises(TypeError):
        datasets.few_shot_indices(labels, val, shots=2, seed="3")


def test_no_labels_and_no_shots():
    assert datasets.few_shot_indices([0, 0, 1], [], shots=1, seed=1)[1] == []
    with pytest.raises(ValueError, match="shots=0: expected a number of pictures per class"):
        datasets.few_shot_indices([0], [0], shots=0, seed=1)


# ---- given lists


@pytest.fixture
def imagenet(tmp_path):
    coop_layout.write("imagenet", tmp_path)
    return tmp_path


def give(root, rows, shots=2, seed=1, folder="imagenet"):
    place = root / folder / "split_fewshot"
    place.mkdir(exist_ok=True)
    (place / f"shot_{shots}-seed_{seed}.json").write_text(json.dumps(rows))


def test_a_given_list_is_used_as_it_is(imagenet):
    full = datasets.read("imagenet", imagenet)
    rows = [[item.path, item.label, item.name] for item in full.train]
    chosen = [rows[i] for i in (9, 6, 1, 0, 12, 11)]
    before = datasets.few_shot(full, 2, 1)
    give(imagenet, {"train": chosen})
    found = datasets.few_shot(full, 2, 1)
    assert [[item.path, item.label, item.name] for item in found.train] == chosen
    assert found.val == ()
    assert datasets.list_digest(found.train) != datasets.list_digest(before.train)
    # Other seeds and numbers of shots keep to the rule.
    other = datasets.few_shot(full, 2, 2).train
    assert list(other) == coop_layout.dassl(full.train, (), 2, 2)[0]
    assert set(found.train) <= set(datasets.union(full, 2, (1, 2)).train)


def test_a_given_validation_list(tmp_path):
    coop_layout.write("dtd", tmp_path)
    full = datasets.read("dtd", tmp_path)
    rows = {
        split: [[item.path, item.label, item.name] for item in getattr(full, split)[:1]]
        for split in ("train", "val")
    }
    give(tmp_path, {"train": rows["train"]}, folder="dtd")
    assert (
        list(datasets.few_shot(full, 2, 1).val) == coop_layout.dassl(full.train, full.val, 2, 1)[1]
    )
    give(tmp_path, rows, folder="dtd")
    found = datasets.few_shot(full, 2, 1)
    assert (found.train, found.val) == (full.train[:1], full.val[:1])


def test_a_list_of_something_else_is_refused(imagenet):
    full = datasets.read("imagenet", imagenet)
    row = [full.train[0].path, full.train[0].label, full.train[0].name]
    give(
        imagenet,
        {
            "train": [
                ["train/x.JPEG", 0, "tench"],
                [row[0], 3, row[2]],
                "row",
                [[1]],
                [],
                row,
                row,
                row,
            ]
        },
    )
    with pytest.raises(datasets.DatasetError) as caught:
        datasets.few_shot(full, 2, 1)
    for part in (
        "6 problems",
        "train row 0, ['train/x.JPEG', 0, 'tench']: no picture of the train list",
        "the train list has label 0, 'tench'",
        "train row 2, 'row'",
        "3 pictures of label 0, and the file is called a list of 2 shots",
    ):
        assert part in str(caught.value), part
    give(imagenet, ["train"], seed=2)
    with pytest.raises(datasets.DatasetError, match="must hold a list: train"):
        datasets.few_shot(full, 2, 2)
    told = "\n".join(check.check("imagenet", imagenet).problems)
    assert "no picture of the train list" in told
    assert "must hold a list: train" in told


def test_lists_that_coop_pickled(imagenet, tmp_path):
    """The command of docs/data.md turns them into files that are read; `check` says that they are there."""
    package = tmp_path / "package"
    for folder in ("dassl", "dassl/data", "dassl/data/datasets"):
        (package / folder).mkdir(parents=True)
        (package / folder / "__init__.py").write_text("")
    (package / "dassl/data/datasets/base_dataset.py").write_text(
        "class Datum:\n"
        "    def __init__(self, impath, label, classname):\n"
        "        self._impath, self._label, self._classname = impath, label, classname\n"
        "    impath = property(lambda self: self._impath)\n"
        "    label = property(lambda self: self._label)\n"
        "    classname = property(lambda self: self._classname)\n"
    )
    full = datasets.read("imagenet", imagenet)
    chosen = full.train[3:5]
    lists = imagenet / "imagenet" / "split_fewshot"
    lists.mkdir()
    make = (
        "import pickle, sys, json; from dassl.data.datasets.base_dataset import Datum; "
        "rows = json.loads(sys.argv[1]); "
        "pickle.dump({'train': [Datum('/elsewhere/imagenet/images/' + p, l, c) for p, l, c in rows]}, open(sys.argv[2], 'wb'))"
    )
    rows = json.dumps([[item.path, item.label, item.name] for item in chosen])
    run = {"check": True, "env": {"PYTHONPATH": str(package)}, "cwd": tmp_path}
    file = lists / "shot_2-seed_1.pkl"
    subprocess.run([sys.executable, "-c", make, rows, str(file)], **run)
    assert pickle.PROTO in file.read_bytes()[:1]
    (note,) = check.check("imagenet", imagenet).notes
    assert "CoOp's own few-shot lists as pickles" in note
    assert "(shot_2-seed_1)" in note
    page = (datasets.Path(__file__).parents[2] / "docs" / "data.md").read_text()
    (program,) = re.findall(r"python - FILES <<'END'\n(.*?)\nEND", page, flags=re.S)
    subprocess.run([sys.executable, "-c", program, str(file)], **run)
    assert datasets.few_shot(full, 2, 1).train == chosen
    assert check.check("imagenet", imagenet).notes == ()
