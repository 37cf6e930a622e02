"""The wheel and the sdist: what is in them, and that an installed wheel works outside the checkout."""

from __future__ import annotations

import json
import shutil
import site
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path, PurePosixPath
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("rnnc", "backends", "grammar", "stdlib")


def setup_module_of_project() -> ModuleType:
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("rnnc_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sources() -> list[Path]:
    """Every file under the packages' folders that belongs in an installation, relative to the root."""
    kinds = {".py", ".lark", ".rnn", ".json", ".md", ".h"}
    found = (p for folder in FOLDERS for p in (ROOT / folder).rglob("*") if "__pycache__" not in p.parts)
    return sorted(p.relative_to(ROOT) for p in found if p.suffix in kinds or p.name == "py.typed")


def installed(source: Path) -> str:
    """Where a source file stands in an installation: `backends/torch/x.py` -> `rnnc/backends/torch/x.py`."""
    return str(PurePosixPath(source) if source.parts[0] == "rnnc" else PurePosixPath("rnnc", *source.parts))


def test_packages_are_those_on_disk() -> None:
    packages = setup_module_of_project().find(ROOT)
    folders = {str(PurePosixPath(installed(p)).parent).replace("/", ".") for p in sources() if p.suffix == ".py"}
    assert sorted(packages) == sorted(folders), "a folder with Python files has no __init__.py"


def test_the_mapping_is_the_same_in_both_files() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    mapping = settings["tool"]["setuptools"]["package-dir"]
    assert {folder: package for package, folder in mapping.items()} == setup_module_of_project().FOLDERS


def test_the_import_of_a_mapped_package_by_its_bare_name_is_banned() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    banned = settings["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"]
    assert set(banned) == {"backends", "grammar", "stdlib"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel that is built from it."""
    copy = tmp_path_factory.mktemp("source") / "project"
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=skip)
    for name in ("pyproject.toml", "setup.py", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy / name)
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def environment(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a fresh environment with the wheel installed; the dependencies are those of this one."""
    place = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    (wheel,) = built.glob("*.whl")
    python = place / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    # A path in a .pth file brings the dependencies; the .pth files inside it, such as an editable rnnc's, stay inert.
    (packages,) = (place / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n", encoding="utf-8")
    return python.parent


def test_wheel_and_sdist_hold_every_source_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert sorted(n for n in names if ".dist-info/" not in n) == sorted(map(installed, sources()))
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        stored = {"/".join(PurePosixPath(n).parts[1:]) for n in archive.getnames()}
    assert {str(PurePosixPath(p)) for p in sources()} <= stored


def run(environment: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(environment / "rnnc"), *arguments], cwd=cwd, capture_output=True, text=True)


def test_the_installed_wheel_works_outside_the_checkout(environment: Path, tmp_path: Path) -> None:
    where = subprocess.run(
        [str(environment / "python"), "-c", "import rnnc, rnnc.backends, rnnc.grammar as g; print(rnnc.__file__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert where.returncode == 0, where.stderr
    assert str(environment.parent) in where.stdout
    listed = run(environment, tmp_path, "list")
    assert listed.returncode == 0, listed.stderr
    assert "deltanet" in listed.stdout
    checked = run(environment, tmp_path, "check", "deltanet", "gru")
    assert checked.returncode == 0, checked.stderr
    analysed = run(environment, tmp_path, "analyze", "deltanet", "--json")
    assert analysed.returncode == 0, analysed.stderr
    assert json.loads(analysed.stdout)["groups"]


def test_the_installed_wheel_compiles_a_module(environment: Path, tmp_path: Path) -> None:
    compiled = run(environment, tmp_path, "compile", "gru", "-o", "gru.py")
    assert compiled.returncode == 0, compiled.stderr
    code = "import torch, gru; c = [v for v in vars(gru).values() if isinstance(v, type) and v.__module__ == 'gru']"
    code += "; y, s = c[-1](d=8)(torch.zeros(2, 3, 8)); print(tuple(y.shape))"
    used = subprocess.run([str(environment / "python"), "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert used.returncode == 0, used.stderr
    assert used.stdout.startswith("(2, 3, ")
