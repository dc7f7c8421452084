"""Packaging. Everything about the project is here; pyproject.toml holds the build system and the tools' settings."""

import re
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "ministeer" / "__init__.py").read_text(encoding="utf-8")).group(1)
# a link to a file of the repository, which a package index does not show
LINK = re.compile(r"!?\[([^\]]*)\]\((?!https?://)[^)]*\)")


class BuildPy(build_py):
    """Of weights/nano, the model is packaged and the scripts that made it are not: they need the clone around them."""

    def find_package_modules(self, package, package_dir):
        return [] if package == "ministeer.nano" else super().find_package_modules(package, package_dir)


setup(
    name="ministeer",
    version=VERSION,
    description="A GPT-2 you can read in one sitting, in which steering is a +",
    long_description=LINK.sub(r"\1", (HERE / "README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    # the bundled model lies in weights/ in the repository and in ministeer/nano/ in the wheel
    cmdclass={"build_py": BuildPy},
    py_modules=["ministeer_command"],
    packages=["ministeer", "ministeer.lab", "ministeer.lab.data", "ministeer.nano", "ministeer.play"],
    package_dir={"ministeer.nano": "weights/nano"},
    package_data={
        "ministeer": ["py.typed", "gpt2.tiktoken*"],
        "ministeer.lab.data": ["*"],
        "ministeer.play": ["page.html", "stream.svg"],
        "ministeer.nano": [
            "config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "*.safetensors",
            "*.tiktoken",
            "*.md",
        ],
    },
    entry_points={"console_scripts": ["ministeer = ministeer_command:main"]},
    install_requires=["torch>=2.4", "safetensors>=0.4.3", "tiktoken>=0.7", "numpy>=1.26"],
    extras_require={
        "reproduce": ["matplotlib>=3.8", "scipy>=1.13", "tqdm>=4.66"],
        "hub": ["huggingface_hub>=0.30"],
        "formats": ["gguf>=0.10"],
        "chat": ["jinja2>=3.1.6"],  # older ones have known ways out of the sandbox
        "tokenizers": ["tokenizers>=0.21"],
        "play": ["starlette>=0.40", "uvicorn>=0.30", "anyio>=4.4"],
        "harness": ["lm_eval[hf]>=0.4.12"],
        "browser": ["playwright>=1.50"],
        "docs": ["sphinx>=8.1", "myst-nb>=1.3", "jupytext>=1.16", "furo>=2024.8.6", "ipykernel>=6.29"],
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "transformers>=4.56",
            "accelerate>=1.0",  # with which transformers reads GGUF files
            "scikit-learn>=1.5",
            "gguf>=0.10",
            "jinja2>=3.1.6",
            "tokenizers>=0.21",
            "starlette>=0.40",
            "uvicorn>=0.30",
            "anyio>=4.4",
            "ruff>=0.12",
            "mypy>=1.13",
            "setuptools>=77",
        ],
    },
)
