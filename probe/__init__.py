"""The probe: an agent that takes commands, measures, spools its results and hands them over."""
