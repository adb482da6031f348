"""The mask auditor counts what is drawn, and warns of what is poor and of nothing else."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from jepa_jax.masks import MaskSpec
from jepa_jax.visualize.audit import Audit, audit, draw_audit, inspect_masks, warnings
from tests.tiny import tiny

SPEC = MaskSpec((4, 4))


@pytest.fixture(scope="module")
def default() -> Audit:
    return audit(SPEC)


def even(spec: MaskSpec = SPEC, available: int = 6) -> Audit:
    """An audit of which nothing would be said."""
    share = np.full(spec.grid, 0.5)
    return Audit(spec, share, share, np.full(100, available), np.full(400, 2))


def test_shares_add_up_to_what_is_drawn(default):
    assert default.in_context.sum() == pytest.approx(SPEC.num_context)
    assert default.in_target.sum() <= default.block_size.max() * SPEC.num_targets
    assert (default.available >= SPEC.num_context).mean() == pytest.approx(1 - default.redrawn)


def test_the_default_is_not_warned_of(default):
    assert warnings(default) == []
    assert warnings(even()) == []


def test_the_reference_never_reaches_the_last_row_and_column():
    found = audit(MaskSpec((4, 4), style="reference"))
    for share in (found.in_context, found.in_target):
        assert (share[-1] == 0).all()
        assert (share[:, -1] == 0).all()
    assert warnings(found)[0].startswith("7 of 16 patches are never seen by the encoder, as in the")


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (even()._replace(in_target=np.eye(4)), "12 of 16 patches are never predicted"),
        (
            even()._replace(in_context=np.diag([4, 4, 4, 1]) @ np.full((4, 4), 0.2)),
            "0.25 times as often",
        ),
        (even()._replace(available=np.array([3, 6, 6, 6])), "25% of the draws are drawn again"),
        (even(available=16), "75% of the context block is thrown away"),
        (even(dataclasses.replace(SPEC, num_targets=2)), "2 target blocks are fewer than 4"),
        (even(dataclasses.replace(SPEC, num_context=1), 2), "1 of 16 patches, less than an eighth"),
    ],
)
def test_each_fault_is_told_alone(found, message):
    [line] = warnings(found)
    assert message in line


def test_crosses_mark_the_patches_that_are_never_reached(tmp_path):
    def crossed(found: Audit) -> int:
        draw_audit(found, tmp_path / "masks.png")
        with Image.open(tmp_path / "masks.png") as image:
            return (np.asarray(image.convert("RGB")) == (0xFF, 0x5A, 0x4D)).all(-1).sum()

    assert crossed(even()) == 0
    assert crossed(even()._replace(in_target=1 - np.eye(4))) > 0


def test_a_config_is_told_of_with_a_picture(tmp_path, capsys):
    inspect_masks(tiny(), tmp_path / "new")
    out = capsys.readouterr().out
    assert "context patches that the encoder sees, K" in out
    assert "nothing to warn of" in out
    assert (tmp_path / "new" / "masks.png").stat().st_size > 5000
