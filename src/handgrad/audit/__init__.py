"""Audit of a backward pass: which line is wrong, and what the mistake probably is."""

from handgrad.audit.freivalds import checksum
from handgrad.audit.judge import Line, Report, audit, audit_probes

__all__ = ["Line", "Report", "audit", "audit_probes", "checksum"]
