"""One run of libiperf in a process of its own. Started by path, so it imports nothing of ours and little of Python's.

Standard input: one line, a JSON object: `parent` (process id), `library` (names to try, in order), `arguments` (as one would type
them behind `iperf3`; null asks for the version alone), `connect_timeout_ms`, `seconds` (how long data will flow), `receive` (it
flows towards this side), `udp`.

Standard output: JSON objects, one a line, told apart by `event`:
- missing   `reason`: the library or its wrapper cannot be loaded; nothing follows
- loaded    `version` of libiperf
- sample    four times a second: `at_s` (since data began to flow, monotonic; null before that), `connected` (the server has
            accepted), `streams`, `bytes` (so far, delivered: acknowledged by the peer or received from it), `control` (bytes read
            from the server beside the data), `retransmits` (null when not the sender, or over UDP)
- result    `code` (libiperf's i_errno, 0 is success), `text` of it (without the system's errno, which Python has used since: that
            stands in the document's own `error`), `document`: iperf3's JSON document as text, or null
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import socket
import struct
import sys
import threading
import time
from typing import Any, Final

PR_SET_PDEATHSIG: Final = 1
SAMPLE_PERIOD_S: Final = 0.25
LOOK_PERIOD_S: Final = 0.01
LAST_LOOK_S: Final = 0.02
# Each data connection opens with a cookie of 37 bytes; more than this is data.
COOKIE_BYTES: Final = 64
# struct tcp_info of <linux/tcp.h>: tcpi_total_retrans, tcpi_bytes_acked, tcpi_bytes_received.
TCP_INFO_BYTES: Final = 136
AT_RETRANSMITS, AT_ACKED, AT_RECEIVED = 100, 120, 128
# A hostile server can announce results of gigabytes; this process is what may fail for it.
ADDRESS_SPACE_BYTES: Final = 2 * 1024**3


class Writer:
    """Writes events as JSON lines; usable from both threads. `written` counts their bytes."""

    def __init__(self, descriptor: int) -> None:
        self.written = 0
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def say(self, event: str, **values: object) -> None:
        """Write one event at once."""
        left = memoryview(json.dumps({"event": event, **values}, allow_nan=False).encode() + b"\n")
        with self._lock:
            while left:
                count = os.write(self._descriptor, left)
                self.written += count
                left = left[count:]


class SystemCalls:
    """Bytes libiperf has read or written, by the kernel's count of system calls: UDP sockets themselves count nothing."""

    def __init__(self, writer: Writer, *, receive: bool) -> None:
        self._writer, self._receive = writer, receive
        self._own_reads = 0
        self._before = self._counted()

    def moved(self) -> int:
        """Return the bytes since this object was made; 0 where the kernel does not count."""
        return self._counted() - self._before

    def _counted(self) -> int:
        try:
            descriptor = os.open("/proc/self/io", os.O_RDONLY)
        except OSError:
            return 0
        found = os.read(descriptor, 1024)
        os.close(descriptor)
        own = self._own_reads if self._receive else self._writer.written
        self._own_reads += len(found)
        wanted = b"rchar: " if self._receive else b"wchar: "
        return next((int(line[len(wanted) :]) - own for line in found.splitlines() if line.startswith(wanted)), 0)


class Sampler(threading.Thread):
    """Looks at libiperf's sockets from beside it: the kernel knows what was delivered, libiperf only what it handed over."""

    def __init__(self, library: Any, test: int, writer: Writer, request: dict[str, Any]) -> None:
        super().__init__(name="sampler", daemon=True)
        self._library, self._test = library, test
        self._writer, self._receive, self._udp = writer, bool(request["receive"]), bool(request["udp"])
        self._calls = SystemCalls(writer, receive=self._receive)
        self._last_look_s = float(request["seconds"]) - LAST_LOOK_S
        self._ended = threading.Event()
        self._first: float | None = None

    def run(self) -> None:
        """Sample until told to end; look often until data flows, for that is where time begins."""
        due = time.monotonic() + SAMPLE_PERIOD_S
        while not self._ended.wait(LOOK_PERIOD_S if self._first is None else max(0.0, due - time.monotonic())):
            try:
                streams, moved, retransmits, control = self._look()
            except FileNotFoundError:  # no /proc: there are no live figures, and the parent's deadline alone watches
                return
            now = time.monotonic()
            if self._first is None and moved > COOKIE_BYTES * streams > 0:
                self._first = due = now
            if now >= due:
                self._report(now, streams, moved, retransmits, control)
                due = self._next(now, due)

    def end(self) -> None:
        """End the thread and wait for it, so that it never looks at a test that is gone."""
        self._ended.set()
        self.join()

    def _control_socket(self) -> int:
        """Return the descriptor of the control connection, below 1 until the server has accepted."""
        return int(self._library.iperf_get_control_socket(self._test))

    def _next(self, now: float, due: float) -> float:
        """Return when to look next: on the quarter seconds, and once shortly before the sockets close."""
        following = due + SAMPLE_PERIOD_S
        if self._first is not None and now < self._first + self._last_look_s < following + LAST_LOOK_S:
            return self._first + self._last_look_s
        return max(following, now)

    def _look(self) -> tuple[int, int, int, int]:
        """Return data connections, bytes delivered over them, segments sent again, bytes read from the control connection."""
        streams = moved = retransmits = control = 0
        kept = self._control_socket()
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - pathlib takes longer to import than all of this
            number = int(name)
            info = _tcp_info(number)
            if info is None:
                streams += self._udp and _is_datagram(number)
            elif number == kept:
                control = int(struct.unpack_from("Q", info, AT_RECEIVED)[0])
            elif kept > 0:  # before that, it is the control connection on its way
                streams += 1
                moved += int(struct.unpack_from("Q", info, AT_RECEIVED if self._receive else AT_ACKED)[0])
                retransmits += int(struct.unpack_from("I", info, AT_RETRANSMITS)[0])
        return streams, self._calls.moved() if self._udp else moved, retransmits, control

    def _report(self, now: float, streams: int, moved: int, retransmits: int, control: int) -> None:
        self._writer.say(
            "sample",
            at_s=None if self._first is None else round(now - self._first, 6),
            connected=self._control_socket() > 0,
            streams=streams,
            bytes=moved,
            control=control,
            retransmits=None if self._receive or self._udp else retransmits,
        )


def _tcp_info(number: int) -> bytes | None:
    """Return the kernel's tcp_info of a descriptor, None if it is no TCP socket, is closed, or the kernel is too old."""
    size = ctypes.c_uint(TCP_INFO_BYTES)
    buffer = ctypes.create_string_buffer(TCP_INFO_BYTES)
    if _libc().getsockopt(number, socket.IPPROTO_TCP, socket.TCP_INFO, buffer, ctypes.byref(size)):
        return None
    return buffer.raw if size.value >= TCP_INFO_BYTES else None


def _is_datagram(number: int) -> bool:
    kind, size = ctypes.c_int(), ctypes.c_uint(ctypes.sizeof(ctypes.c_int))
    failed = _libc().getsockopt(number, socket.SOL_SOCKET, socket.SO_TYPE, ctypes.byref(kind), ctypes.byref(size))
    return not failed and kind.value == socket.SOCK_DGRAM


_LIBC: list[ctypes.CDLL] = []


def _libc() -> ctypes.CDLL:
    if not _LIBC:
        library = ctypes.CDLL(None, use_errno=True)
        library.getsockopt.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
        library.getsockopt.restype = ctypes.c_int
        library.prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)
        library.prctl.restype = ctypes.c_int
        _LIBC.append(library)
    return _LIBC[0]


def _isolate(parent: int) -> None:
    """Die with the parent, die at SIGTERM, never grow without bound."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(ValueError, OSError):  # a stricter limit is in force already
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
    _libc().prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)


# Any: the wrapper carries no types.
def _client(names: list[str]) -> Any:
    """Return the wrapper's client over the first library that loads. Raise OSError or ImportError with the reason."""
    import iperf3  # noqa: PLC0415 - its absence is to be reported, not to be a traceback

    reason = ""
    for name in names:
        try:
            # Looked at first, because a client that fails to load leaves an exception behind in its finaliser.
            ctypes.CDLL(name)
        except OSError as exc:
            reason = reason or str(exc)  # the first name is the one this system would have
            continue
        client = iperf3.Client(lib_name=name)
        _declare(client.lib)
        return client
    raise OSError(reason or "no name to look for")


def _declare(library: Any) -> None:
    """Declare what the wrapper leaves undeclared: a pointer passed as the default int loses its upper half."""
    pointer, number = ctypes.c_void_p, ctypes.c_int
    library.iperf_parse_arguments.argtypes = (pointer, number, ctypes.POINTER(ctypes.c_char_p))
    library.iperf_parse_arguments.restype = number
    library.iperf_set_test_connect_timeout.argtypes = (pointer, number)
    library.iperf_set_test_connect_timeout.restype = None
    library.iperf_get_control_socket.argtypes = (pointer,)
    library.iperf_get_control_socket.restype = number


def _configure(client: Any, arguments: list[str], connect_timeout_ms: int) -> bool:
    """Give libiperf its options. Return False if it refuses them; its error is then set.

    By its own argument parser: the setters know no address family, and skip the defaults that go with UDP (they send datagrams
    of 65507 bytes); and so the options shown beside a result are the very ones that ran.
    """
    words = [b"iperf3", *(word.encode() for word in arguments)]
    vector = (ctypes.c_char_p * (len(words) + 1))(*words, None)
    client.lib.iperf_set_test_connect_timeout(client._test, connect_timeout_ms)  # noqa: SLF001 - the wrapper's only handle
    return int(client.lib.iperf_parse_arguments(client._test, len(words), vector)) == 0  # noqa: SLF001 - as above


def _measure(client: Any, request: dict[str, Any], writer: Writer) -> None:
    test, library = client._test, client.lib  # noqa: SLF001 - the wrapper's only handle
    if _configure(client, request["arguments"], request["connect_timeout_ms"]):
        sampler = Sampler(library, test, writer, request)
        sampler.start()
        # Not client.run(): it hijacks standard output, drops documents over 64 KiB and hides the error's number.
        library.iperf_run_client(test)
        sampler.end()
    code = int(client._errno)  # noqa: SLF001 - as above
    text = library.iperf_strerror(code).decode(errors="replace").partition(": ")[0] if code else ""
    found = library.iperf_get_test_json_output_string(test)
    writer.say("result", code=code, text=text, document=found.decode(errors="replace") if found else None)


def main() -> None:
    """Carry out the request on standard input."""
    writer = Writer(os.dup(1))
    # libiperf prints its document on descriptor 1, whatever it is told.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    request = json.loads(sys.stdin.readline())
    _isolate(request["parent"])
    try:
        client = _client(request["library"])
    except (OSError, ImportError, AttributeError) as exc:
        writer.say("missing", reason=str(exc))
        os._exit(0)
    writer.say("loaded", version=client.iperf_version.removeprefix("iperf "))
    if request["arguments"] is not None:
        _measure(client, request, writer)
    # Never through the wrapper's finaliser: it closes, and writes into, descriptors that libiperf has long given back.
    os._exit(0)


if __name__ == "__main__":
    main()
