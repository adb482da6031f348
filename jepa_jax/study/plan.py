"""Which runs a study has: a recipe, and what is changed of it, one factor at a time."""

import importlib.util
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from jepa_jax.config import changed
from jepa_jax.errors import UserError, did_you_mean
from jepa_jax.validation import unknown_key, validate

CENTRE = "centre"  # the recipe as it is, which all others are compared with

# factor -> variant -> key of the config -> value
Factors = Mapping[str, Mapping[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class Planned:
    """One run of a study."""

    factor: str  # empty for the centre
    variant: str
    seed: int
    changes: Mapping[str, Any]
    config: ConfigDict

    @property
    def name(self) -> str:
        """Of its folder and its record."""
        return f"{_stem(self.factor, self.variant)}.{self.seed}"


def full_name(factor: str, variant: str) -> str:
    """What a variant is called; the centre has no factor."""
    return f"{factor}: {variant}" if factor else variant


def _stem(factor: str, variant: str) -> str:
    return re.sub(r"[^a-zA-Z0-9.]+", "_", f"{factor} {variant}".strip()).strip("_")


def plan(
    config: ConfigDict, factors: Factors, seeds: Sequence[int] = (0,), only: Sequence[str] = ()
) -> list[Planned]:
    """The centre and then all variants, seed by seed; each is checked before any is run.

    Args:
      factors: of each factor the variants, and what each changes of the config.
      only: factors, variants or both as "factor: variant"; none means all.

    Raises:
      UserError: for what is no key, no value, or none of the study.
    """
    if not config.data.test_split:
        raise UserError("a study compares by probes: name held-out images in data.test_split")
    chosen = _changes(factors)
    if unfit := [name for key in chosen for name in key if "," in name]:
        raise UserError(f"the study has {unfit[0]!r}: commas part the names of --only, use none")
    known = {key: {*key, full_name(*key)} - {""} for key in chosen}
    names = set().union(*known.values())
    if unknown := [word for word in only if word not in names]:
        near = did_you_mean(unknown[0], sorted(names))
        raise UserError(f"the study has no {unknown[0]!r}{near}")
    wanted = {key: chosen[key] for key in chosen if not only or known[key] & set(only)}
    runs = [
        Planned(*key, seed, changes, _changed(config, changes, seed, full_name(*key)))
        for seed in seeds
        for key, changes in wanted.items()
    ]
    names = [run.name for run in runs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"two variants of the study would both lie in {twice[0]!r}: rename one")
    return runs


def recorded(config: ConfigDict, factors: Factors, names: Collection[str]) -> list[Planned]:
    """What `plan` has of runs of these names, whichever commands trained them; by variant."""
    changes = _changes(factors)
    found = [name.rpartition(".") for name in names]
    stems = {stem for stem, _, seed in found if seed.isdecimal()}
    seeds = sorted({int(seed) for *_, seed in found if seed.isdecimal()})
    only = [full_name(*key) for key in changes if _stem(*key) in stems]
    runs = plan(config, factors, seeds, only) if only else []
    order = list(changes)
    runs = sorted(runs, key=lambda run: order.index((run.factor, run.variant)))
    return [run for run in runs if run.name in names]


def _changes(factors: Factors) -> dict[tuple[str, str], Mapping[str, Any]]:
    """By factor and variant, the centre first."""
    return {("", CENTRE): {}} | {
        (factor, variant): changes
        for factor, variants in factors.items()
        for variant, changes in variants.items()
    }


def _changed(config: ConfigDict, changes: Mapping[str, Any], seed: int, where: str) -> ConfigDict:
    for key in changes:
        if problem := unknown_key(key):
            raise UserError(f"{where}: {problem}")
    # To compare the variants with raw pixels, it is enough that the centre does.
    own = changed(config, {"probe.compare": not changes, **changes, "seed": seed})
    try:
        validate(own)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return own


def open_study(path: str) -> ModuleType:
    """The study's file: its docstring, `get_config` and `get_factors`.

    Raises:
      UserError: if it has no factors.
    """
    spec = importlib.util.spec_from_file_location("study", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_factors"):
        raise UserError(
            f"{path} is a recipe and no study: give it get_factors(config), as in"
            " configs/studies/small_images.py"
        )
    return module
