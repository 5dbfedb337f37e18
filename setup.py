"""Packaging: `kernels`, `export`, `train` and `examples` beside this file are packages inside `segfast`."""

import re
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (HERE / "segfast" / "__init__.py").read_text(encoding="utf-8"))[1]

TORCH = "torch>=2.11"
# onnxruntime and onnxruntime-gpu are one module: never both. The latter runs on machines without a GPU.
X86 = "platform_machine in 'x86_64 AMD64' and sys_platform != 'darwin'"
ONNX_RUNTIME = [
    f"onnxruntime-gpu>=1.22; {X86}",
    "onnxruntime>=1.22; platform_machine not in 'x86_64 AMD64' or sys_platform == 'darwin'",
]
RTX = "tensorrt-rtx-cu13>=1.7"
CHECKPOINTS = [TORCH, "timm>=1.0.15", "safetensors>=0.5", "pyyaml>=6", "filelock>=3.12"]
TRAIN = [*CHECKPOINTS, "matplotlib>=3.9", "scipy>=1.14", "tensorboard>=2.18"]
EXPORT = [*CHECKPOINTS, "onnx>=1.18", "onnxscript>=0.5", *ONNX_RUNTIME]

setup(
    name="segfast",
    version=VERSION,
    description="Segmenter models in production: exported, and run fast on GPUs and plain CPUs",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=["segfast", "segfast.datasets", "segfast.runtimes", "segfast.kernels", "segfast.export", "segfast.train", "segfast.examples"],
    package_dir={
        "segfast": "segfast",
        "segfast.kernels": "kernels",
        "segfast.export": "export",
        "segfast.train": "train",
        "segfast.examples": "examples",
    },
    package_data={"segfast": ["py.typed", "data/*.json"], "segfast.examples": ["*.jpg", "*.md"]},
    install_requires=["numpy>=2", "pillow>=11", "openvino>=2025.4", "numba>=0.61", "tqdm>=4.66"],
    extras_require={
        "export": EXPORT,
        "gpu": [TORCH, f"onnxruntime-gpu>=1.22; {X86}"],
        "tensorrt": [TORCH, "tensorrt>=10.12"],
        "rtx": [TORCH, RTX],
        "int8": ["nncf>=2.18"],
        "train": TRAIN,
        "test": [
            *EXPORT,
            *TRAIN,
            f"{RTX}; sys_platform == 'linux' and platform_machine == 'x86_64'",
            "build>=1.2",
            "hypothesis>=6.100",
            "mypy>=1.15",
            "pytest>=8.3",
            "pytest-benchmark>=5.1",
            "ruff>=0.12",
            "torchmetrics>=1.6",
            "types-PyYAML",
            "types-tqdm",
        ],
    },
    entry_points={"console_scripts": ["segfast = segfast.__main__:main"]},
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
