"""Paced, pipelined ICMP echo: `ping(plan, watcher)` sends a series and tells the fate of every packet.

model    the plan, the fates, the report, and the seams to socket and clock
codec    echo messages to bytes and back (pythonping)
sockets  datagram and raw sockets, kernel stamps, the error queue
reasons  what ICMP errors and errno values mean
engine   the pace, the matching, the time-outs
"""

from probe.icmp.engine import Engine
from probe.icmp.model import Fate, Packet, Plan, Reason, Report, Watcher, samples
from probe.icmp.sockets import Ability, IcmpSocket, Options, ability, system_options

__all__ = [
    "Ability",
    "Engine",
    "Fate",
    "IcmpSocket",
    "Options",
    "Packet",
    "Plan",
    "Reason",
    "Report",
    "Watcher",
    "ability",
    "ping",
    "samples",
    "system_options",
]


def ping(plan: Plan, watcher: Watcher, options: Options | None = None) -> Report:
    """Send the packets of `plan` and return what became of each.

    Raises:
        Failure: icmp_not_permitted, source_unavailable, measurement_failed; never for a network's misbehaviour.
    """
    with IcmpSocket(plan, options) as channel:
        return Engine(plan, channel, watcher).run()
