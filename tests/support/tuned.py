"""A saved tuning result."""

from __future__ import annotations

from qwenctl.tune.store import TuningResult

FOUND = TuningResult({"threads": 1, "micro_batch": 64, "cpu_experts": 12}, 1.2, {"context": 4096}, "2026-11-24")
