"""The data sets of prompt learning: where each lies below the root, what it holds, and where its files come from.

Folders and file names are those of CoOp (arXiv 2109.01134, github.com/KaiyangZhou/CoOp, DATASETS.md), names of data sets
those of its configuration files. Counts are those of CoOp's split files; they add up to what the sets' makers published.
"""

import dataclasses

COOP = "the DATASETS.md of github.com/KaiyangZhou/CoOp"
CLASSNAMES = "classnames.txt"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """Where a data set lies, its template, and what is known of its contents.

    Attributes:
      folder: of the data set, below the root.
      images: the picture folder, below `folder`; paths in lists are relative to it.
      reader: one of `readers.READERS`: what the lists are made from.
      split: the split file in `folder`, for the reader "split".
      template: sentence with one {} that a class name is put into.
      classes: how many there are; None where that depends on how the set was written. So are the counts below.
      train, val, test: pictures in each list.
      halves: test pictures of the base and of the new classes.
      names: class names that differ from the picture folders', or show in another way which list this is.
      pattern: regular expression that every class name must match, where the makers' own names do not.
      repeated: one class name may stand for several classes: ImageNet's have "missile" and "sunglasses" twice.
      fetch: where the files come from.
    """

    folder: str
    images: str
    reader: str = "split"
    split: str = ""
    template: str = "a photo of a {}."
    classes: int | None = None
    train: int | None = None
    val: int | None = None
    test: int | None = None
    halves: tuple[int, int] | None = None
    names: tuple[str, ...] = ()
    pattern: str = ""
    repeated: bool = False
    fetch: str

    @property
    def test_only(self) -> bool:
        """Whether the set has nothing to train on."""
        return self.reader in ("folders", "numbers")


def _shifted(folder: str, images: str, *, reader: str, classes: int, test: int, fetch: str):
    return Layout(
        folder=folder,
        images=images,
        reader=reader,
        classes=classes,
        train=0,
        val=0,
        test=test,
        repeated=classes == 1000,
        fetch=f"{fetch}, extracted in {folder}/; and a copy of imagenet/{CLASSNAMES} in {folder}/",
    )


LAYOUTS = {
    "imagenet": Layout(
        folder="imagenet",
        images="images",
        reader="imagenet",
        classes=1000,
        train=1_281_167,
        val=0,
        test=50_000,
        halves=(25_000, 25_000),
        names=("tench", "great white shark", "American robin"),
        repeated=True,
        fetch="ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar (image-net.org), as imagenet/images/train/ and "
        f"imagenet/images/val/ with a folder for each of the 1,000 classes in both; {CLASSNAMES} ({COOP}) in imagenet/",
    ),
    "caltech101": Layout(
        folder="caltech-101",
        images="101_ObjectCategories",
        split="split_zhou_Caltech101.json",
        classes=100,
        train=4128,
        val=1649,
        test=2465,
        halves=(1549, 916),
        names=("airplane", "face", "leopard", "motorbike"),
        fetch="101_ObjectCategories.tar.gz (Caltech's data repository) and split_zhou_Caltech101.json "
        f"({COOP})",
    ),
    "oxford_pets": Layout(
        folder="oxford_pets",
        images="images",
        split="split_zhou_OxfordPets.json",
        template="a photo of a {}, a type of pet.",
        classes=37,
        train=2944,
        val=736,
        test=3669,
        halves=(1881, 1788),
        pattern="[a-z]+(_[a-z]+)*",
        fetch="images.tar.gz (robots.ox.ac.uk/~vgg/data/pets), which holds images/, and split_zhou_OxfordPets.json "
        f"({COOP})",
    ),
    "stanford_cars": Layout(
        folder="stanford_cars",
        images=".",
        split="split_zhou_StanfordCars.json",
        classes=196,
        train=6509,
        val=1635,
        test=8041,
        halves=(4002, 4039),
        # The makers' names end with the year.
        pattern=r"\d{4} .+",
        fetch="cars_train.tgz and cars_test.tgz (Stanford's Cars 196), as cars_train/ and cars_test/, and "
        f"split_zhou_StanfordCars.json ({COOP})",
    ),
    "oxford_flowers": Layout(
        folder="oxford_flowers",
        images="jpg",
        split="split_zhou_OxfordFlowers.json",
        template="a photo of a {}, a type of flower.",
        classes=102,
        train=4093,
        val=1633,
        test=2463,
        halves=(1053, 1410),
        names=("pink primrose", "passion flower"),
        fetch="102flowers.tgz (robots.ox.ac.uk/~vgg/data/flowers/102), which holds jpg/, and "
        f"split_zhou_OxfordFlowers.json ({COOP})",
    ),
    "food101": Layout(
        folder="food-101",
        images="images",
        split="split_zhou_Food101.json",
        template="a photo of {}, a type of food.",
        classes=101,
        train=50_500,
        val=20_200,
        test=30_300,
        halves=(15_300, 15_000),
        fetch="food-101.tar.gz (data.vision.ee.ethz.ch/cvl/datasets_extra/food-101) and split_zhou_Food101.json "
        f"({COOP})",
    ),
    "fgvc_aircraft": Layout(
        folder="fgvc_aircraft",
        images="images",
        reader="aircraft",
        template="a photo of a {}, a type of aircraft.",
        classes=100,
        train=3334,
        val=3333,
        test=3333,
        halves=(1666, 1667),
        fetch="fgvc-aircraft-2013b.tar.gz (robots.ox.ac.uk/~vgg/data/fgvc-aircraft): its folder data/, renamed "
        "fgvc_aircraft/",
    ),
    "sun397": Layout(
        folder="sun397",
        images="SUN397",
        split="split_zhou_SUN397.json",
        classes=397,
        train=15_880,
        val=3970,
        test=19_850,
        halves=(9950, 9900),
        # The folder apartment_building/outdoor: words are turned round.
        names=("outdoor apartment_building",),
        fetch="SUN397.tar.gz (vision.princeton.edu/projects/2010/SUN) and split_zhou_SUN397.json "
        f"({COOP})",
    ),
    "dtd": Layout(
        folder="dtd",
        images="images",
        split="split_zhou_DescribableTextures.json",
        template="{} texture.",
        classes=47,
        train=2820,
        val=1128,
        test=1692,
        halves=(864, 828),
        names=("banded", "zigzagged"),
        fetch="dtd-r1.0.1.tar.gz (robots.ox.ac.uk/~vgg/data/dtd) and split_zhou_DescribableTextures.json "
        f"({COOP})",
    ),
    "eurosat": Layout(
        folder="eurosat",
        images="2750",
        split="split_zhou_EuroSAT.json",
        template="a centered satellite photo of {}.",
        classes=10,
        train=13_500,
        val=5400,
        test=8100,
        halves=(4200, 3900),
        names=(
            "Annual Crop Land",
            "Forest",
            "Herbaceous Vegetation Land",
            "Highway or Road",
            "Industrial Buildings",
            "Pasture Land",
            "Permanent Crop Land",
            "Residential Buildings",
            "River",
            "Sea or Lake",
        ),
        fetch="EuroSAT.zip (the RGB pictures; github.com/phelber/EuroSAT), which holds 2750/, and "
        f"split_zhou_EuroSAT.json ({COOP})",
    ),
    "ucf101": Layout(
        folder="ucf101",
        images="UCF-101-midframes",
        split="split_zhou_UCF101.json",
        template="a photo of a person doing {}.",
        classes=101,
        train=7639,
        val=1898,
        test=3783,
        halves=(1934, 1849),
        # The folder ApplyEyeMakeup: words are set apart.
        names=("Apply_Eye_Makeup",),
        pattern="[A-Za-z]+(_[A-Za-z]+)*",
        fetch="UCF-101-midframes.zip, the middle frames of the videos, and split_zhou_UCF101.json "
        f"(both: {COOP})",
    ),
    "imagenetv2": _shifted(
        "imagenetv2",
        "imagenetv2-matched-frequency-format-val",
        reader="numbers",
        classes=1000,
        test=10_000,
        fetch="imagenetv2-matched-frequency.tar.gz (github.com/modestyachts/ImageNetV2)",
    ),
    "imagenet_sketch": _shifted(
        "imagenet-sketch",
        "images",
        reader="folders",
        classes=1000,
        test=50_889,
        fetch="ImageNet-Sketch (github.com/HaohanWang/ImageNet-Sketch), its class folders in images/",
    ),
    "imagenet_a": _shifted(
        "imagenet-adversarial",
        "imagenet-a",
        reader="folders",
        classes=200,
        test=7500,
        fetch="imagenet-a.tar (github.com/hendrycks/natural-adv-examples)",
    ),
    "imagenet_r": _shifted(
        "imagenet-rendition",
        "imagenet-r",
        reader="folders",
        classes=200,
        test=30_000,
        fetch="imagenet-r.tar (github.com/hendrycks/imagenet-r)",
    ),
    "world_objects": Layout(
        folder="world_objects",
        images="images",
        split="split_zhou_WorldObjects.json",
        template="a {}.",
        fetch="nothing: python -m launch.data world --root=DIR writes it",
    ),
}
FOLDER = "folder"
NAMES = (*LAYOUTS, FOLDER)
"""What a reader can be asked for: the keys of `LAYOUTS`, and "folder" for any image folder."""
