"""scripts/setup, on machines that are made up: what it calls, in which case, and what it says."""

import os
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ("sh", "dirname", "tr", "cat", "cksum", "flock", "env", "mkdir", "cp", "chmod", "sleep", "rm")

# A Python that is none: it notes what it is asked, makes a .venv out of itself, and fails where the test says so.
PYTHON = """#!/bin/sh
echo "python $*" >> "$LOG"
case "$*" in
  *ensurepip*) [ ! -e "$FAKE/no-venv" ] ;;
  *version_info*'sys.exit'*|*'sys.exit'*) exit 0 ;;
  --version) echo "Python 3.11.2" ;;
  *"-m venv"*)
    rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python; cp "$0" .venv/bin/netloom ;;
  *"-m pip"*) [ ! -e "$FAKE/no-network" ] && sleep "${SLOW:-0}" ;;
esac
"""
APT = """#!/bin/sh
echo "apt-get $* $DEBIAN_FRONTEND" >> "$LOG"
read -r line && echo "apt-get was given: $line" >> "$LOG"
[ ! -e "$FAKE/apt-fails" ]
"""


@dataclass
class Machine:
    """A machine that has only what is in `bin`."""

    bin: Path
    tree: Path
    log: Path

    def has(self, name: str, text: str = "#!/bin/sh\n") -> None:
        path = self.bin / name
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def is_so(self, name: str) -> None:
        """Switch a behaviour of the made-up programs on."""
        (self.bin / name).touch()

    def env(self, **more: str) -> dict[str, str]:
        return {"PATH": str(self.bin), "LOG": str(self.log), "FAKE": str(self.bin), **more}

    def setup(self, purpose: str = "demo", **more: str) -> "subprocess.CompletedProcess[str]":
        self.log.write_text("")
        return subprocess.run(
            [str(self.tree / "scripts" / "setup"), purpose],
            env=self.env(**more),
            input="an answer nobody should get\n",
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def calls(self, word: str) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if word in line]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine with Python and iperf3, a user without rights, and a checkout."""
    found = Machine(tmp_path / "bin", tmp_path / "tree", tmp_path / "log")
    found.bin.mkdir()
    for name in TOOLS:
        place = shutil.which(name)
        assert place is not None, name
        (found.bin / name).symlink_to(place)
    found.has("python3", PYTHON)
    found.has("iperf3")
    found.has("id", "#!/bin/sh\necho 1000\n")
    (found.tree / "scripts").mkdir(parents=True)
    shutil.copy2(ROOT / "scripts" / "setup", found.tree / "scripts" / "setup")
    (found.tree / "pyproject.toml").write_text("[project]\n")
    return found


def _root(machine: Machine) -> None:
    machine.has("id", "#!/bin/sh\necho 0\n")
    machine.has("apt-get", APT)


def test_first_it_makes_everything_and_then_nothing(machine: Machine) -> None:
    first = machine.setup()
    assert first.returncode == 0, first.stderr
    assert machine.calls("-m venv") == ["python -m venv --clear .venv"]
    assert machine.calls("-m pip install")[0].endswith("--editable .[server]")
    again = machine.setup()
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert machine.calls("-m ") == []


def test_a_larger_set_holds_the_smaller(machine: Machine) -> None:
    assert machine.setup("check").returncode == 0
    assert machine.setup("demo").returncode == 0
    assert machine.calls("-m pip install") == []


def test_a_smaller_set_does_not_hold_the_larger(machine: Machine) -> None:
    assert machine.setup("demo").returncode == 0
    assert machine.setup("check").returncode == 0
    assert machine.calls("-m pip install")[0].endswith("--editable .[check]")
    assert machine.calls("-m venv") == []


def test_it_installs_again_when_the_dependencies_changed(machine: Machine) -> None:
    machine.setup()
    (machine.tree / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert machine.setup().returncode == 0
    assert len(machine.calls("-m pip install")) == 1
    assert machine.calls("-m venv") == []


def test_a_broken_venv_is_made_anew(machine: Machine) -> None:
    machine.setup()
    (machine.tree / ".venv" / "bin" / "python").unlink()
    (machine.tree / ".venv" / "bin" / "python").symlink_to("/nowhere/python3")
    assert machine.setup().returncode == 0
    assert len(machine.calls("-m venv")) == 1
    assert len(machine.calls("-m pip install")) == 1


def test_a_moved_folder_gets_a_new_venv(machine: Machine, tmp_path: Path) -> None:
    machine.setup()
    machine.tree = machine.tree.rename(tmp_path / "elsewhere")
    assert machine.setup().returncode == 0
    assert len(machine.calls("-m venv")) == 1


def test_an_install_that_failed_is_tried_again(machine: Machine) -> None:
    machine.is_so("no-network")
    assert machine.setup().returncode != 0
    (machine.bin / "no-network").unlink()
    assert machine.setup().returncode == 0
    assert len(machine.calls("-m pip install")) == 1


def test_without_rights_it_prints_the_command_and_goes_on(machine: Machine) -> None:
    (machine.bin / "iperf3").unlink()
    machine.has("apt-get", APT)
    done = machine.setup()
    assert done.returncode == 0
    assert "As root: apt-get update && apt-get install iperf3" in done.stderr
    assert machine.calls("apt-get") == []


def test_root_installs_what_lacks_without_a_question(machine: Machine) -> None:
    (machine.bin / "iperf3").unlink()
    machine.is_so("no-venv")
    _root(machine)
    assert machine.setup().returncode == 0
    update, install = machine.calls("apt-get")
    assert update.endswith("update noninteractive")
    assert install.endswith("-y --no-install-recommends install python3-venv iperf3 noninteractive")


def test_sudo_is_used_only_when_it_asks_nothing(machine: Machine) -> None:
    (machine.bin / "iperf3").unlink()
    machine.has("apt-get", APT)
    machine.has("sudo", '#!/bin/sh\n[ "$1" = -n ] || exit 1\nshift\nexec "$@"\n')
    machine.has("true")
    assert machine.setup().returncode == 0
    assert len(machine.calls("apt-get")) == 2


def test_apt_that_fails_is_told_and_goes_on(machine: Machine) -> None:
    (machine.bin / "iperf3").unlink()
    machine.is_so("apt-fails")
    _root(machine)
    done = machine.setup()
    assert done.returncode == 0
    assert "By hand, as root: apt-get update && apt-get install iperf3" in done.stderr


def test_check_needs_no_program_of_the_system(machine: Machine) -> None:
    (machine.bin / "iperf3").unlink()
    _root(machine)
    assert machine.setup("check").returncode == 0
    assert machine.calls("apt-get") == []


def test_without_python_it_says_what_to_do(machine: Machine) -> None:
    (machine.bin / "python3").unlink()
    done = machine.setup()
    assert done.returncode == 1
    assert "apt-get install python3 python3-venv" in done.stderr


def test_nonsense_is_refused(machine: Machine) -> None:
    done = machine.setup("everything")
    assert done.returncode == 2
    assert "there is no 'everything'; it is one of demo, test, check" in done.stderr
    assert machine.calls("python") == []


def test_two_at_once_install_once(machine: Machine) -> None:
    machine.log.write_text("")
    words, env = [str(machine.tree / "scripts" / "setup"), "demo"], machine.env(SLOW="0.3")
    both = [subprocess.Popen(words, env=env, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(20) for process in both] == [0, 0]
    assert len(machine.calls("-m pip install")) == 1


@pytest.mark.parametrize("name", ["scripts/setup", "scripts/demo", "scripts/test", "scripts/check", ".ci/run"])
def test_every_script_can_be_run_and_read(name: str) -> None:
    path = ROOT / name
    assert os.access(path, os.X_OK)
    shell = path.read_text("utf-8").splitlines()[0].rpartition("/")[2].rpartition(" ")[2]
    assert subprocess.run([shell, "-n", str(path)], check=False).returncode == 0


def test_ci_runs_what_a_person_runs() -> None:
    lines = (ROOT / ".ci" / "run").read_text("utf-8").splitlines()
    assert lines[-2:] == ["./scripts/check", "./scripts/test"]
    assert "exec </dev/null" in lines
