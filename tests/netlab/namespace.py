"""Anonymous network namespaces, alive while a file descriptor is open."""

import contextlib
import ctypes
import fcntl
import os
import shlex
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

_CLONE_NEWNET: Final = 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_libc = ctypes.CDLL(None, use_errno=True)

Process = subprocess.Popen[Any]
"""Any: text or bytes, as the caller opened it."""


class LabError(RuntimeError):
    """The lab could not be built, or a command in it failed."""


def _own() -> int:
    """Return a descriptor of the calling thread's namespace."""
    return os.open(f"/proc/self/task/{threading.get_native_id()}/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _set(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET):
        raise LabError(f"setns: {os.strerror(ctypes.get_errno())}")


class Namespace:
    """A network namespace; `adopt` is told of every process started in it."""

    def __init__(self, name: str, adopt: Callable[[Process], None] | None = None) -> None:
        self.name = name
        self._adopt = adopt
        self.fd = -1
        problems: list[str] = []

        def create() -> None:  # in a thread: unshare() moves the calling thread only
            if _libc.unshare(_CLONE_NEWNET):
                problems.append(os.strerror(ctypes.get_errno()))
            else:
                self.fd = _own()

        thread = threading.Thread(target=create)
        thread.start()
        thread.join()
        if problems:
            raise LabError(f"unshare: {problems[0]} (the lab needs root)")
        self.ip("link", "set", "lo", "up")

    @property
    def path(self) -> str:
        """A path for nsenter --net=... or ip link set ... netns, valid while this process lives."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    @contextlib.contextmanager
    def enter(self) -> Iterator[None]:
        """Move the calling thread into the namespace; sockets and processes made inside stay there."""
        home = _own()
        try:
            _set(self.fd)
            try:
                yield
            finally:
                _set(home)
        finally:
            os.close(home)

    def settle(self) -> None:
        """Move the calling thread into the namespace for good."""
        _set(self.fd)

    # Any: the options of subprocess.Popen.
    def popen(self, command: Sequence[str], **options: Any) -> Process:
        """Start a background command; the lab stops it (and its session) when it closes."""
        options.setdefault("start_new_session", True)
        with self.enter():
            process = subprocess.Popen(command, **options)
        if self._adopt is not None:
            self._adopt(process)
        return process

    # Any: the options of subprocess.run, and text or bytes as they say.
    def run(self, command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[Any]:
        """subprocess.run() inside the namespace."""
        with self.enter():
            return subprocess.run(command, check=False, **options)

    def output(self, *command: str, timeout: float = 60) -> str:
        """Run a command, return its standard output; LabError if it fails."""
        done = self.run(command, capture_output=True, text=True, timeout=timeout)
        if done.returncode:
            raise LabError(f"[{self.name}] {shlex.join(command)}: {(done.stderr or done.stdout).strip()}")
        return str(done.stdout)

    def ip(self, *arguments: str) -> str:
        """Run ip(8) in the namespace."""
        return self.output("ip", *arguments)

    def sysctl(self, **values: int | str) -> None:
        """sysctl(net__ipv4__ip_forward=1); double underscores are slashes."""
        with self.enter():
            for key, value in values.items():
                Path("/proc/sys", *key.split("__")).write_text(str(value), encoding="ascii")

    def tun(self, device: str) -> int:
        """Create a tun device in the namespace and return its packet file descriptor."""
        with self.enter():
            fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", device.encode(), _IFF_TUN | _IFF_NO_PI))
        return fd

    def close(self) -> None:
        """Let go of the namespace; the kernel drops it with its last user."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
