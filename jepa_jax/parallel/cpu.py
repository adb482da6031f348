"""A CPU that is split into several devices, for a process to come."""

import os


def xla_flags(devices: int) -> str:
    """For $XLA_FLAGS: those that are set, and so many devices."""
    return (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    ).strip()
