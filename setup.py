"""Packaging: CLIP in JAX and four published methods on top of it.

Floors are the versions the test suite was written against; nothing is capped, except torch in the tests, where the
reference numbers come from.
"""

import pathlib

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent

setup(
    name="clip-methods-jax",
    version="0.1.0",
    description="CLIP in Flax, and prompt learning, open-vocabulary segmentation and gaze estimation on top of it",
    long_description=(HERE / "README.md").read_text(encoding="utf-8")
    if (HERE / "README.md").exists()
    else "",
    long_description_content_type="text/markdown",
    python_requires=">=3.11",
    packages=find_packages(
        include=[
            f"{name}{rest}"
            for name in ("core_jax", "fdbpl_jax", "gba_jax", "gaze_jax", "configs", "launch")
            for rest in ("", ".*")
        ]
    ),
    package_data={"core_jax": ["world/pair/**"], "launch": ["slurm.sbatch"]},
    include_package_data=False,
    install_requires=[
        "absl-py>=2.3",
        "array_record>=0.8.3",
        "chex>=0.1.91",
        "flax>=0.12.7",
        "grain>=0.2.16",
        "huggingface_hub>=1.0",
        # tensorflow-datasets imports it without declaring it on current Pythons.
        "importlib_resources>=6.4",
        "jax>=0.10",
        "jaxtyping>=0.3.7",
        "matplotlib>=3.10",
        "ml_collections>=1.1",
        "numpy>=2.0",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.6",
        "pillow>=11.0",
        "pyyaml>=6.0",
        "safetensors>=0.6",
        "scipy>=1.15",
        "tensorboardX>=2.6.4",
        "tensorflow-datasets>=4.9.10",
        "tokenizers>=0.22",
        "tqdm>=4.67",
        "transformers>=5.0",
    ],
    extras_require={
        # Mask AP of instance segmentation; everything else works without it.
        "coco": ["pycocotools>=2.0.11"],
        # MPIIFaceGaze, ETH-XGaze and FAZE files; videos, webcams and OpenCV's calibration files.
        "gaze": ["h5py>=3.13", "opencv-python-headless>=4.11"],
        # Finds faces. Brings an OpenCV of its own, which takes the other's place: install one of the two.
        "gaze-face": ["h5py>=3.13", "mediapipe>=0.10.21"],
        "test": [
            # jax.export's programs as bytes.
            "flatbuffers>=25.2",
            "h5py>=3.13",
            "opencv-python-headless>=4.11",
            "pycocotools>=2.0.11",
            "pytest>=8.4",
            "pytest-xdist>=3.8",
            # A photo of a person.
            "scikit-image>=0.25",
            # The reference implementation of the parity tests: pinned, so that a reference cannot move.
            "torch==2.13.0",
        ],
        "lint": ["codespell>=2.4", "pre-commit>=4.3", "pyright[nodejs]>=1.1.400", "ruff>=0.14"],
        "cuda12": ["jax[cuda12]>=0.10"],
        "cuda13": ["jax[cuda13]>=0.10"],
        "tpu": ["jax[tpu]>=0.10"],
    },
)
