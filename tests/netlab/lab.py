"""The lab: namespaces, devices, addresses and routes around one emulated link."""

import contextlib
import dataclasses
import ipaddress
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from tests.netlab.link import Link
from tests.netlab.namespace import LabError, Namespace, Process

_ROOT: Final = Path(__file__).resolve().parents[2]
_CLIENT_IP, _SERVER_IP = "10.77.0.1", "10.77.0.2"
_CLIENT_IP6, _SERVER_IP6 = "fd77::1", "fd77::2"
_ROUTER_IP, _ROUTER_LAN_IP, _ROUTED_SERVER_IP = "10.77.0.254", "10.77.1.1", "10.77.1.2"
_ROUTER_IP6, _ROUTER_LAN_IP6, _ROUTED_SERVER_IP6 = "fd77::fe", "fd77:1::1", "fd77:1::2"


@dataclass(frozen=True)
class Echo:
    """An echo packet as the emulator saw it: the truth. No delay: it was lost; two: it was duplicated."""

    t: float
    """When it entered the link, s, by the monotonic clock."""
    direction: str
    type: int
    ident: int
    sequence: int
    size: int
    delays: tuple[float, ...]
    """Time in the link of each copy, s."""


class Lab:
    """Two (or, with router=True, three) namespaces joined by an impaired link.

    Args:
        up: impairments client to server.
        down: impairments back; `up`'s by default.
        router: put a router between link and server.
        tbf: tc tbf limit in bit/s in both directions, with a queue of 50 ms.
        ipt_loss: random iptables loss of packets arriving at the server side (0..1).
        drop_every: drop exactly every n-th echo request arriving at the server side.
        targets: number of server addresses (lab.targets), for concurrent tests.
        mtu: of the link, bytes.
        seed: makes the emulator's decisions repeatable.
        trace: keep the fate of every ICMP echo packet for lab.trace().
    """

    client: Namespace
    server: Namespace
    router: Namespace | None = None

    def __init__(
        self,
        up: Link | None = None,
        down: Link | None = None,
        *,
        router: bool = False,
        tbf: int = 0,
        ipt_loss: float = 0.0,
        drop_every: int = 0,
        targets: int = 1,
        mtu: int = 1500,
        seed: int = 1,
        trace: bool = False,
    ) -> None:
        up = up or Link()
        self._links = {"up": up, "down": up if down is None else down}
        self._tbf, self._ipt_loss, self._drop_every, self._mtu = tbf, ipt_loss, drop_every, mtu
        self._routed, self._seed, self._trace = router, seed, trace
        self._stack = contextlib.ExitStack()
        self._lock = threading.Lock()
        self._processes: list[Process] = []
        self.client_ip, self.client_ip6 = _CLIENT_IP, _CLIENT_IP6
        self.server_ip, self.server_ip6 = (
            (_ROUTED_SERVER_IP, _ROUTED_SERVER_IP6) if router else (_SERVER_IP, _SERVER_IP6)
        )
        self.router_ip, self.router_ip6 = _ROUTER_IP, _ROUTER_IP6
        self.blackhole_ip = "10.77.0.250"  # reached by a route, answered by nobody
        # With a router: what it answers for these. ARP failure (after 3 s), code 1, code 13, code 0.
        self.absent_ip, self.unreachable_ip, self.prohibited_ip = "10.77.1.250", "10.77.3.1", "10.77.4.1"
        self.noroute_ip = "10.99.0.1"
        base = ipaddress.ip_address(self.server_ip)
        self.targets = [str(base + offset) for offset in range(targets)]

    # -- life cycle

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop background commands and the emulator, drop the namespaces; safe to repeat."""
        for process in reversed(self._processes):
            if process.poll() is None:
                _signal(process, signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(timeout=2)
            except subprocess.TimeoutExpired:
                _signal(process, signal.SIGKILL)
                process.wait()
        self._processes.clear()
        self._stack.close()

    def adopt(self, process: Process) -> None:
        """Have the lab stop a process when it closes, or when this process dies."""
        self._processes.append(process)
        self._ask(do="watch", pid=process.pid)

    # -- construction

    def _namespace(self, name: str) -> Namespace:
        namespace = Namespace(name, self.adopt)
        self._stack.callback(namespace.close)
        return namespace

    def _build(self) -> None:
        self.client, self.server = self._namespace("client"), self._namespace("server")
        self.router = self._namespace("router") if self._routed else None
        far = self.router or self.server
        client_fd, far_fd = self.client.tun("lab0"), far.tun("lab0")
        try:
            self._start_emulator(client_fd, far_fd)
        finally:  # the emulator holds its own copies: when it ends, the devices vanish
            os.close(client_fd)
            os.close(far_fd)
        self._plug(self.client, self.client_ip, self.client_ip6)
        if self.router:
            self._plug(self.router, _ROUTER_IP, _ROUTER_IP6)
            self._build_lan(self.router)
        else:
            self._plug(self.server, self.server_ip, self.server_ip6)
        device = "lan0" if self.router else "lab0"
        for address in self.targets[1:]:
            self.server.ip("addr", "add", f"{address}/24", "dev", device)
        for namespace in (self.client, self.server):
            namespace.sysctl(
                net__ipv4__icmp_msgs_per_sec=100_000,
                net__ipv4__icmp_msgs_burst=10_000,
                net__ipv4__ping_group_range="0 2147483647",  # unprivileged ICMP sockets, as in a Docker container
            )
        self._shape(far)
        self.tune()

    def _plug(self, namespace: Namespace, ip4: str, ip6: str) -> None:
        """Bring a tun end up, without any traffic of its own."""
        namespace.sysctl(net__ipv6__conf__lab0__accept_ra=0, net__ipv6__conf__lab0__router_solicitations=0)
        namespace.ip("link", "set", "lab0", "mtu", str(self._mtu), "txqueuelen", "1000")
        namespace.ip("link", "set", "lab0", "addrgenmode", "none")
        namespace.ip("link", "set", "lab0", "multicast", "off", "up")
        namespace.ip("addr", "add", f"{ip4}/24", "dev", "lab0")
        namespace.ip("addr", "add", f"{ip6}/64", "dev", "lab0", "nodad")

    def _build_lan(self, router: Namespace) -> None:
        router.ip("link", "add", "lan0", "type", "veth", "peer", "name", "peer0")
        router.ip("link", "set", "peer0", "netns", self.server.path, "name", "lan0")
        # Not icmp_ratelimit=0: that empties the token bucket which unreachable routes draw from.
        router.sysctl(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1, net__ipv4__icmp_ratemask=0)
        for namespace, ip4, ip6 in (
            (router, _ROUTER_LAN_IP, _ROUTER_LAN_IP6),
            (self.server, self.server_ip, self.server_ip6),
        ):
            namespace.sysctl(net__ipv6__conf__lan0__accept_dad=0)
            namespace.ip("link", "set", "lan0", "up")
            namespace.ip("addr", "add", f"{ip4}/24", "dev", "lan0")
            namespace.ip("addr", "add", f"{ip6}/64", "dev", "lan0", "nodad")
        self.server.ip("route", "add", "default", "via", _ROUTER_LAN_IP)
        self.server.ip("-6", "route", "add", "default", "via", _ROUTER_LAN_IP6)
        router.ip("route", "add", "unreachable", "10.77.3.0/24")
        router.ip("route", "add", "prohibit", "10.77.4.0/24")
        router.ip("route", "add", "blackhole", "10.77.5.0/24")
        self.client.ip("route", "add", "default", "via", _ROUTER_IP)
        self.client.ip("-6", "route", "add", "fd77::/16", "via", _ROUTER_IP6)

    def _shape(self, far: Namespace) -> None:
        if self._tbf:
            burst = max(4 * self._mtu, self._tbf // 8 // 250)  # 4 packets or a jiffy
            shape = ("tbf", "rate", f"{self._tbf}bit", "burst", f"{burst}b", "latency", "50ms")
            for namespace in (self.client, far):
                namespace.output("tc", "qdisc", "add", "dev", "lab0", "root", *shape)
        arriving = ("iptables", "-t", "mangle", "-A", "PREROUTING", "-i", "lab0")
        if self._ipt_loss:
            draw = ("--mode", "random", "--probability", f"{self._ipt_loss:.9f}")
            far.output(*arriving, "-m", "statistic", *draw, "-j", "DROP")
        if every := self._drop_every:
            nth = ("--mode", "nth", "--every", str(every), "--packet", str(every - 1))
            far.output(*arriving, "-p", "icmp", "--icmp-type", "echo-request", "-m", "statistic", *nth, "-j", "DROP")

    # -- emulator

    def _start_emulator(self, client_fd: int, server_fd: int) -> None:
        self._control, theirs = socket.socketpair()
        self._stack.callback(self._control.close)
        fds = (client_fd, server_fd, theirs.fileno())
        emulator = subprocess.Popen(
            [sys.executable, "-m", "tests.netlab.emulator", *map(str, (*fds, self._seed, int(self._trace)))],
            pass_fds=fds,
            cwd=_ROOT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C must not reach it
        )
        theirs.close()

        def stop() -> None:
            self._control.close()
            try:
                emulator.wait(timeout=2)
            except subprocess.TimeoutExpired:
                emulator.kill()
                emulator.wait()

        self._stack.callback(stop)
        self._control.settimeout(30)

    # Any: JSON, as the emulator's requests and answers are.
    def _ask(self, **request: Any) -> Any:
        with self._lock:
            try:
                self._control.sendall(json.dumps(request).encode())
                size = struct.unpack("!Q", self._read(8))[0]
                return json.loads(self._read(size))
            except OSError as error:
                raise LabError(f"the emulator does not answer: {error}") from error

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            chunk = self._control.recv(min(1 << 20, size - len(data)))
            if not chunk:
                raise LabError("the emulator has stopped")
            data += chunk
        return bytes(data)

    # Any: fields of Link by name.
    def tune(self, direction: str | None = None, **changes: Any) -> None:
        """Change impairments while traffic flows: tune('down', loss=1.0), tune(delay=0.1)."""
        for name in (direction,) if direction else ("up", "down"):
            self._links[name] = dataclasses.replace(self._links[name], **changes)
        self._ask(do="tune", links={name: dataclasses.asdict(link) for name, link in self._links.items()})

    def stats(self) -> dict[str, dict[str, float]]:
        """Counters per direction, and how late the emulator ran against its schedule."""
        stats: dict[str, dict[str, float]] = self._ask(do="stats")
        return stats

    def trace(self) -> list[Echo]:
        """Echo packets seen since the last call."""
        return [
            Echo(t / 1e9, direction, kind, ident, sequence, size, tuple((due - t) / 1e9 for due in dues))
            for t, direction, kind, ident, sequence, size, dues in self._ask(do="trace")
        ]


def _signal(process: Process, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
