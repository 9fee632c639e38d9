"""The controller: jobs, the registry of probes, the archive and the settings."""
