"""The tables of segmentation runs: mIoU a split, gains over the host, further measures, shifts of style."""

from collections.abc import Sequence

from core_jax.train.report import Table
from launch.comparisons import gba, scores
from launch.comparisons.scores import Summary

WORLD = {
    "val": "seen words, known styles",
    "novel": "unseen words, known styles",
    "style": "seen words, new styles",
    "both": "unseen words, new styles",
}
"""What the splits of the embedded world ask for; the order of splits in tables and pictures."""
_TITLES = {
    "absent": "absent %",
    "pacc": "pACC %",
    "macc": "mACC %",
    "fwiou": "fwIoU %",
    "seen": "seen mIoU %",
    "unseen": "unseen mIoU %",
    "harmonic": "harmonic %",
    "pq": "PQ %",
    "sq": "SQ %",
    "rq": "RQ %",
    "ap": "AP %",
}
_PARTS = ("seen", "unseen", "harmonic")


def tables(summaries: Sequence[Summary]) -> dict[str, list[Table]]:
    """All tables by file name; each data set, CLIP and vocabulary has its own, numbered from the second on."""
    found: dict[str, list[Table]] = {}
    for number, items in enumerate(grouped(summaries), 1):
        kinds = {
            "results": [_miou(items)],
            "gain": _gains(items),
            "measures": [_measures(items, split) for split in splits(items)],
            "shift": [table for split in splits(items) for table in _shifts(items, split)],
        }
        end = "" if number == 1 else f"_{number}"
        found |= {f"{name}{end}": made for name, made in kinds.items() if made}
    return found


def grouped(summaries: Sequence[Summary]) -> list[list[Summary]]:
    """What may stand in one table; methods in their order, variants after them as they come."""
    groups: dict[tuple, list[Summary]] = {}
    for item in summaries:
        groups.setdefault(item.place, []).append(item)
    order = {name: position for position, name in enumerate(gba.METHODS)}
    return [sorted(g, key=lambda item: order.get(item.method, len(order))) for g in groups.values()]


def splits(items: Sequence[Summary]) -> list[str]:
    """The judged splits of some summaries: those of the world in their order, then others as they come."""
    known = dict.fromkeys(split for item in items for split in item.values)
    return [*(s for s in WORLD if s in known), *(s for s in known if s not in WORLD)]


def about(names: Sequence[str]) -> dict[str, str]:
    """Split -> what it asks for; nothing for splits that are not the embedded world's."""
    return {name: WORLD.get(name, "") for name in names}


def heading(kind: str, item: Summary) -> str:
    """The title of what shows `item` and others that may stand beside it."""
    words = "" if item.vocabulary is None else f", {item.vocabulary} classes"
    return f"{kind}, {item.dataset} (CLIP {item.clip}{words})"


def details(summaries: Sequence[Summary]) -> Table:
    """What each row of the tables was made with."""
    columns = "method, data set, host, adapters, CLIP, classes, pictures, seeds, steps, digests"
    rows = tuple(
        (
            item.label,
            item.dataset,
            item.host,
            item.adapters,
            item.clip,
            item.vocabulary,
            ", ".join(f"{split} {n}" for split, n in item.images.items() if n is not None),
            ", ".join(map(str, item.seeds)),
            item.steps,
            item.digests,
        )
        for item in summaries
    )
    return Table(title="What the rows are made of", columns=tuple(columns.split(", ")), rows=rows)


def _miou(items: Sequence[Summary]) -> Table:
    names = splits(items)
    meaning = "; ".join(f"{name}: {text}" for name, text in about(names).items() if text)
    return Table(
        title=heading("mIoU", items[0]),
        columns=("method", "seeds", *(f"{name} %" for name in names), "train s"),
        rows=tuple(
            (
                item.label,
                len(item.seeds),
                *(item.spread(name, "miou") for name in names),
                item.seconds_train,
            )
            for item in items
        ),
        best=tuple(f"{name} %" for name in names),
        note=f"{_over_seeds(items)} {meaning}.".removesuffix(" ."),
    )


def _gains(items: Sequence[Summary]) -> list[Table]:
    """Paired differences to the host alone, of mIoU and of the absent-class rate."""
    names = splits(items)
    pairs = [(item, host) for item in items if (host := scores.baseline(item, items)) is not None]
    if not pairs:
        return []
    kinds = {
        "miou": ("Gain in mIoU over the host alone", "higher is better"),
        "absent": ("Change of the absent-class rate against the host alone", "lower is better"),
    }
    return [
        Table(
            title=heading(title, items[0]),
            columns=("method", "seeds", *names),
            rows=tuple(
                (
                    item.label,
                    len(set(item.seeds) & set(host.seeds)),
                    *(item.gain(host, name, measure) for name in names),
                )
                for item, host in pairs
            ),
            note=f"In points, {sense}; differences between runs of the same seed, mean ± sample standard deviation.",
        )
        for measure, (title, sense) in kinds.items()
        if any(item.gain(host, name, measure) for item, host in pairs for name in names)
    ]


def _measures(items: Sequence[Summary], split: str) -> Table:
    """One split's other measures; the columns are those that any split of the group has."""
    everywhere = [(item, name) for item in items for name in splits(items)]
    found = [key for key in _TITLES if any(i.spread(name, key) for i, name in everywhere)]
    # Seen and unseen say something where a split holds both kinds, that is, where there is a harmonic mean.
    halves = any(item.spread(split, "harmonic") for item in items)
    if not any(item.spread(name, "harmonic") for item, name in everywhere):
        found = [key for key in found if key not in _PARTS]
    text = about([split])[split]
    return Table(
        title=heading(f"Split {split}{f' ({text})' if text else ''}", items[0]),
        columns=("method", "seeds", *(_TITLES[key] for key in found)),
        rows=tuple(
            (
                item.label,
                len(item.seeds),
                *(
                    item.spread(split, key) if halves or key not in _PARTS else None
                    for key in found
                ),
            )
            for item in items
        ),
        best=tuple(_TITLES[key] for key in found if key != "absent"),
        note="absent: pixels given a word that is not in the picture, lower is better."
        if "absent" in found
        else "",
    )


def _shifts(items: Sequence[Summary], split: str) -> list[Table]:
    """Scores of one split under each kind of style shift, if any was judged."""
    kinds = list(dict.fromkeys(kind for item in items for kind in item.shifts()))
    shown = [item for item in items if any(item.spread(split, scores.SHIFT + k) for k in kinds)]
    if not shown:
        return []
    columns = ("unshifted", *kinds)
    return [
        Table(
            title=heading(f"mIoU under shifts of style, split {split}", items[0]),
            columns=("method", "seeds", *columns),
            rows=tuple(
                (
                    item.label,
                    len(item.seeds),
                    item.spread(split, "miou"),
                    *(item.spread(split, scores.SHIFT + kind) for kind in kinds),
                )
                for item in shown
            ),
            best=columns,
            note="Each kind is a mean over its severities.",
        )
    ]


def _over_seeds(items: Sequence[Summary]) -> str:
    several = max(len(item.seeds) for item in items) > 1
    return "Mean ± sample standard deviation over seeds." if several else "One seed."
