"""Faults for tests: a disk that is full, a child that is killed in the middle of its writing."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def small_disk(tmp_path: Path, kib: int = 2048) -> Iterator[Path]:
    """A file system of a few KiB of its own; skips where this user may not mount one."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(place)], check=False, capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {made.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path) -> Path:
    """Take all the room that is left; unlink the returned file to give it back."""
    filler = place / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as out:
        while True:
            out.write(bytes(4096))
    return filler


def run_until_killed(script: str, arguments: list[str], lines: int) -> list[str]:
    """Run a Python script, SIGKILL it after it has printed `lines` lines, and return the whole lines it printed."""
    child = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
    )
    assert child.stdout is not None
    said = [child.stdout.readline() for _ in range(lines)]
    child.send_signal(signal.SIGKILL)
    rest, _ = child.communicate()
    said += rest.splitlines(keepends=True)
    assert "" not in said, "the child ended by itself"
    return [line.rstrip("\n") for line in said if line.endswith("\n")]
