"""Packaging: metadata, dependencies, extras and the command line entry point."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"', (HERE / "keras_explain" / "__init__.py").read_text("utf-8"), re.M)[1]
TENSORFLOW = ["tensorflow>=2.21"]
JAX = ["jax>=0.10.2"]
TORCH = ["torch>=2.13"]
DICOM = ["pydicom>=3.0"]
RAY = ["ray[data]>=2.50"]
DOCS = ["mkdocs-material>=9.8", "mkdocstrings[python]>=1.0"]
TEST = [
    *DICOM,
    *DOCS,
    *RAY,
    "axe-playwright-python>=0.1.8",
    "build>=1.3",
    "hypothesis>=6.150",
    "playwright>=1.60",
    "pyte>=0.8.2",
    "pytest>=9.0",
    "pytest-xdist>=3.8",
]

setup(
    # `keras-explain` is another tool's name on the package index.
    name="keras-explain-callbacks",
    version=VERSION,
    description="What did the network look at, and can it be believed? Explanations of Keras models, inside training.",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["keras_explain", "keras_explain.*"]),
    package_data={"keras_explain": ["py.typed", "report/page.*"]},
    python_requires=">=3.11",
    install_requires=[
        "click>=8.3",
        "filelock>=3.20",
        "h5py>=3.14",
        "jinja2>=3.1.6",
        "keras>=3.15",
        "lime>=0.2.0.1",
        "matplotlib>=3.11",
        "mlflow>=3.17",
        "numpy>=2.4",
        "pillow>=12.0",
        "scikit-image>=0.26",
        "scikit-learn>=1.9",
        "scipy>=1.17",
        "shap>=0.51",
        "tf-keras-vis>=0.8.7",
        "tqdm>=4.67",
    ],
    extras_require={
        # A hard dependency would put a second TensorFlow beside a user's tensorflow-cpu.
        "tensorflow": TENSORFLOW,
        "jax": JAX,
        "torch": TORCH,
        "dicom": DICOM,
        "gpu": ["tensorflow[and-cuda]>=2.21"],
        "ray": RAY,
        "docs": DOCS,
        "test": TEST,
        "backends": [*JAX, *TORCH, "captum>=0.9"],
        "dev": [*TEST, "mypy>=2.0", "ruff>=0.15"],
    },
    entry_points={
        "console_scripts": ["keras-explain = keras_explain.cli:main"],
        "mlflow.model_evaluator": ["keras_explain = keras_explain.mlflow_evaluator:KerasExplainEvaluator"],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
