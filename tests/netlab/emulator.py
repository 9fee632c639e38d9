"""The packet loop. It runs in a process of its own, so that no interpreter lock of the tests ever delays a packet."""

import contextlib
import ctypes
import gc
import heapq
import json
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

from tests.netlab.channel import Channel
from tests.netlab.link import Link

_PR_SET_TIMERSLACK: Final = 29
_QUEUE_LIMIT: Final = 100_000
# Poll instead of sleeping when this close to a due time: waking up takes some 40 us. But not with more packets queued:
# endless polling would hit the kernel's real-time throttle.
_SPIN_NS: Final = 60_000
_SPIN_MAX: Final = 32
_LATE_SAMPLES: Final = 200_000
_READ_AT_ONCE: Final = 64
_ICMP: Final = frozenset((1, 58))

Row = tuple[int, str, int, int, int, int, list[int]]
"""An echo packet: time (ns), direction, ICMP type, identifier, sequence, size, due times (ns)."""


class Emulator:
    """Moves packets between two tun devices as the links say; serves requests of its parent over `control`."""

    def __init__(self, client_fd: int, server_fd: int, control: socket.socket, seed: int, *, trace: bool) -> None:
        self.channels = {
            "up": Channel("up", client_fd, server_fd, seed),
            "down": Channel("down", server_fd, client_fd, seed),
        }
        self.control = control
        self.queue: list[tuple[int, int, Channel, bytes]] = []
        self.order = 0
        self.records: list[Row] | None = [] if trace else None
        self.watched: list[int] = []  # pidfds of background commands to stop if the parent dies

    def run(self) -> None:
        """Loop until the parent is gone."""
        by_fd = {channel.source: channel for channel in self.channels.values()}
        inputs = [*by_fd, self.control.fileno()]
        clock = time.monotonic_ns
        while True:
            timeout = None
            if self.queue:
                spin = _SPIN_NS if len(self.queue) <= _SPIN_MAX else 0
                timeout = max(0, self.queue[0][0] - clock() - spin) / 1e9
            for fd in select.select(inputs, [], [], timeout)[0]:
                if fd in by_fd:
                    self._receive(by_fd[fd])
                elif not self._serve():
                    return
            now = clock()
            while self.queue and self.queue[0][0] <= now:
                self._deliver(now)

    def _receive(self, channel: Channel) -> None:
        for _ in range(_READ_AT_ONCE):
            try:
                packet = os.read(channel.source, 65535)
            except BlockingIOError:
                return
            now = time.monotonic_ns()
            if packet[24] == 0xFF if packet[0] >> 4 == 6 else packet[16] >= 0xE0:
                continue  # multicast chatter must not consume random draws
            count = channel.count
            count["packets"] += 1
            count["bytes"] += len(packet)
            dues, reordered = channel.fate(now, len(packet))
            if dues and len(self.queue) >= _QUEUE_LIMIT:
                count["overflow"] += 1
                dues = []
            count["duplicated"] += len(dues) > 1
            count["reordered"] += reordered
            for due in dues:
                self.order += 1
                heapq.heappush(self.queue, (due, self.order, channel, packet))
            if self.records is not None:
                self._record(channel, now, packet, dues)

    def _deliver(self, now: int) -> None:
        due, _, channel, packet = heapq.heappop(self.queue)
        with contextlib.suppress(OSError):
            os.write(channel.sink, packet)
        channel.count["sent"] += 1
        if len(channel.late_ns) < _LATE_SAMPLES:
            channel.late_ns.append(now - due)

    def _record(self, channel: Channel, now: int, packet: bytes, dues: list[int]) -> None:
        """Note the fate of an ICMP echo packet (the others are only counted)."""
        six = packet[0] >> 4 == 6
        offset, echo = (40, (128, 129)) if six else ((packet[0] & 15) * 4, (8, 0))
        protocol = packet[6] if six else packet[9]
        if protocol in _ICMP and len(packet) >= offset + 8 and packet[offset] in echo:
            ident, sequence = struct.unpack_from("!HH", packet, offset + 4)
            assert self.records is not None
            self.records.append((now, channel.name, packet[offset], ident, sequence, len(packet), dues))

    def _serve(self) -> bool:
        """Serve one request of the parent; False when the parent is gone."""
        data = self.control.recv(65536)
        if not data:
            for pidfd in self.watched:
                with contextlib.suppress(OSError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            return False
        payload = json.dumps(self._answer(json.loads(data))).encode()
        self.control.sendall(struct.pack("!Q", len(payload)) + payload)
        return True

    def _answer(self, request: dict[str, Any]) -> Any:
        match request["do"]:
            case "tune":
                for name, fields in request["links"].items():
                    self.channels[name].link = Link(**fields)
            case "watch":
                with contextlib.suppress(OSError):
                    self.watched.append(os.pidfd_open(request["pid"]))
            case "stats":
                return {name: channel.stats() for name, channel in self.channels.items()}
            case "trace":
                rows, self.records = self.records or [], None if self.records is None else []
                return rows
        return True


def main(arguments: Sequence[str]) -> int:
    """Run with: client descriptor, server descriptor, control descriptor, seed, trace (0 or 1)."""
    client_fd, server_fd, control_fd, seed, trace = map(int, arguments)
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1)
    gc.disable()
    Emulator(client_fd, server_fd, socket.socket(fileno=control_fd), seed, trace=bool(trace)).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
