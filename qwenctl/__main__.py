"""Entry of the command `qwenctl` and of `python -m qwenctl`: signals end the program quietly from its first line on."""

import _signal  # type: ignore[import-not-found]  # typeshed has only `signal`, which imports a dozen modules
import sys

if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    # Until all is imported nothing has begun that would have to be cleaned up, and an exception in an import has a
    # traceback of its own, which nothing can catch. SIGTERM has this handler from the start.
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)

_INTERRUPTED = 130


def main() -> int:
    """Run the command line of this process; return its exit code."""
    import gc

    from qwenctl.cli import main as run

    try:
        if _signal.getsignal(_signal.SIGINT) == _signal.SIG_DFL:
            _signal.signal(_signal.SIGINT, _signal.default_int_handler)
        code = run()
        _signal.signal(_signal.SIGINT, _signal.SIG_IGN)  # all is done: the interpreter only ends
        # which would look for cycles among all objects first: as long as the rest of a short command takes
        gc.freeze()
    except KeyboardInterrupt:
        _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
        return _INTERRUPTED
    return code


if __name__ == "__main__":
    sys.exit(main())
