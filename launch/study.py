"""Trains a recipe in many variants, one factor at a time, and tells what each does.

    python launch/study.py --config=configs/studies/small_images.py --out=runs/study

A study is a recipe whose file also has get_factors(config), which gives factor -> variant -> {key:
value}: what is changed of the recipe. Runs go one after another, each in a folder of --out, and
leave a small JSON file in --results. The same command goes on; --only=FACTOR,VARIANT takes some of
them, --seeds=0,1,2 repeats them, --part=2/4 is every fourth, for four machines that share the
folders. README.md and results.png in --results compare all that there is so far, whichever of these
commands trained it; with --summary nothing is trained. Exit codes: 0 finished, 2 wrong input, 74 a
folder can't be read or written, 75 stopped by a signal.
"""

import os
import shlex
import sys

from jepa_jax import cli
from jepa_jax.cli import config_flags, flags

CONFIG = cli.config_flag()
OUT = flags.DEFINE_string("out", None, "Folder of the runs' folders.")
RESULTS = flags.DEFINE_string("results", None, "Folder of what is kept; --out/results, if none.")
ONLY = flags.DEFINE_list("only", [], "Factors or variants; 'factor: variant' where it is unclear.")
SEEDS = flags.DEFINE_list("seeds", ["0"], "A run for each.")
PART = flags.DEFINE_string("part", "1/1", "Which part of the runs, such as 2/4.")
SUMMARY = flags.DEFINE_bool("summary", False, "Only compare what there is.")


def main() -> int:
    from etils import epath

    from jepa_jax.errors import UserError
    from jepa_jax.exits import FINISHED
    from jepa_jax.parallel.host_memory import keep_freed_memory
    from jepa_jax.study.plan import open_study, plan, recorded
    from jepa_jax.study.run import run_study, share
    from jepa_jax.study.summary import collect, summarize

    if CONFIG.value is None or OUT.value is None:
        raise UserError(
            "give a study and a folder: --config=configs/studies/small_images.py --out=runs"
        )
    if wrong := [seed for seed in SEEDS.value if not seed.isdecimal()]:
        raise UserError(f"--seeds has {wrong[0]!r}: give whole numbers, as in --seeds=0,1,2")
    path = config_flags.get_config_filename(flags.FLAGS["config"]).split(":")[0]
    study = open_study(path)
    factors = study.get_factors(CONFIG.value)
    runs = plan(CONFIG.value, factors, list(map(int, SEEDS.value)), ONLY.value)
    out = epath.Path(OUT.value).expanduser()
    records = epath.Path(RESULTS.value).expanduser() if RESULTS.value else out / "results"

    def there():
        names = [file.stem for file in records.glob("*.json")] if records.exists() else []
        return recorded(CONFIG.value, factors, names)

    code = FINISHED
    collect(there(), records)  # those of another setting are told before anything is trained
    if not SUMMARY.value:
        keep_freed_memory()
        code = run_study(share(runs, PART.value), out, records)
    title = (study.__doc__ or os.path.basename(path)).strip().splitlines()[0].rstrip(".")
    found = there()
    said = list(cli.without(sys.argv[1:], "only", "seeds", "part", "summary", "nosummary"))
    if (seeds := sorted({run.seed for run in found})) != [0]:
        said.append(f"--seeds={','.join(map(str, seeds))}")
    variants, wanted = ({(run.factor, run.variant) for run in each} for each in (found, runs))
    if ONLY.value and variants <= wanted:  # else the page has more
        said.append(f"--only={','.join(ONLY.value)}")
    page = summarize(title, shlex.join(["python", "launch/study.py", *said]), found, records)
    print(f"compared in {page}" if page else "no run is finished, and there is nothing to compare")
    return code


if __name__ == "__main__":
    cli.run(main)
