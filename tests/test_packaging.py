"""What is installed: our generic import names collide with nobody's, and the wheel holds what it must."""

import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PACKAGES: list[str] = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]


def _names(requirements: list[str]) -> set[str]:
    return {text.split(">")[0].split("=")[0].split("[")[0].strip() for text in requirements}


@pytest.mark.parametrize("name", PACKAGES)
def test_no_other_distribution_brings_a_package_of_our_name(name: str) -> None:
    owners = set(packages_distributions().get(name, ["netloom"]))
    assert owners == {"netloom"}


def test_the_bare_probe_needs_only_its_measurement_libraries() -> None:
    assert _names(PROJECT["project"]["dependencies"]) == {"click", "iperf3", "paho-mqtt", "pydantic", "pythonping"}


def test_no_test_folder_is_named_like_a_package() -> None:
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()}
    assert not folders & set(PACKAGES)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of the files in a freshly built wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=60,
    )
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        return set(archive.namelist())


def _tracked(folder: str) -> set[str]:
    listed = subprocess.run(["git", "ls-files", folder], cwd=ROOT, check=True, capture_output=True, text=True)
    return set(listed.stdout.split())


@pytest.mark.parametrize("name", PACKAGES)
def test_the_wheel_holds_every_file_of_a_package(name: str, wheel: set[str]) -> None:
    tracked = _tracked(name)
    if not tracked:
        pytest.skip("not a git checkout")
    assert tracked <= wheel


def test_the_wheel_holds_no_tests(wheel: set[str]) -> None:
    assert {name.split("/")[0] for name in wheel if ".dist-info/" not in name} == set(PACKAGES)


def test_the_version_is_said_once_more_correctly() -> None:
    text = (ROOT / "netloom" / "__init__.py").read_text("utf-8")
    assert f'VERSION = "{PROJECT["project"]["version"]}"' in text


def test_the_licence_is_apache_2() -> None:
    assert "Apache License" in (ROOT / "LICENSE").read_text("utf-8")
    assert PROJECT["project"]["license"] == "Apache-2.0"
