"""Build and dependencies of sparsepo_dist. Lower bounds live here; the versions tested live in constraints.txt.

The CPU kernels are built against the torch that is installed: `pip install --no-build-isolation -e .`. Without torch
or a compiler here, they are built at first use instead.
"""

import os
import shlex
import shutil
from pathlib import Path
from typing import Any

from setuptools import find_packages, setup

EVALUATION = [
    "lm-eval[ifeval,math]>=0.4.9",
    "rouge-score>=0.1.2",
    "bert-score>=0.3.13",
    "sacrebleu>=2.5",
    "scipy>=1.13",
    "vaderSentiment>=3.3.2",
]


def kernels() -> dict[str, Any]:
    """Arguments that build csrc/, or none where it cannot be built now."""
    try:
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ImportError:
        return {}
    if shutil.which(shlex.split(os.environ.get("CXX") or "g++")[0]) is None:
        return {}
    extension = CppExtension(
        "sparsepo_dist.ops._kernels_cpu",
        ["csrc/masked_kl_cpu.cpp", "csrc/binding_cpu.cpp"],
        # As sparsepo_dist/ops/compiled.py has them, which cannot be imported before it is installed.
        extra_compile_args=["-O3", "-fopenmp", "-Wno-uninitialized", "-Wno-maybe-uninitialized"],
        extra_link_args=["-fopenmp"],
        depends=[str(path) for path in Path("csrc").glob("*")],
        optional=True,
    )
    return {"ext_modules": [extension], "cmdclass": {"build_ext": BuildExtension}}


setup(
    name="sparsepo_dist",
    version="0.1.0",
    description="Token-level preference optimisation (SparsePO, MaPO, DPO, TDPO) on DeepSpeed ZeRO-3",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["sparsepo_dist", "sparsepo_dist.*"]),
    package_data={
        "sparsepo_dist": [
            "py.typed",
            "builtin/shipped/*.jsonl",
            "data/tokens/templates/*.jinja",
            "report/pages/assets/*",
        ]
    },
    # For builds at first use; under the environment's prefix, as they belong to no package.
    data_files=[("share/sparsepo_dist/csrc", [str(path) for path in Path("csrc").glob("*")])],
    install_requires=[
        "torch>=2.10",
        "deepspeed>=0.19.4",  # the first with #8148: LoRA with checkpointed activations under ZeRO-3
        "transformers>=5.17,<6",
        "datasets>=4",
        "peft>=0.21",
        "bitsandbytes>=0.50",
        "accelerate>=1.15",
        "jsonargparse[signatures]>=4.50",
        "mpi4py>=4.1",
        "safetensors>=0.5",
        "tensorboard>=2.19",
        "tqdm>=4.66",
        "matplotlib>=3.9",
        "numpy>=2",
        "pyyaml>=6",
    ],
    extras_require={
        "demo": ["gguf>=0.17", "vaderSentiment>=3.3.2"],
        "eval": EVALUATION,
        "slurm": ["submitit>=1.5"],
        "flash-attn": ["flash-attn>=2.8"],
        "wandb": ["wandb>=0.19"],
        "mlflow": ["mlflow-skinny>=3.1"],
        "trackio": ["trackio>=0.20"],
        "bench": ["trl>=1.16"],
        "dev": [
            "pytest>=9",
            "pytest-random-order>=1.2",
            "pytest-timeout>=2.4",
            "pytest-xdist>=3.8",
            "hypothesis>=6.150",
            "ruff>=0.17",
            "mypy>=2.4",
            "pre-commit>=4",
            "trl>=1.16",
            *EVALUATION,
            "submitit>=1.5",
            "types-PyYAML",
            "types-tqdm",
        ],
    },
    entry_points={"console_scripts": ["sparsepo=sparsepo_dist.commands.main:main"]},
    **kernels(),
)
