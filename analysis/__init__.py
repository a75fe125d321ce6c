"""Offline work on logs: what they say, compared, redacted, recovered, planned as a replay; tables of reports."""
