"""The kinds of measurement: one file each, found by one registry."""
