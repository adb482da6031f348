"""Exit codes of all commands."""

FINISHED, WRONG_INPUT = 0, 2
STORAGE = 74  # cannot be read or written; EX_IOERR of sysexits.h
STOPPED = 75  # by a signal; what sysexits.h calls a temporary failure
HUNG = 124  # ended by the watchdog, or for want of other processes; as of timeout(1)
