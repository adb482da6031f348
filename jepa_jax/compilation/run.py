"""launch/compile.py: compiles, and tells what a run would need."""

from ml_collections import ConfigDict
from rich.table import Table

from jepa_jax.compilation.chips import Chip, local_devices, topology_devices
from jepa_jax.compilation.search import largest
from jepa_jax.compilation.step import Compilation, compile_step
from jepa_jax.config import changed, mesh_shape
from jepa_jax.console import new_console, say
from jepa_jax.errors import UserError
from jepa_jax.flops import flops_by_part, step_flops
from jepa_jax.parallel.sharding import AXES
from jepa_jax.training.setup import total_steps
from jepa_jax.validation import validate

MIB = 2**20


def compile_recipe(
    config: ConfigDict, topology: str | None, *, images: int, mfu: float, search: bool, moves: bool
) -> bool:
    """Compiles a recipe's step, prints what it needs, and whether it fits.

    Args:
      topology: such as "v5e:16x16"; None: this machine's devices.
      images: that an epoch has, for the estimate of the hours.
      mfu: share of the chips' peak that the estimate counts on.
      search: also look for the largest batch that fits, which compiles several times.
      moves: also tell what is copied, and which logits are written to memory.

    Returns:
      Whether it fits; True where the memory of a chip is not known.

    Raises:
      UserError: for a topology, mesh or batch that cannot be, or a search without an end.
    """
    console = new_console()
    devices, chip = topology_devices(topology) if topology else local_devices()
    if search and chip.memory is None:
        raise UserError(
            f"--search: it is not known how much memory {chip.name} has: give a --topology"
        )
    validate(config, len(devices))
    sizes = mesh_shape(config, len(devices))
    mesh = " × ".join(f"{axis} {size}" for axis, size in zip(AXES, sizes, strict=True))
    say(console, f"{len(devices)} × {chip.name}, mesh {mesh}; compiling …")
    compiled = compile_step(config, devices)
    say(console, memory_table(compiled, chip))
    say(console, verdict(compiled, chip))
    if compiled.traffic:
        say(console, traffic_table(compiled))
    if moves:
        say(console, moves_table(compiled))
    for line in estimate(config, len(devices), chip, images, mfu):
        say(console, line)
    if search:
        ways, parts = sizes[0] * sizes[1], config.train.accumulate
        tried = {config.train.batch_size // (ways * parts): compiled.fits(chip.memory)}

        def fits(number: int) -> bool:
            other = changed(config, {"train.batch_size": number * ways * parts})
            found = compile_step(other, devices).fits(chip.memory)
            say(console, f"{number * parts} images a chip: {'fit' if found else 'do not fit'}")
            return found

        most = largest(fits, next(iter(tried)), tried) * parts
        say(console, f"largest batch: {most} images a chip, {most * ways} in all")
    return compiled.fits(chip.memory)


def memory_table(compiled: Compilation, chip: Chip) -> Table:
    """Bytes of a chip by kind, beside what it has."""
    table = Table(title="Memory of a chip", title_justify="left")
    table.add_column("kind")
    table.add_column("MiB", justify="right")
    rows = compiled.memory | {"in all": compiled.needed}
    if chip.memory:
        rows["the chip has"] = chip.memory
    for kind, size in rows.items():
        table.add_row(kind, f"{size / MIB:,.1f}")
    return table


def verdict(compiled: Compilation, chip: Chip) -> str:
    if compiled.fits(chip.memory):
        fits = "fits" if chip.memory else "whether it fits is not known"
        return f"{fits}; compiled in {compiled.seconds:.0f} s"
    return (
        "does not fit: raise mesh.fsdp (state) or train.accumulate (activations), or set"
        " model.unroll to the depth, or model.remat=full"
    )


def traffic_table(compiled: Compilation) -> Table:
    table = Table(title="Collectives of a step", title_justify="left")
    table.add_column("kind")
    table.add_column("count", justify="right")
    table.add_column("MiB a chip", justify="right")
    for kind, (count, size) in compiled.traffic.items():
        table.add_row(kind, f"{count:,}", f"{size / MIB:,.1f}")
    return table


def moves_table(compiled: Compilation) -> Table:
    table = Table(title="Copies, and logits in memory, of a step", title_justify="left")
    for heading in ("what", "times", "MiB in all", "memory", "result", "where"):
        table.add_column(heading)
    for move in compiled.moves:
        *_, place = move.where.split("/while/body/")
        size, memory = f"{move.bytes / MIB:,.0f}", "fast" if move.fast else "main"
        result = move.result.split("{")[0].lstrip("(")
        table.add_row(move.what, str(move.times), size, memory, result, place)
    return table


def estimate(config: ConfigDict, chips: int, chip: Chip, images: int, mfu: float) -> list[str]:
    """FLOPs of a step, and hours of the recipe; or that the chip's peak is not known."""
    flops = step_flops(config)
    steps = total_steps(config, images // config.train.batch_size)
    parts = flops_by_part(config)
    shares = (f"{name} {part / sum(parts.values()):.0%}" for name, part in parts.items())
    lines = [
        f"{flops / 1e12:,.2f} TFLOP a step in matrix products; {steps:,} steps",
        ", ".join(shares),
    ]
    if chip.peak:
        hours = steps * flops / (chips * chip.peak * mfu) / 3600
        lines.append(
            f"at {mfu:.0%} of {chip.peak / 1e12:,.0f} TFLOP/s: {hours:,.1f} hours,"
            f" {hours * chips:,.0f} chip-hours for {config.train.epochs:g} epochs of"
            f" {images:,} images"
        )
    else:
        lines.append(f"no hours: the peak of {chip.name} is not known; that of a --topology is")
    return lines
