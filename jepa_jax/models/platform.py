"""What kind of device a computation that is traced is for."""

import jax


def platform() -> str:
    """Such as "cpu": of the mesh, which may only be compiled for, or else of this machine."""
    device = jax.sharding.get_abstract_mesh().abstract_device or jax.local_devices()[0]
    return device.platform
