"""Published errors of gaze networks, in degrees: what the literature says, never a result of this project."""

from core_jax.train.report import Table

_WITHIN = {
    "method": ("MPIIFaceGaze or MPIIGaze", "EyeDiap", "Gaze360", "RT-Gene"),
    "DRNet (eye)": (4.57, 6.14, None, None),
    'LeNet "Mnist" (eye)': (6.39, 7.37, None, 14.9),
    "GazeNet (eye)": (5.76, 6.79, None, None),
    "hysts LeNet (eye)": (6.52, None, None, None),
    "hysts ResNet-8 (eye)": (5.73, None, None, None),
    "L2CS": (3.92, None, 10.41, None),
    "RT-Gene": (4.66, 6.02, 12.26, 8.60),
    "FullFace": (4.93, 6.53, 14.99, 10.00),
    "Dilated-Net": (4.42, 6.19, 13.73, 8.38),
    "Gaze360": (4.06, 5.36, 11.04, 7.06),
    "CA-Net": (4.27, 5.27, 11.20, 8.27),
    "GazeTR-Pure": (4.74, 5.72, 13.58, 8.06),
    "GazeTR-Hybrid": (4.00, 5.17, 10.62, 6.55),
    "CLIP-DFENet": (None, None, None, None),
}
_CROSS = {
    "method": (
        "Gaze360 to MPIIFaceGaze",
        "Gaze360 to EyeDiap",
        "ETH-XGaze to MPIIFaceGaze",
        "ETH-XGaze to EyeDiap",
    ),
    "FullFace": (11.13, 14.42, 12.35, 30.15),
    "ResNet-18": (9.89, 11.42, 8.13, 7.74),
    "PureGaze": (9.28, 9.32, 7.08, 7.48),
    "CLIP-DFENet": (None, None, None, None),
}
_KNOWN = ("mpii", "eyediap", "gaze360", "rtgene", "eth")


def tables(datasets: set[str], trained_on: set[str]) -> dict[str, list[Table]]:
    """The published errors that some judged data sets may be held against; none for rendered sets and a user's own.

    Args:
      datasets: judged.
      trained_on: what was learned from.
    """
    if not any(name in dataset for dataset in datasets for name in _KNOWN):
        return {}
    source = (
        "Source: DRNet from its paper (Sensors 22(14):5462, 2022), all others from the repositories GazeTR, "
        "pytorch_mpiigaze and L2CS-Net."
    )
    calibrated = (
        "With personal calibration from 9 images, MPIIFaceGaze: 2.58 (random points), 2.55 (grid), from the repository "
        "pperle/gaze-tracking."
    )
    empty = "CLIP-DFENet's numbers are not public to us."
    title = "Published, within a data set (not our results)"
    found = {"published": [_table(title, _WITHIN, f"{source} {calibrated} {empty}")]}
    if datasets - trained_on:
        note = f"Source: the repository PureGaze; no picture of the judged set was seen. {empty}"
        title = "Published, across data sets (not our results)"
        found["published_cross"] = [_table(title, _CROSS, note)]
    return found


def _table(title: str, rows: dict[str, tuple], note: str) -> Table:
    (first, columns), *others = rows.items()
    cells = tuple((name, *values) for name, values in others)
    return Table(
        title=title, columns=(first, *(f"{c} deg" for c in columns)), rows=cells, note=note
    )
