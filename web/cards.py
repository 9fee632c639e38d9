"""What the pages show of a probe and of a running test, worked out once for the first rendering and for the live events."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from schemas.errors import ErrorInfo, error
from schemas.progress import Progress
from schemas.result import Result
from schemas.status import ProbeStatus, Running
from web import format as fmt
from web.cache import Cache, ProbeEntry

PARTS: Final = {"ping": "Ping", "download": "Download", "upload": "Upload"}
_KINDS: Final = {"ping": "Standard tests", "speedtest": "Speedtests"}


@dataclass(frozen=True)
class Job:
    """A test under way on a probe."""

    id: str
    number: int | None
    title: str
    percent: float
    text: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Problem:
    """Something a person should see to."""

    title: str
    message: str
    hint: str = ""

    @classmethod
    def of(cls, title: str, info: ErrorInfo) -> "Problem":
        """Return an error of the catalogue under a title."""
        return cls(title, info.message, info.hint)


@dataclass(frozen=True)
class ProbeCard:
    """One line of the list of probes. `state` is free, busy, silent or offline."""

    name: str
    state: str
    word: str
    since: datetime | None
    why: str
    label: str
    """For the list to choose from."""
    jobs: tuple[Job, ...]
    queued: int
    version: str | None
    facts: tuple[str, ...]
    problems: tuple[Problem, ...]
    result: Result | None
    figures: tuple[tuple[str, str], ...]


def probe_card(entry: ProbeEntry, cache: Cache, now: datetime) -> ProbeCard:
    """Return what is shown of a probe."""
    status = entry.status
    state, word, why = _state(entry, cache)
    jobs = tuple(_job(entry.name, running, cache) for running in status.running) if status and state == "busy" else ()
    return ProbeCard(
        name=entry.name,
        state=state,
        word=word,
        since=status.since if status else None,
        why=why,
        label=_label(entry.name, state, status, jobs, now),
        jobs=jobs,
        queued=status.queued if status and state == "busy" else 0,
        version=status.version if status else None,
        facts=_facts(status),
        problems=_problems(entry.name, status, state),
        result=entry.result,
        figures=figures(entry.result),
    )


def _state(entry: ProbeEntry, cache: Cache) -> tuple[str, str, str]:
    status = entry.status
    if status is None:
        return "offline", "Unknown", "it has a result but never said that it is there"
    if status.state == "offline":
        reasons = {"stopped": "it was stopped", "will": "its connection was lost", "deadline": "its heartbeat stopped"}
        return "offline", "Offline", reasons.get(status.reason or "", "it is not connected")
    silent_s = entry.silent_s(cache.clock.monotonic())
    if silent_s is not None:
        return "silent", "Silent", f"no heartbeat for {fmt.seconds(silent_s)}"
    if status.running:
        return "busy", "Busy", ""
    return "free", "Free", ""


def _job(probe: str, running: Running, cache: Cache) -> Job:
    live = cache.live(probe, running.id)
    percent = running.percent or 0.0
    part = running.part
    if live is not None and live.progress.state == "running":
        percent = live.progress.percent if live.progress.percent is not None else percent
        part = live.progress.part or part
        return Job(running.id, running.number, _job_title(running), percent, live_text(live.progress))
    return Job(running.id, running.number, _job_title(running), percent, {"step": PARTS.get(part or "", "Starting")})


def _job_title(running: Running) -> str:
    if running.number is not None:
        return f"Test {running.number}"
    return "Autotest" if running.autotest_id else "Test"


def _label(name: str, state: str, status: ProbeStatus | None, jobs: tuple[Job, ...], now: datetime) -> str:
    if state == "offline" and status is not None:
        return f"{name} (offline since {fmt.age(status.since, now).replace(' ago', '')})"
    if state == "busy" and jobs:
        return f"{name} (busy: {jobs[0].title})"
    return name if state == "free" else f"{name} ({state})"


def _facts(status: ProbeStatus | None) -> tuple[str, ...]:
    if status is None:
        return ()
    found = [f"v{status.version}"] if status.version else []
    if status.address:
        found.append(status.address)
    iperf = status.capabilities.get("speedtest")
    if iperf is not None and iperf.available and "iperf3" in iperf.detail:
        found.append(f"iperf3 {iperf.detail['iperf3']}")
    ping = status.capabilities.get("ping")
    if ping is not None and ping.available and "icmp" in ping.detail:
        found.append(f"ICMP {ping.detail['icmp']}")
    return tuple(found)


def _problems(name: str, status: ProbeStatus | None, state: str) -> tuple[Problem, ...]:
    if status is None or state == "offline":
        return ()
    found = []
    if status.problem is not None:
        found.append(Problem.of("Problem", status.problem))
    for kind, capability in sorted(status.capabilities.items()):
        if not capability.available:
            why = capability.error or error("unsupported", what=kind)
            found.append(Problem.of(f"{_KINDS.get(kind, kind)} are not possible on {name}", why))
    if status.spool.degraded is not None:
        found.append(Problem.of("Results are kept in memory only", status.spool.degraded))
    if status.spool.quarantined:
        found.append(
            Problem("Results were refused", f"The controller did not take {status.spool.quarantined} of them.")
        )
    clock = status.clock
    if clock is not None and clock.agrees is False and clock.offset_s is not None:
        side = "ahead of" if clock.offset_s > 0 else "behind"
        text = f"It is {fmt.seconds(abs(clock.offset_s))} {side} the controller's."
        found.append(Problem("The clock is wrong", text, "Enable NTP on the probe."))
    return tuple(found)


def figures(result: Result | None) -> tuple[tuple[str, str], ...]:
    """Return a result's headline figures as (what, value with unit); only of the parts that were asked for."""
    if result is None:
        return ()
    found = []
    if result.ping is not None or result.packet_loss is not None:
        found.append(("Ping", fmt.ms(result.ping.avg if result.ping else None)))
        found.append(("Jitter", fmt.ms(result.jitter)))
        found.append(("Loss", fmt.percent(result.packet_loss.packet_percent if result.packet_loss else None)))
        found.append(("MOS", fmt.mos(result.mos)))
    if result.speedtest is not None:
        for what, part in (("Download", result.speedtest.download), ("Upload", result.speedtest.upload)):
            if part is not None:
                found.append((what, fmt.rate(part.result.avg if part.result else None)))
    return tuple(found)


# --- live -----------------------------------------------------------------------------------------------------------------
def live_text(progress: Progress) -> dict[str, str]:
    """Return the latest figures of a running test as texts by place on the page."""
    found: dict[str, str] = {"step": _step(progress)}
    if progress.eta_s is not None:
        found["eta"] = f"at most {fmt.whole_seconds(progress.eta_s)} left"
    seen = progress.figures
    if seen is None:
        return found
    if seen.rtt_ms is not None:
        found["rtt"] = fmt.ms(seen.rtt_ms)
    if seen.p50 is not None:
        found["p50"] = fmt.ms(seen.p50)
    if seen.jitter is not None:
        found["jitter"] = fmt.ms(seen.jitter)
    if seen.loss_percent is not None:
        found["loss"] = fmt.percent(seen.loss_percent)
    if seen.mos is not None:
        found["mos"] = fmt.mos(seen.mos)
    if seen.bits_per_second is not None and progress.part in ("download", "upload"):
        found[progress.part] = fmt.rate(seen.bits_per_second)
    return found


def _step(progress: Progress) -> str:
    if progress.part is None:
        words = {"queued": "Waiting on the probe", "accepted": "Accepted", "rejected": "Refused", "running": "Running"}
        return words.get(progress.state, progress.state)
    part = PARTS[progress.part]
    if progress.done is None or not progress.total:
        return part
    if progress.part == "ping":
        return f"{part} {progress.done:.0f} of {progress.total:.0f}"
    return f"{part} {progress.done:.1f} of {fmt.seconds(progress.total)}"


def live_event(probe: str, progress: Progress) -> dict[str, Any]:
    """Return a step of a test as the event for open pages."""
    samples = progress.figures.samples if progress.figures else None
    return {
        "id": progress.id,
        "number": progress.number,
        "probe": probe,
        "state": progress.state,
        "part": progress.part,
        "percent": progress.percent,
        "text": live_text(progress),
        "samples": list(samples) if samples is not None else None,
    }


def probe_event(entry: ProbeEntry, cache: Cache, now: datetime) -> dict[str, Any]:
    """Return a probe's state as the event for open pages."""
    card = probe_card(entry, cache, now)
    return {"name": card.name, "state": card.state, "label": card.label}
