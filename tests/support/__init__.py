"""What tests share: fakes, files, models, the command line. Tests import from here and from no other test."""
