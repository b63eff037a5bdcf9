"""Code shared by tests: fakes, files, models, the command line. Tests import from here and never from other tests."""
