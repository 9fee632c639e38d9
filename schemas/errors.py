"""The one catalogue of errors: page, command line, MQTT, API and documentation all take code, text and next step from here."""

import string
from dataclasses import dataclass
from typing import Any, Final

from schemas.base import Tolerant


class ErrorInfo(Tolerant):
    """An error as it travels: a stable snake_case code, what happened, what to do next."""

    code: str
    message: str
    hint: str = ""


@dataclass(frozen=True)
class Entry:
    """One error of the catalogue. `http` and `exit_code` are how the page and the command line answer with it."""

    message: str
    hint: str
    http: int = 422
    exit_code: int = 2


# The exit codes of the command line: 1 --fail-on hit, 2 usage, 3 configuration, 4 broker or controller, 5 probe, 6 target,
# 7 privilege or dependency.
CATALOGUE: Final[dict[str, Entry]] = {
    # --- the wire
    "bad_json": Entry("This is not a JSON object: {reason}.", "Send one JSON object in UTF-8.", 400),
    "bad_message": Entry("{field}: {reason}", "Correct this field; the schemas are in docs/schema."),
    "too_large": Entry("The message has {size} bytes; at most {limit} are allowed.", "Send less.", 413),
    "unsupported_version": Entry(
        "The message speaks version {version}; this side knows {known}.", "Update the older side.", 400
    ),
    "unknown_verb": Entry("There is no request '{verb}'.", "The requests are listed in docs/reference.md.", 404),
    "request_timeout": Entry(
        "The controller did not answer within {seconds:.0f} s.",
        "Is it running? `netloom doctor` tells; whether the request was carried out is shown in the archive.",
        503,
        4,
    ),
    "request_expired": Entry(
        "The request arrived {late:.0f} s too late and was not carried out.", "Send it again.", 410, 4
    ),
    "broker_unreachable": Entry(
        "The broker at {url} cannot be reached: {reason}.", "Start it, or correct the address; retries go on.", 503, 4
    ),
    "broker_refused": Entry(
        "The broker at {url} refused the connection: {reason}.", "Check user and password.", 503, 4
    ),
    "controller_unreachable": Entry(
        "The controller is not there. Nothing was started.", "Start it with `netloom serve` and try again.", 503, 4
    ),
    # --- asking for a test
    "probe_unknown": Entry("No probe is called '{probe}'.", "`netloom probes` lists them.", 404, 5),
    "probe_offline": Entry(
        "{probe} has been offline since {since}. The test was not sent.", "Start the probe and try again.", 409, 5
    ),
    "probe_busy": Entry(
        "{probe} is busy: {running} running and {queued} waiting.",
        "Wait for them, cancel one, or choose another probe.",
        409,
        5,
    ),
    "probe_restarted": Entry("The probe restarted while the test was running.", "Start the test again.", 409, 5),
    "probe_stopping": Entry("The probe is shutting down.", "Start the test again when it is back.", 409, 5),
    "duplicate_name": Entry(
        "Another probe is connected as '{probe}' (from {address}).",
        "Give each probe its own name: `netloom probe --name`.",
        409,
        5,
    ),
    "expired": Entry(
        "The command was {age:.0f} s old when it arrived; it was valid for {ttl} s.", "Start the test again.", 410, 5
    ),
    "not_answered": Entry(
        "{probe} did not take the test within {ttl} s.", "Is the probe connected? Start the test again.", 504, 5
    ),
    "lost": Entry("{probe} took the test but no result came by {deadline}.", "It is stored if it still comes.", 504, 5),
    "cancelled": Entry("The test was cancelled.", "What had been measured until then is kept.", 409, 130),
    "unsupported": Entry("This probe cannot do '{what}'.", "Update the probe: `pip install -U netloom`.", 422, 5),
    "limit_exceeded": Entry(
        "{what} {value} is beyond this probe's limit of {limit}.", "Ask for less, or change the limit on the probe."
    ),
    "target_denied": Entry(
        "{host} is {address}, and this probe may not test {rule} addresses.",
        "Choose another target, or change the limit on the probe.",
    ),
    "spool_full": Entry(
        "The probe's disk spool is full ({waiting} results wait).",
        "Bring the controller back so that it empties.",
        507,
        5,
    ),
    "spool_degraded": Entry(
        "The probe's disk does not take results: {reason}. They are held in memory.",
        "Free disk space or mend the disk; until then a restart of the probe loses them.",
        507,
        5,
    ),
    # --- measuring
    "icmp_not_permitted": Entry(
        "This user may not send ICMP: {reason}.",
        "Run `sysctl -w net.ipv4.ping_group_range='0 2147483647'`, or give the program CAP_NET_RAW.",
        422,
        7,
    ),
    "iperf3_missing": Entry(
        "The iperf3 library cannot be loaded: {reason}.",
        "Install it: `apt install iperf3` (it brings libiperf).",
        422,
        7,
    ),
    "dns_failed": Entry(
        "The probe could not resolve '{host}': {reason}.", "Check the spelling, or use an address.", 422, 6
    ),
    "dns_timeout": Entry(
        "Resolving '{host}' took more than {seconds:.0f} s.",
        "Check the probe's name server, or use an address.",
        422,
        6,
    ),
    "target_silent": Entry(
        "None of {sent} packets was answered: the round-trip time is unknown, the loss is 100 %.",
        "The host may be down, or drop ICMP.",
        422,
        6,
    ),
    "host_unreachable": Entry(
        "{router} says that {host} cannot be reached.", "Check the target and the route to it.", 422, 6
    ),
    "network_unreachable": Entry("There is no route to {host}.", "Check the probe's uplink and routes.", 422, 6),
    "admin_prohibited": Entry(
        "{router} forbids packets to {host}.", "A firewall on the way must permit ICMP echo.", 422, 6
    ),
    "ttl_exceeded": Entry(
        "{router} dropped the packets to {host}: their time to live ran out.", "Look for a routing loop.", 422, 6
    ),
    "message_too_big": Entry("{router} cannot pass packets of {size} bytes.", "Choose a smaller packet size.", 422, 6),
    "source_unavailable": Entry(
        "The source '{source}' cannot be used: {reason}.", "Choose an address or interface of the probe.", 422, 6
    ),
    "target_refused": Entry(
        "Nothing listens on {host} port {port}.", "Start `iperf3 -s` there, or correct the port.", 422, 6
    ),
    "target_timeout": Entry(
        "{host} port {port} did not answer within {seconds:.0f} s.",
        "Is it an iperf3 server? Is a firewall in the way?",
        422,
        6,
    ),
    "target_busy": Entry(
        "The iperf3 server {host} port {port} was serving another client at each of {tries} tries.",
        "Try again later; an iperf3 server takes one client at a time.",
        422,
        6,
    ),
    "target_protocol_error": Entry(
        "{host} port {port} does not speak iperf3: {reason}.", "Point the test at an iperf3 server.", 422, 6
    ),
    "connection_lost": Entry(
        "The connection to {host} port {port} broke during the test: {reason}.",
        "Look at the server and the path.",
        422,
        6,
    ),
    "measurement_failed": Entry(
        "The measurement ended without figures: {reason}.", "The probe's log says more.", 422, 6
    ),
    "too_few_replies": Entry(
        "Only {received} of {sent} packets came back; this figure needs {needed}.", "Send more packets.", 422, 6
    ),
    # --- the archive and the settings
    "test_not_found": Entry("There is no test {test}.", "It may have been deleted.", 404),
    "test_not_final": Entry("Test {test} is still {state}.", "Cancel it first, or wait for its end.", 409),
    "test_final": Entry("Test {test} has already ended: {state}.", "Nothing is left to cancel.", 409),
    "target_not_found": Entry("There is no saved target {target}.", "It may have been deleted.", 404),
    "target_exists": Entry("A saved target is already called '{name}'.", "Choose another name.", 409),
    "probe_online": Entry("{probe} is online and cannot be forgotten.", "Stop the probe first.", 409),
    "store_locked": Entry(
        "The data folder {path} is in use by process {pid}.", "Stop that process, or choose another folder.", 503, 3
    ),
    "store_corrupt": Entry(
        "{path} is damaged; it was set aside as {aside}.", "Restore a backup if you have one.", 503, 3
    ),
    "store_newer": Entry(
        "{path} was written by a newer version (layout {found}; this one knows {known}).",
        "Update this installation, or choose another data folder; nothing was touched.",
        503,
        3,
    ),
    "store_failed": Entry(
        "The archive cannot be written: {reason}.",
        "Free disk space or mend the disk; probes keep their results.",
        507,
        4,
    ),
    "controller_exists": Entry(
        "Another controller ({controller_id}) is at work on this broker.",
        "Stop it first; there is one brain in a fabric.",
        409,
        4,
    ),
    # --- settings and start-up
    "config_key": Entry(
        "{place}: unknown setting '{key}'.{suggestion}", "`netloom config show` lists the settings.", 422, 3
    ),
    "config_value": Entry("{place}: {key}: {reason}", "Correct this setting.", 422, 3),
    "config_file": Entry("The settings file {path} cannot be read: {reason}.", "Correct or remove it.", 422, 3),
    "port_in_use": Entry(
        "Port {port} on {host} is taken by another program.", "Stop it, or choose another port.", 422, 3
    ),
    "listen_refused": Entry(
        "{host} is not a loopback address; this version listens on this machine only.",
        "Use 127.0.0.1, or put a broker of your own in front: --broker mqtt://...",
        422,
        3,
    ),
    "broker_unsupported": Entry(
        "The embedded broker cannot run here: {reason}.", "Install it again: `pip install 'netloom[broker]'`.", 422, 7
    ),
    "extra_missing": Entry(
        "'{command}' needs more packages: {reason}.", "Install them: `pip install 'netloom[{extra}]'`.", 422, 7
    ),
    "role_failed": Entry("{role} ended before it was ready ({how}).", "Its log above says why.", 500, 4),
    "no_result": Entry("{probe} has no result yet.", "Start a test: `netloom test {probe} TARGET`.", 404, 5),
    # --- the page
    "page_not_found": Entry("There is no page {path}.", "The navigation above leads on.", 404),
    "method_not_allowed": Entry("{path} does not take {method}.", "Use the form on the page.", 405),
    "bad_host": Entry(
        "This page does not answer to the name '{host}'.",
        "Use the address it was started with, or add the name to web.hosts.",
        400,
    ),
    "bad_origin": Entry(
        "The form was not sent from this page.", "Open the page itself and send the form from there.", 403
    ),
    "body_too_large": Entry("The request is too large.", "Send less.", 413),
    "too_many_streams": Entry("Too many pages are open at once.", "This one looks for news every 5 s instead.", 503),
    "internal": Entry(
        "The program failed at this request (number {request}).", "Its log has the details under that number.", 500, 4
    ),
}


class _Lenient(string.Formatter):
    """Fills a template; a value that was not given, or cannot be shown so, reads '?', for an error must never fail itself."""

    def get_value(self, key: int | str, args: Any, kwargs: Any) -> Any:  # noqa: ARG002 - string.Formatter's signature
        return kwargs.get(str(key), "?")

    def format_field(self, value: Any, format_spec: str) -> str:
        try:
            return str(super().format_field(value, format_spec))
        except (TypeError, ValueError):
            return str(value)


def error(code: str, **values: object) -> ErrorInfo:
    """Return the catalogue's error `code` with `values` filled in. Raise KeyError for a code that is not in the catalogue."""
    entry, fill = CATALOGUE[code], _Lenient()
    return ErrorInfo(
        code=code, message=fill.vformat(entry.message, (), values), hint=fill.vformat(entry.hint, (), values)
    )


class Failure(Exception):  # noqa: N818 - it is what went wrong, in the field's words; "FailureError" says it twice
    """An error of the catalogue on its way up. `field` is the dotted path of the field at fault, if one is."""

    def __init__(self, code: str, *, field: str | None = None, **values: object) -> None:
        self.info = error(code, field=field, **values)
        self.field = field
        super().__init__(f"{code}: {self.info.message}")

    @property
    def code(self) -> str:
        """The stable code."""
        return self.info.code

    @classmethod
    def of(cls, info: ErrorInfo, field: str | None = None) -> "Failure":
        """Wrap an error that arrived from elsewhere."""
        self = cls.__new__(cls)
        self.info, self.field = info, field
        Exception.__init__(self, f"{info.code}: {info.message}")
        return self
