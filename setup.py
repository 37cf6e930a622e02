"""Finds the packages folder by folder; everything else is in pyproject.toml.

`backends/`, `grammar/` and `stdlib/` stand at the top level of the repository and are installed as `rnnc.backends`,
`rnnc.grammar` and `rnnc.stdlib` (see `package-dir` in pyproject.toml).
"""

from pathlib import Path

from setuptools import setup

FOLDERS = {"rnnc": "rnnc", "backends": "rnnc.backends", "grammar": "rnnc.grammar", "stdlib": "rnnc.stdlib"}


def find(root: Path) -> list[str]:
    """The dotted name of every folder below `root` that holds an `__init__.py`."""
    packages = []
    for folder, name in FOLDERS.items():
        for init in sorted((root / folder).rglob("__init__.py")):
            inner = init.parent.relative_to(root / folder).parts
            packages.append(".".join((name, *inner)))
    return packages


if __name__ == "__main__":
    setup(packages=find(Path(__file__).parent))
