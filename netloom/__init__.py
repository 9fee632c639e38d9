"""The ground every role stands on: settings, crash-safe files, logging, clock; in `netloom.cli` the command line on top."""

VERSION = "0.1.0"
"""The version of this installation."""
