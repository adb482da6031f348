"""What is read from a compiled step, and the command's one-line answers."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import types

import jax
import pytest

from jepa_jax.compilation.chips import local_devices, topology_devices
from jepa_jax.compilation.collectives import Traffic, collectives
from jepa_jax.compilation.hlo import parse
from jepa_jax.compilation.moves import moves
from jepa_jax.compilation.run import estimate
from jepa_jax.compilation.search import largest
from jepa_jax.compilation.step import Compilation
from jepa_jax.config import defaults
from jepa_jax.errors import UserError
from tests.commands import launch, refused

ROOT = pathlib.Path(__file__).parents[1]
LIBTPU = importlib.util.find_spec("libtpu") is not None
needs_libtpu = pytest.mark.skipif(not LIBTPU, reason="needs the TPU compiler: jax[tpu]")

# As the TPU compiler writes it: a scan of 6 over a layer whose product is woven with the gather
# of its weights, 8 pieces in two directions, unrolled by two.
RING = """
HloModule jit_step, entry_computation_layout={(f32[4]{0})->f32[4]{0}}

%ring.cond (p.1: (bf16[8,64], u32[])) -> pred[] {
  %limit = u32[]{:T(128)} constant(4)
  %p.1 = (bf16[8,64]{1,0}, u32[]) parameter(0)
  %at = u32[] get-tuple-element(%p.1), index=1
  ROOT %less = pred[] compare(%at, %limit), direction=LT
}

%windowed_dot_general_body_ag.3 (p.2: (bf16[8,64], u32[])) -> (bf16[8,64], u32[]) {
  %two = u32[]{:T(128)} constant(2)
  %p.2 = (bf16[8,64]{1,0:T(8,128)(2,1)}, u32[]) parameter(0)
  %piece = bf16[8,64]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%p.2), index=0
  %count = u32[] get-tuple-element(%p.2), index=1
  %pass.1 = (bf16[8,64]{1,0}, bf16[8,64]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) \
collective-permute-start(%piece), channel_id=3, source_target_pairs={{0,1},{1,0}}
  %passed = bf16[8,64]{1,0} collective-permute-done(%pass.1)
  %next = u32[] add(%count, %two)
  %copied = u32[] copy(%next)
  ROOT %out.2 = (bf16[8,64]{1,0}, u32[]) tuple(%passed, %copied)
}

%layers.cond (p.3: (s32[], bf16[8,64])) -> pred[] {
  %depth = s32[] constant(6)
  %p.3 = (s32[], bf16[8,64]{1,0}) parameter(0)
  %layer = s32[] get-tuple-element(%p.3), index=0
  ROOT %more = pred[] compare(%layer, %depth), direction=LT
}

%layers.body (p.4: (s32[], bf16[8,64])) -> (s32[], bf16[8,64]) {
  %one = s32[] constant(1)
  %p.4 = (s32[], bf16[8,64]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p.4), index=0
  %x = bf16[8,64]{1,0} get-tuple-element(%p.4), index=1
  %in = (bf16[8,64]{1,0}, u32[]) tuple(%x, %zero)
  %ring = (bf16[8,64]{1,0}, u32[]) while(%in), condition=%ring.cond, \
body=%windowed_dot_general_body_ag.3
  %j = s32[] add(%i, %one)
  ROOT %out.4 = (s32[], bf16[8,64]{1,0}) tuple(%j, %x)
}

ENTRY %main (p.5: f32[4]) -> f32[4] {
  %p.5 = (s32[], bf16[8,64]{1,0}) parameter(0)
  %scan = (s32[], bf16[8,64]{1,0}) while(%p.5), condition=%layers.cond, body=%layers.body
  %g = f32[1,4]{1,0} parameter(1)
  %gathered = f32[8,4]{1,0} all-gather(%g), channel_id=9, dimensions={0}
  %scattered = f32[1,4]{1,0} reduce-scatter(%gathered), channel_id=10, to_apply=%sum
}
"""


def test_a_ring_inside_a_scan_counts_once_a_layer():
    found = collectives(parse(RING))
    assert found["all-gather"] == Traffic(6 + 1, 6 * 2 * (8 * 64 * 2) + 8 * 4 * 4)
    assert found["reduce-scatter"] == Traffic(1, 8 * 4 * 4)  # its operand, not the small result
    assert set(found) == {"all-gather", "reduce-scatter"}


def test_the_pieces_of_one_overlapped_gather_count_once():
    """Whose channel others may use, too."""
    gather = (
        "  %a{} = f32[8,4]{{1,0}} all-gather(%g), channel_id=9, dimensions={{0}},"
        " frontend_attributes={}\n"
    )
    ours, another = '{chain_id="3"}', '{async_collective_name="all-gather-start.1"}'
    body = "".join(map(gather.format, range(4), (ours, ours, ours, another)))
    assert collectives(parse(f"ENTRY %main () -> f32[4] {{\n{body}}}\n"))["all-gather"].count == 2


def test_what_leaves_a_slice_is_told_apart():
    body = """
  %g = f32[18,8,128]{2,1,0:T(8,128)} parameter(0)
  %send.29 = (f32[18,8,128]{2,1,0:T(8,128)}, u32[], token[]) send(%g, %after), channel_id=45, \
is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime"\
,_xla_megascale_reduce_operation="SUM",_xla_megascale_transfer_type="ALL_REDUCE"}
  %other = (f32[2]{0}, u32[], token[]) send(%g, %after), channel_id=46, is_host_transfer=true
"""
    found = collectives(parse(f"ENTRY %main () -> f32[4] {{{body}}}\n"))
    assert found == {"all-reduce between slices": Traffic(1, 18 * 8 * 128 * 4)}


MOVED = """
%fused (p.1: bf16[64,48]) -> bf16[48,64] {
  ROOT %inside = bf16[48,64]{1,0} transpose(%p.1), dimensions={1,0}
}

%body (p.2: (s32[], bf16[64,48])) -> (s32[], bf16[64,48]) {
  %small = bf16[4,4]{0,1} copy(%x)
  %turned = bf16[64,48]{0,1:T(8,128)S(1)} copy(%x), metadata={op_name="jit(f)/while/body/qkv/add"}
  %softmax = (f32[2,3]{1,0}, f32[2,3,48,48]{3,2,1,0}) fusion(%x), kind=kOutput, calls=%fused
  %kept_dynamic-update-slice_fusion.1 = f32[5,2,3,48,48]{4,3,2,1,0} fusion(%x), calls=%fused
}

ENTRY %main (p.3: bf16[64,48]) -> bf16[64,48] {
  %scan = (s32[], bf16[64,48]) while(%p.3), condition=%c, body=%body, \
backend_config={"known_trip_count":{"n":"5"}}
  %weights = f32[2,3,48,64]{3,2,1,0} fusion(%p.3), kind=kLoop, calls=%fused
}
"""


def test_copies_and_logits_in_memory_are_told():
    found = moves(parse(MOVED), {48}, least=1000)
    logits = 2 * 3 * 48 * 48 * 4
    assert [(each.what, each.times, each.bytes) for each in found] == [
        ("float32 logits", 5, 5 * (logits + 2 * 3 * 4)),
        ("float32 logits", 5, 5 * logits),
        ("copy", 5, 5 * 64 * 48 * 2),
    ]
    assert [each.fast for each in found] == [False, False, True]
    assert found[-1].where == "jit(f)/while/body/qkv/add"


def test_copies_of_blocks_that_are_not_scanned_are_told_together():
    copy = '  %turned.{} = bf16[64,48]{{0,1}} copy(%x), metadata={{op_name="jit(f)/{}/add"}}\n'
    body = "".join(copy.format(i, place) for i, place in enumerate(("qkv", "mlp", "qkv")))
    found = moves(parse(f"ENTRY %main (p.3: bf16[64,48]) -> f32[] {{\n{body}}}\n"), {48}, least=1)
    size = 64 * 48 * 2
    assert [(each.where, each.times, each.bytes) for each in found] == [
        ("jit(f)/qkv/add", 2, 2 * size),
        ("jit(f)/mlp/add", 1, size),
    ]


@pytest.mark.parametrize("limit", [0, 1, 5, 31, 32, 33, 200])
def test_the_search_ends_within_a_sixteenth(limit: int):
    tried = {}
    found = largest(lambda number: number <= limit, 32, tried)
    assert limit - max(1, limit / 16) < found <= limit
    assert len(tried) < 10


@pytest.mark.parametrize(
    ("compiles", "memory", "fits"),
    [(True, 10, True), (True, 9, False), (True, None, True), (False, 99, False)],
)
def test_what_compiles_fits_only_into_the_memory_that_there_is(compiles, memory, fits):
    assert Compilation(compiles, 1.0, {"batch": 4, "program": 6}, {}).fits(memory) == fits


def test_no_search_without_an_end():
    assert "--search: it is not known how much memory cpu has" in refused(
        "compile", "--config=configs/digits.py", "--search"
    )


CPU = """
import json
import jax
from jepa_jax.compilation.step import compile_step
from tests.tiny import tiny
found = []
for depth, fsdp, parts in ((2, 4, 1), (4, 4, 1), (2, 1, 1), (2, 1, 4)):
    c = tiny()
    c.model.width, c.model.depth, c.model.dtype = 64, depth, "float32"
    c.mesh.fsdp, c.train.accumulate = fsdp, parts
    compiled = compile_step(c, jax.devices())
    found.append({kind: list(traffic) for kind, traffic in compiled.traffic.items()})
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def traffic() -> list[dict[str, list[int]]]:
    result = subprocess.run(
        [sys.executable, "-c", CPU],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_parameters_are_gathered_once_a_use_and_gradients_reduced_once(traffic):
    """Per block of the encoder: four kernels, gathered in three passes, and four gradients.

    A block more adds just those, counted in bytes: nothing of the activations travels.
    """
    shallow, deep = traffic[:2]
    kernels = 2 * (4 + 2 * 4) * 64 * 64 * 4  # bytes of two blocks more
    vectors = 2 * (3 + 1 + 4 + 1 + 4) * 64 * 4  # their biases and norms, which lie on every device
    assert deep["all-gather"][1] - shallow["all-gather"][1] == 3 * kernels
    assert deep["all-gather"][0] - shallow["all-gather"][0] == 3 * 2 * 4
    reduced = [
        sum(found.get(kind, (0, 0))[1] for kind in ("all-reduce", "reduce-scatter"))
        for found in (shallow, deep)
    ]
    assert reduced[1] - reduced[0] == kernels + vectors
    assert set(deep) <= {"all-gather", "all-reduce", "reduce-scatter"}


def test_replicas_exchange_their_gradients_once_however_many_parts(traffic):
    whole, in_parts = traffic[2:]
    assert in_parts == {"all-reduce": [1, whole["all-reduce"][1]]}


@pytest.mark.parametrize(
    "name", ["v5e", "v9:2x2", "v5e:4x4x", "v5e:16 x 16", "0xv5e:4x4", "2v5e:4x4", "2x:4x4"]
)
def test_an_unknown_topology_is_answered_with_one(name: str):
    with pytest.raises(UserError, match=r"such as v5e:16x16") as caught:
        topology_devices(name)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(LIBTPU, reason="the TPU compiler is there")
def test_a_missing_compiler_is_answered_with_how_to_install_it():
    with pytest.raises(UserError, match=r"pip install 'jax\[tpu\]'"):
        topology_devices("v5e:4x4")


def compiled(*arguments: str) -> subprocess.CompletedProcess:
    return launch("compile", "--config=configs/digits.py", *arguments, timeout=None)


SMALL = (
    "--config.model.width=32",
    "--config.model.heads=2",
    "--config.model.depth=1",
    "--config.predictor.width=16",
    "--config.predictor.heads=2",
    "--config.predictor.depth=1",
)


@needs_libtpu
def test_a_step_compiles_for_a_tpu_that_is_not_there():
    result = compiled("--topology=v5e:2x2", *SMALL, "--config.mesh.fsdp=4", "--moves")
    assert result.returncode == 0, result.stderr
    assert "4 × v5e, mesh replica 1 × fsdp 4 × tensor 1" in result.stdout
    assert "all-gather" in result.stdout
    assert "chip-hours" in result.stdout
    assert "logits in memory" in result.stdout


@needs_libtpu
def test_an_impossible_slice_is_one_line():
    result = compiled("--topology=v5e:3x7")
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert "v5e:3x7 cannot be compiled for" in result.stderr


def test_local_devices_need_no_topology():
    result = compiled(*SMALL)
    assert result.returncode == 0, result.stderr
    assert "1 × cpu" in result.stdout
    assert "whether it fits is not known" in result.stdout
    assert "TFLOP a step" in result.stdout
    assert "no hours: the peak of cpu is not known" in result.stdout


def test_hours_on_this_machine_s_gpus(monkeypatch):
    gpu = types.SimpleNamespace(device_kind="NVIDIA H100 80GB HBM3", memory_stats=lambda: None)
    monkeypatch.setattr(jax, "devices", lambda: [gpu] * 8)
    devices, chip = local_devices()
    *_, hours = estimate(defaults(), len(devices), chip, 1_281_167, 0.3)
    assert hours.startswith("at 30% of 989 TFLOP/s: ")
