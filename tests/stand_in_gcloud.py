"""A stand-in for gcloud that knows the verbs and flags which launch/submit.py uses, as documented.

It plays what the file `scenario.json` in the folder $STAND_IN says, and keeps its state there.
Hosts of a TPU are folders: `ssh` runs commands in them with bash, with a stand-in for Python that
notes its arguments. Verbs, flags, states and errors are those of Google Cloud SDK 528; what the
service answers has the form of its API (https://cloud.google.com/tpu/docs/reference/rest/v2).
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(os.environ.get("STAND_IN", ""))  # unset where it is only looked at
HOSTS = 2  # of a slice

WIDE = {"zone", "project", "quiet", "format"}
VERBS = {
    "compute tpus queued-resources create": WIDE
    | {"node-id", "node-count", "node-prefix", "accelerator-type", "runtime-version", "spot"}
    | {"data-disk", "network", "labels"},
    "compute tpus queued-resources describe": WIDE,
    "compute tpus queued-resources delete": WIDE | {"force", "async"},
    "compute tpus tpu-vm accelerator-types describe": WIDE,
    "compute tpus tpu-vm ssh": WIDE | {"worker", "command"},
    "compute tpus tpu-vm scp": WIDE | {"worker", "recurse"},
    "beta quotas info list": WIDE | {"service", "filter"},
}

PYTHON = f"""#!{sys.executable}
import json, os, pathlib, sys
here = pathlib.Path(os.environ["STAND_IN"])
number = len(list(here.glob(f"trained-{{os.environ['HOST']}}-*")))
note = {{"words": sys.argv[1:], "environment": dict(os.environ), "folder": os.getcwd()}}
(here / f"trained-{{os.environ['HOST']}}-{{number}}").write_text(json.dumps(note))
print("step", number, flush=True)
codes = json.loads((here / "scenario.json").read_text())["exit_codes"]
sys.exit(codes[min(number, len(codes) - 1)])
"""
UV = """#!/bin/bash
echo "$*" >>uv_calls
if [[ $1 == venv ]]; then mkdir -p venv/bin && cp "$STAND_IN/python" venv/bin/python; fi
"""
PYTHON3 = """#!/bin/bash
[[ "$*" == "-m pip install --quiet --target=tools uv" ]] || exit 1
mkdir -p tools/bin && cp "$STAND_IN/uv" tools/bin/uv
"""


def fail(verb: str, text: str, code: int = 1):
    print(f"ERROR: (gcloud.{verb.replace(' ', '.')}) {text}", file=sys.stderr)
    sys.exit(code)


def load(name: str, default=None):
    file = HERE / name
    return json.loads(file.read_text()) if file.exists() else default


def save(name: str, value) -> None:
    (HERE / name).write_text(json.dumps(value))


def parse(words: list[str]) -> tuple[str, list[str], dict[str, str]]:
    verb = next((v for v in VERBS if words[: len(v.split())] == v.split()), None)
    if verb is None:
        fail("", f"Invalid choice: {words}", 2)
    rest, places, given = words[len(verb.split()) :], [], {}
    for word in rest:
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            if name not in VERBS[verb]:
                fail(verb, f"unrecognized arguments: {word}", 2)
            given[name] = value
        else:
            places.append(word)
    return verb, places, given


def make_hosts(nodes: list[str]) -> None:
    shutil.rmtree(HERE / "hosts", ignore_errors=True)
    for name, text in {"python": PYTHON, "uv": UV}.items():
        write_program(HERE / name, text)
    for node in nodes:
        for worker in range(HOSTS):
            programs = HERE / "hosts" / f"{node}.{worker}" / "bin"
            programs.mkdir(parents=True)
            write_program(programs / "python3", PYTHON3)


def write_program(file: pathlib.Path, text: str) -> None:
    file.write_text(text)
    file.chmod(0o755)


def hosts(node: str, workers: str) -> list[pathlib.Path]:
    numbers = range(HOSTS) if workers == "all" else [int(workers)]
    return [HERE / "hosts" / f"{node}.{number}" for number in numbers]


def main() -> None:
    with (HERE / "calls").open("a") as calls:
        calls.write(json.dumps(sys.argv[1:]) + "\n")
    verb, places, given = parse(sys.argv[1:])
    scenario = load("scenario.json")
    failures = load("failures", scenario["failures"])
    if failures.get(verb.split()[-1]):
        text = failures[verb.split()[-1]].pop(0)
        save("failures", failures)
        if text:
            fail(verb, text, 255 if verb.endswith("ssh") else 1)
    resource = load("resource")
    where = f"projects/{given['project']}/locations/{given.get('zone')}"

    match verb.split()[-2:]:
        case ["queued-resources", "create"]:
            if resource:
                fail(verb, f"ALREADY_EXISTS: Resource '{where}/queuedResources/{places[0]}'")
            count = int(given.get("node-count", 1))
            prefix = given.get("node-prefix", places[0])
            nodes = [f"{prefix}-{i}" for i in range(count)] if count > 1 else [given["node-id"]]
            node = {
                "acceleratorType": given["accelerator-type"],
                "runtimeVersion": given["runtime-version"],
            }
            specs = [{"nodeId": name, "node": node, "parent": where} for name in nodes]
            life = load("lives", 0)
            save("lives", life + 1)
            described = {
                "name": f"{where}/queuedResources/{places[0]}",
                **({"spot": {}} if "spot" in given else {}),
                "tpu": {"nodeSpec": specs},
            }
            save("resource", {"described": described, "states": scenario["lives"][life]})
            make_hosts(nodes)
        case ["queued-resources", "describe"]:
            if not resource:
                fail(
                    verb, f"NOT_FOUND: Resource '{where}/queuedResources/{places[0]}' was not found"
                )
            state, *later = resource["states"]
            more = {"activeData": {}}
            if state == "FAILED":
                more = {"failedData": {"error": {"code": 8, "message": scenario["reason"]}}}
            print(json.dumps(resource["described"] | {"state": {"state": state} | more}))
            if state == "DELETING":
                (HERE / "resource").unlink()
            else:
                save("resource", resource | {"states": later or [state]})
        case ["queued-resources", "delete"]:
            if "force" not in given and resource["states"][0] == "ACTIVE":
                fail(verb, "FAILED_PRECONDITION: has nodes")
            save("resource", resource | {"states": ["DELETING"]})
        case ["accelerator-types", "describe"]:
            if places[0] not in scenario["offered"]:
                fail(
                    verb,
                    f"NOT_FOUND: Resource '{where}/acceleratorTypes/{places[0]}' was not found",
                )
            print(json.dumps({"name": f"{where}/acceleratorTypes/{places[0]}", "type": places[0]}))
        case ["info", "list"]:
            print(json.dumps(scenario["quota"]))
        case ["tpu-vm", "scp"]:
            node, _, folder = places[-1].partition(":")
            for host in hosts(node, given["worker"]):
                subprocess.run(["cp", "-p", *places[:-1], host / folder], check=True)
        case ["tpu-vm", "ssh"]:
            codes = []
            for host in hosts(places[0], given["worker"]):
                programs = f"{host}/bin:/usr/bin:/bin"
                environment = {
                    "HOME": str(host),
                    "PATH": programs,
                    "STAND_IN": str(HERE),
                    "HOST": host.name,
                }
                command = ["bash", "-c", given["command"]]
                codes.append(subprocess.run(command, cwd=host, env=environment).returncode)
            sys.exit(next(filter(None, codes), 0))


if __name__ == "__main__":
    main()
