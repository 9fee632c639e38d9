"""What `netloom doctor` looks at: one function a subject, each yields its findings with the fix beside the fault."""

import importlib.util
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal

from broker.client import Message
from netloom import VERSION
from netloom.cli import listeners, ports
from netloom.cli.session import Session, session
from netloom.settings import Settings
from schemas import limits, topics
from schemas.errors import CATALOGUE, ErrorInfo, Failure
from schemas.status import ControllerStatus, ProbeStatus

Level = Literal["ok", "warn", "FAIL"]

FREE_WARN_BYTES: Final = 1024**3
FREE_FAIL_BYTES: Final = 64 * 1024**2
_EXTRAS: Final = {"broker": ("amqtt",), "controller": ("sqlalchemy", "tinydb"), "web": ("flask", "waitress")}


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report; `code` is the exit code a FAIL leads to."""

    level: Level
    subject: str
    text: str
    fix: str = ""
    code: int = 0


def failed(subject: str, info: ErrorInfo) -> Finding:
    """Return an error of the catalogue as a finding."""
    entry = CATALOGUE.get(info.code)
    return Finding("FAIL", subject, info.message, info.hint, entry.exit_code if entry else 4)


def versions() -> Iterator[Finding]:
    """Python, Netloom, protocol, and which roles can run here."""
    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding("ok", "version", f"python {python}, netloom {VERSION}, protocol {limits.PROTOCOL}")
    lacking = [name for name, modules in _EXTRAS.items() if not all(map(importlib.util.find_spec, modules))]
    able = [name for name in ("probe", *_EXTRAS) if name not in lacking]
    fix = f"for a server: pip install 'netloom[{','.join(lacking)}]'" if lacking else ""
    yield Finding("ok", "packages", f"installed for: {', '.join(able)}", fix)


def icmp() -> Iterator[Finding]:
    """Whether this user may send ICMP."""
    from probe.kinds import ping  # noqa: PLC0415 - measurement libraries, for this check alone

    found = ping.ENTRY.probe()
    if found.error is not None:
        yield failed("icmp", found.error)
        return
    yield Finding(
        "ok",
        "icmp",
        f"ICMP by a {found.detail.get('icmp')} socket, replies stamped by the {found.detail.get('stamps')}",
    )


def iperf3() -> Iterator[Finding]:
    """Whether libiperf is there."""
    from probe.kinds import speedtest  # noqa: PLC0415 - as above

    found = speedtest.ENTRY.probe()
    if found.error is not None:
        yield failed("iperf3", found.error)
        return
    yield Finding("ok", "iperf3", f"libiperf {found.detail.get('iperf3')}")


def data_folder(folder: Path) -> Iterator[Finding]:
    """Whether the data folder can be written, or made, and has room."""
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        fix = "choose another folder with --data or NETLOOM_DATA, or give this user the right to write there"
        yield Finding("FAIL", "data", f"{folder} cannot be written by this user", fix, 7)
        return
    free = shutil.disk_usage(there).free
    text = f"{folder} is writable, {free / 1e9:.1f} GB free"
    if free < FREE_FAIL_BYTES:
        yield Finding("FAIL", "data", text, "free disk space; results could not be kept", 7)
    elif free < FREE_WARN_BYTES:
        yield Finding("warn", "data", text, "free disk space before it runs out")
    else:
        yield Finding("ok", "data", text)


def port(subject: str, host: str, number: int, option: str) -> Iterator[Finding]:
    """Who listens on a port that a server here would want. Our own programs are no trouble."""
    if number == 0 or not ports.taken(host, number):
        yield Finding("ok", subject, f"port {number} on {host} is free")
        return
    who = listeners.owner(number)
    if who is not None and who.ours:
        yield Finding("ok", subject, f"port {number} on {host} is in use by {who}")
        return
    fix = f"if that is not yours, choose another with {option}"
    yield Finding("warn", subject, f"port {number} on {host} is in use by {who or 'a program of another user'}", fix)


class Fabric:
    """Broker, controller and probes, seen through one connection."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._probes: dict[str, ProbeStatus] = {}
        self._offset: timedelta | None = None
        """Our clock minus the controller's, from a status that was just sent."""

    def _prepare(self, made: Session) -> None:
        def probe(topic: topics.Topic, status: ProbeStatus, _: Message) -> None:
            made.touch()
            if isinstance(topic, topics.ProbeTopic):
                self._probes[topic.name] = status

        def controller(_: topics.Topic, status: ControllerStatus, message: Message) -> None:
            made.touch()
            if not message.retain:
                self._offset = datetime.now(UTC) - status.at

        made.bus.subscribe_to(topics.every_probe("status"), ProbeStatus, probe)
        made.bus.subscribe_to(topics.CONTROLLER_STATUS, ControllerStatus, controller)

    def check(self) -> Iterator[Finding]:
        """Yield what there is to say of broker, controller, clock and versions."""
        url, began = self._settings.broker_url(), time.monotonic()
        try:
            with session(self._settings, self._prepare) as here:
                took_ms = (time.monotonic() - began) * 1000
                who = f"signed in as {url.user}" if url.user else "signed in without a name"
                yield Finding("ok", "broker", f"{url} reached in {took_ms:.0f} ms, {who}")
                here.settle()
                yield from self._controller(here)
                yield from self._versions(here)
        except Failure as exc:
            yield failed("broker", exc.info)

    def _controller(self, here: Session) -> Iterator[Finding]:
        status = here.ask.controller
        if status is None or not here.ask.controller_online:
            info = Failure("controller_unreachable").info
            yield Finding("FAIL", "controller", info.message, info.hint, 4)
            return
        # A retained status may be old: only one that was just sent tells the time, and that there is a controller.
        until = time.monotonic() + limits.STATUS_PERIOD_S + 1
        while self._offset is None and time.monotonic() < until:
            time.sleep(0.02)
        if self._offset is None:
            fix = "it may have been killed: start it with `netloom serve`, or look at its log"
            yield Finding(
                "FAIL",
                "controller",
                f"its status is retained, but it is silent for {limits.STATUS_PERIOD_S:.0f} s",
                fix,
                4,
            )
            return
        yield Finding(
            "ok", "controller", f"{status.controller_id} is there, since {status.started_at:%Y-%m-%d %H:%M} UTC"
        )
        yield clock(self._offset.total_seconds())

    def _versions(self, here: Session) -> Iterator[Finding]:
        found = {"the controller": here.ask.controller.version if here.ask.controller else None}
        found |= {name: status.version for name, status in self._probes.items() if status.state == "online"}
        other = [f"{name} has {version}" for name, version in sorted(found.items()) if version not in (None, VERSION)]
        if other:
            fix = "update the older side: pip install -U netloom"
            yield Finding("warn", "versions", f"not all are {VERSION}: {', '.join(other[:5])}", fix)
        online = sum(status.state == "online" for status in self._probes.values())
        yield Finding("ok", "probes", f"{online} online, {len(self._probes) - online} offline")


def clock(offset_s: float) -> Finding:
    """Say how far this clock is from the controller's."""
    ahead = "ahead of" if offset_s > 0 else "behind"
    text = f"this clock is {abs(offset_s):.1f} s {ahead} the controller's"
    if abs(offset_s) > limits.CLOCK_AGREES_WITHIN_S:
        return Finding("warn", "clock", text, "have both follow NTP: timedatectl set-ntp true")
    return Finding("ok", "clock", text)


def everything(settings: Settings) -> Iterator[Callable[[], Iterator[Finding]]]:
    """Yield all checks in order, to be made one by one."""
    yield versions
    yield icmp
    yield iperf3
    yield lambda: data_folder(settings.data)
    yield lambda: port("page", settings.web.host, settings.web.port, "--port")
    if settings.broker.url is None:
        yield lambda: port("broker port", settings.broker.host, settings.broker.port, "--broker-port")
    yield Fabric(settings).check
