"""The iperf3 argument list of a speedtest: one pure function serves the probe, the archive and the JSON view."""

from schemas.command import Direction, SpeedtestSpec

_KEPT_AT = SpeedtestSpec(target="iperf.invalid")


def arguments(spec: SpeedtestSpec, direction: Direction) -> list[str]:
    """Return what one would type behind `iperf3 -c host` for this direction; every item comes from a typed field."""
    found = ["-p", str(spec.port), "-t", str(spec.duration_s), "-P", str(spec.streams)]
    if direction == "download":
        found.append("-R")
    return found + _options(spec)


def option_text(spec: SpeedtestSpec) -> str:
    """Return the options that differ from the defaults, as Supervision's `speedtest_option` field shows them."""
    found: list[str] = []
    if spec.duration_s != _KEPT_AT.duration_s:
        found += ["-t", str(spec.duration_s)]
    if spec.streams != 1:
        found += ["-P", str(spec.streams)]
    return " ".join(found + _options(spec))


def _options(spec: SpeedtestSpec) -> list[str]:
    found: list[str] = ["-u"] if spec.protocol == "udp" else []
    if spec.omit_s:
        found += ["-O", str(spec.omit_s)]
    if spec.dscp is not None:
        found += ["-S", str(spec.dscp << 2)]
    for flag, value in (("-b", spec.bitrate), ("-w", spec.window), ("-M", spec.mss), ("-C", spec.congestion)):
        if value is not None:
            found += [flag, str(value)]
    if spec.family is not None:
        found.append(f"-{spec.family}")
    return found
