"""Every default and every bound of the contract, in one place. Units are in the names.

The bounds of a command are what the contract can express; a probe's own limits (probe/limits.py) may be narrower, never wider.
The bounds of the form are those that users of Supervision know.
"""

from typing import Final

PROTOCOL: Final = 1
"""The `v` of every message."""

# --- messages -----------------------------------------------------------------------------------------------------
MESSAGE_MAX_BYTES: Final = 32 * 1024
ARCHIVE_PAGE_MAX_BYTES: Final = 256 * 1024
COMMENT_MAX_CHARS: Final = 500
HOST_MAX_CHARS: Final = 253
TARGET_NAME_MAX_CHARS: Final = 64
AUTOTESTS_PER_PROBE_MAX: Final = 100

# --- a command ----------------------------------------------------------------------------------------------------
TTL_DEFAULT_S: Final = 60
TTL_MIN_S: Final = 1
TTL_MAX_S: Final = 86_400

PING_COUNT_DEFAULT: Final = 100
PING_COUNT_MIN: Final = 1
PING_COUNT_MAX: Final = 300
PING_TIMEOUT_DEFAULT_S: Final = 3.0
PING_TIMEOUT_MIN_S: Final = 0.1
PING_TIMEOUT_MAX_S: Final = 10.0
PING_INTERVAL_DEFAULT_MS: Final = 20
PING_INTERVAL_MIN_MS: Final = 10
PING_INTERVAL_MAX_MS: Final = 10_000
PING_SIZE_DEFAULT_BYTES: Final = 56
PING_SIZE_MIN_BYTES: Final = 16
PING_SIZE_MAX_BYTES: Final = 8_972

SPEEDTEST_PORT_DEFAULT: Final = 5201
SPEEDTEST_DURATION_DEFAULT_S: Final = 10
SPEEDTEST_DURATION_MAX_S: Final = 60
SPEEDTEST_STREAMS_MAX: Final = 16
SPEEDTEST_OMIT_MAX_S: Final = 10
SPEEDTEST_BITRATE_MIN_BPS: Final = 1_000
SPEEDTEST_BITRATE_MAX_BPS: Final = 100_000_000_000
SPEEDTEST_UDP_BITRATE_DEFAULT_BPS: Final = 1_000_000
SPEEDTEST_WINDOW_MIN_BYTES: Final = 1_024
SPEEDTEST_WINDOW_MAX_BYTES: Final = 64 * 1024 * 1024
SPEEDTEST_MSS_MIN_BYTES: Final = 88
SPEEDTEST_MSS_MAX_BYTES: Final = 9_216
SPEEDTEST_BUSY_RETRIES_DEFAULT: Final = 3
SPEEDTEST_BUSY_RETRIES_MAX: Final = 10

# --- the form (Supervision's fields) --------------------------------------------------------------------------------
FORM_PING_COUNT_MIN: Final = 10
FORM_PING_TIMEOUT_MIN_S: Final = 1
FORM_PING_TIMEOUT_MAX_S: Final = 5
FORM_PING_TIMEOUT_DEFAULT_S: Final = 3

# --- autotests ------------------------------------------------------------------------------------------------------
AUTOTEST_PERIOD_DEFAULT_S: Final = 30
AUTOTEST_PERIOD_MIN_S: Final = 10
AUTOTEST_PERIOD_MAX_S: Final = 86_400

# --- the protocol's clocks --------------------------------------------------------------------------------------------
KEEPALIVE_S: Final = 10
STATUS_PERIOD_S: Final = 15.0
OFFLINE_AFTER_S: Final = 45.0
PROGRESS_PERIOD_S: Final = 2.0
SILENT_AFTER_S: Final = 10.0
CLOCK_AGREES_WITHIN_S: Final = 5.0
RESEND_RESULT_FIRST_S: Final = 60.0
RESEND_RESULT_MAX_S: Final = 600.0
RESEND_COMMAND_S: Final = 2.0
RESULTS_IN_FLIGHT_MAX: Final = 16
SEEN_COMMANDS_KEPT: Final = 1_000
REQUEST_TIMEOUT_S: Final = 3.0

# --- a probe's slots --------------------------------------------------------------------------------------------------
LIGHT_TESTS_MAX: Final = 16
THROUGHPUT_QUEUE_MAX: Final = 4

# --- the archive ------------------------------------------------------------------------------------------------------
PAGE_ROWS_DEFAULT: Final = 50
PAGE_ROWS_MAX: Final = 100

# --- what a probe announces to the JSON view when it was not told otherwise --------------------------------------------
LEGACY_PROBE_PORT: Final = 20_000
