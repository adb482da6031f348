"""Exit codes of all commands."""

FINISHED, WRONG_INPUT = 0, 2
STOPPED = 75  # by a signal; what sysexits.h calls a temporary failure
