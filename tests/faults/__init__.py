"""What goes wrong: killed processes, full disks, broken networks, planted faults."""
