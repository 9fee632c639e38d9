"""A disposable network lab for tests: namespaces joined by a user-space emulator, for kernels without sch_netem. Needs root.

    client ══tun══ emulator ══tun══ server                        Lab()
    client ══tun══ emulator ══tun══ router ──veth── server        Lab(router=True)

* The emulator adds one-way delay, jitter, seeded random or bursty loss, duplication, reordering and a bottleneck (a rate with a
  drop-tail queue: bufferbloat on demand), per direction, and can be re-tuned while traffic flows. `trace()` tells the exact
  fate and delay of every echo packet: the truth that a measurement is compared with.
* `tc tbf` gives a second, independent bandwidth limit. It sits on the sender itself, where TCP small queues keep its queue
  short: use the emulator's rate to study bufferbloat.
* `iptables -m statistic` gives a second, independent loss (random, or every n-th packet).
* Namespaces are held by file descriptors, never named under /run/netns. When this process ends, even by SIGKILL, the kernel
  drops namespaces and devices, and the emulator (which watches a pipe to its parent) kills background commands and exits.

    with Lab(Link(delay=0.020, jitter=0.005, loss=0.05), seed=7) as lab:
        lab.server.popen(["iperf3", "-s"])                  # stopped when the lab closes
        lab.client.run(["ip", "route", "get", lab.server_ip])
        with lab.client.enter():                            # sockets made here live in the lab
            sock = socket.socket(...)
        lab.tune(loss=1.0)                                  # cut the link while running
        print(lab.stats()["up"]["lost"], lab.trace())       # the emulator's own truth
"""

import os
import sys
from pathlib import Path

import pytest

from tests.netlab.lab import Lab
from tests.netlab.link import Link
from tests.netlab.namespace import LabError, Namespace

__all__ = ["Lab", "LabError", "Link", "Namespace", "needs_lab"]


def _missing() -> str | None:
    if sys.platform != "linux":
        return "network namespaces are a feature of Linux"
    if os.geteuid():
        return "network namespaces need root"
    if not Path("/dev/net/tun").exists():
        return "the lab needs /dev/net/tun"
    return None


needs_lab = pytest.mark.skipif(_missing() is not None, reason=_missing() or "")
"""Skips a test, with the reason, where no lab can be built; to be used beside `pytest.mark.netns`."""
