"""Tests of the code's structure: imports, sizes, names and documentation."""
