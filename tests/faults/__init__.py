"""Tests of failures: killed processes, full disks, broken networks, planted faults."""
