"""Packaging: `kernels`, `export`, `train` and `examples` beside this file are packages inside `segfast`."""

import re
import tempfile
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (HERE / "segfast" / "__init__.py").read_text(encoding="utf-8"))[1]
# What is built on the way to a wheel lies here, and goes with this process: nothing is left in the checkout.
BUILD = tempfile.TemporaryDirectory(prefix="segfast-build-")

# Folder of each package: those inside `segfast/`, and those that a checkout keeps beside it (segfast/dependencies/checkout.py).
ROOMS = sorted(found.parent.name for found in HERE.glob("segfast/*/__init__.py"))
PACKAGES = {
    "segfast": "segfast",
    **{f"segfast.{room}": f"segfast/{room}" for room in ROOMS},
    **{f"segfast.{name}": name for name in ("kernels", "export", "train", "examples")},
}

# Beside a floor: what was wrong below it, where an advisory or the release's notes say so.
PILLOW = "pillow>=13"  # CVE-2026-25990, -42308, -55798, -59197 to -59200 (below 12.3); CGA-6r43-cc9v-c6c4 (below 13)
TQDM = "tqdm>=4.66.3"  # CVE-2024-34062
TORCH = "torch>=2.11"  # CVE-2025-32434, CVE-2026-24747, CVE-2026-4538
ONNX = "onnx>=1.21"  # CVE-2026-27489, -28500, -34445, -34446, -34447
FILELOCK = "filelock>=3.20.3"  # CVE-2025-68146, CVE-2026-22701
PYTEST = "pytest>=9.0.3"  # CVE-2025-71176
# onnxruntime and onnxruntime-gpu are one module: never both. The latter runs on machines without a GPU.
X86 = "platform_machine in 'x86_64 AMD64' and sys_platform != 'darwin'"
ONNX_RUNTIME_GPU = f"onnxruntime-gpu>=1.27; {X86}"  # reads and writes out of bounds: "Security Fixes" of 1.27's notes
ONNX_RUNTIME = [
    ONNX_RUNTIME_GPU,
    "onnxruntime>=1.27; platform_machine not in 'x86_64 AMD64' or sys_platform == 'darwin'",
]
# Our kernels are written in it. PyTorch's own wheels for CUDA bring it, others do not.
TRITON = "triton>=3.6; sys_platform == 'linux' and platform_machine in 'x86_64 aarch64'"
CUDA = [TORCH, TRITON]
RTX = "tensorrt-rtx-cu13>=1.7"
TIMM = "timm>=1.0.20"  # the first with DINOv3
CHECKPOINTS = [TORCH, TIMM, "safetensors>=0.5", "pyyaml>=6", FILELOCK]
RAY = [
    "ray[client,data]>=2.55",  # CVE-2025-62593 (below 2.52), CVE-2026-27482 (2.54), CVE-2026-41486 (2.55)
    "pyarrow>=23.0.1",  # CVE-2026-25087
    "fsspec>=2024.6",
]
SERVE = [
    "starlette>=1.3.1",  # CVE-2026-48710, -48817, -48818, -54282, -54283
    "uvicorn>=0.35",
    "h11>=0.16",  # CVE-2025-43859
    "prometheus-client>=0.21",
]
COCO = ["pycocotools>=2.0.8"]
TRAIN = [*CHECKPOINTS, TRITON, "matplotlib>=3.9", "scipy>=1.14", "tensorboard>=2.18"]
INT8 = ["nncf>=3.4"]  # the oldest that was tried
EXPORT = [*CHECKPOINTS, ONNX, "onnxscript>=0.6", *ONNX_RUNTIME]

setup(
    # `segfast` is another project's name on the package index; the import name stays.
    name="segfast-engine",
    version=VERSION,
    description="Segmenter models in production: exported, and run fast on GPUs and plain CPUs",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    options={"build": {"build_base": BUILD.name}, "egg_info": {"egg_base": BUILD.name}},
    packages=list(PACKAGES),
    package_dir=PACKAGES,
    package_data={"segfast": ["py.typed", "data/*.json", "serving/*.html"], "segfast.examples": ["*.jpg", "*.md"]},
    install_requires=["numpy>=2", PILLOW, "openvino>=2025.4", "numba>=0.61", TQDM],
    extras_require={
        "export": EXPORT,
        "gpu": [*CUDA, ONNX_RUNTIME_GPU],
        "tensorrt": [*CUDA, "tensorrt>=10.12"],
        "rtx": [*CUDA, RTX],
        "int8": INT8,
        "train": TRAIN,
        "ray": RAY,
        "serve": SERVE,
        "coco": COCO,
        "test": [
            *EXPORT,
            *INT8,
            *TRAIN,
            *RAY,
            *SERVE,
            *COCO,
            f"{RTX}; sys_platform == 'linux' and platform_machine == 'x86_64'",
            "build>=1.2",
            "hypothesis>=6.100",
            "mypy>=1.15",
            PYTEST,
            "pytest-benchmark>=5.1",
            "ruff>=0.12",
            "torchmetrics>=1.6",
            "tritonclient[grpc]>=2.50",
            "types-PyYAML",
            "types-tqdm",
        ],
    },
    entry_points={"console_scripts": ["segfast = segfast.__main__:main"]},
    classifiers=[
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
