"""`docs/reference/exit-codes.md`, from `qwenctl.errors.ExitCode`."""

from __future__ import annotations

from qwenctl.errors import ExitCode

from .markdown import HEAD, escape, table

_INTRO = """\
# Exit codes

A failure is one line on standard error, `qwenctl: error: …`, mostly with a `hint:` line, and one of these codes. They
are those of `sysexits.h` where one fits, and 128 plus the number of the signal where one ended the program.

"""
_OUTRO = """
With `--json` the failure is an object on standard output instead, `{"error": {…}}`, whose `code` is the name above; see
[JSON output](json-output.md#failures). `--debug` adds the traceback.

In its first hundredths of a second a process belongs to Python alone, and what Python then says is its own: a traceback
at Ctrl-C, and "<stdin> is a directory, cannot continue" with code 1 if standard input is a folder. (`--prefix FOLDER`
and `@FOLDER` read one.)

A script can tell by the code what to do next:

```bash
qwenctl batch questions.jsonl -o answers.jsonl -m qwen.gguf
case $? in
  0) ;;                                     # every record is answered
  3) wc -l answers.errors.jsonl ;;          # some are not: fix them, then --retry-errors
  75) sleep 60 ;;                           # something else is in the way: the same command again
esac
```
"""


def exit_codes_page() -> str:
    """The page."""
    rows = [(str(int(code)), f"`{code.name.lower()}`", escape(code.meaning)) for code in ExitCode]
    return HEAD + _INTRO + table(("code", "name", "meaning"), rows) + _OUTRO
