"""Being somebody else for a moment, in one thread only, where a program of that user's could not even read the interpreter."""

import ctypes
import os
import platform
import threading
from collections.abc import Callable
from typing import Final, TypeVar

import pytest

from tests.netlab.namespace import Namespace

T = TypeVar("T")
NOBODY: Final = 65534

# setgroups, setresgid, setresuid. The C library's functions change all threads of a process; the system calls change one.
_CALLS: Final = {"x86_64": (116, 119, 117), "aarch64": (159, 149, 147)}
_libc = ctypes.CDLL(None, use_errno=True)


def _call(*arguments: int) -> None:
    if _libc.syscall(*arguments):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def as_nobody(namespace: Namespace, function: Callable[[], T]) -> T:
    """Run `function` in the namespace as user and group 65534, without any other group and without capabilities."""
    calls = _CALLS.get(platform.machine())
    if calls is None:
        pytest.skip(f"the system calls of {platform.machine()} are not listed here")
    setgroups, setresgid, setresuid = calls
    results: list[T] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            namespace.settle()
            _call(setgroups, 0, 0)
            _call(setresgid, NOBODY, NOBODY, NOBODY)
            _call(setresuid, NOBODY, NOBODY, NOBODY)
            results.append(function())
        except BaseException as exc:  # noqa: BLE001 - it is raised again in the caller's thread
            errors.append(exc)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
