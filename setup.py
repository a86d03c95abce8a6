"""Packaging. The core is open enough to be installed into a toolkit's own environment without moving its pins."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

setup(
    name="danceopd_ext",
    version="0.1.0",
    description="Fuse several LoRAs, checkpoints and guidance of an image model into one LoRA (DanceOPD)",
    long_description=(HERE / "README.md").read_text(encoding="utf-8") if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["danceopd_ext", "danceopd_ext.*"]),
    package_data={
        "danceopd_ext.demo": ["pipeline/**/*", "pipeline/*", "loras/*", "style/*", "prompts/*"],
        "danceopd_ext.models": ["published.json"],
    },
    install_requires=[
        "torch>=2.5",
        "numpy",
        "safetensors>=0.4.5",
        "regex>=2022.1.18",
        "tqdm",
        "filelock",
        "pillow",
        "tomli>=2; python_version < '3.11'",
    ],
    extras_require={
        "native": [
            # older ones run the code of a local model folder with a custom module
            "diffusers>=0.41",
            # 0.41 needs a huggingface-hub that transformers 4 and the peft of its time do not take
            "transformers>=5.4",
            "peft>=0.18",
            "accelerate>=1.6",
            "psutil",
            "sentencepiece",
            "protobuf",
            "tensorboard",
        ],
        # 8-bit optimizers, and quantize = "nf4"
        "8bit": ["bitsandbytes>=0.45"],
        "gguf": ["gguf>=0.10"],
        "optimizers": ["prodigyopt", "schedulefree", "lion-pytorch"],
        "wandb": ["wandb"],
        "data": ["pyarrow"],
        "reproduce": ["matplotlib>=3.9", "scipy>=1.11"],
        "dev": [
            "pytest",
            "pytest-xdist",
            "ruff",
            "toml",
            "packaging",
            "pyarrow",
            "matplotlib>=3.9",
            "scipy>=1.11",
            "bitsandbytes>=0.45",
            "gguf>=0.10",
        ],
    },
)
