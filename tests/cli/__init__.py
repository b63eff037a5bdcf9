"""The program through its command line: messages, exit codes, output."""
