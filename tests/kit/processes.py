"""Ending a process that a test started, by its own handle."""

import signal
import subprocess

STOP_S = 5.0


def end(process: subprocess.Popen[str], number: signal.Signals) -> int:
    """Send a signal, wait for the end and return the exit code; a process that does not end in time is killed, and said."""
    process.send_signal(number)
    try:
        return process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
    finally:
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
