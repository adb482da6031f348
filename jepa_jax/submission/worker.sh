#!/usr/bin/env bash
# What a TPU's hosts do for launch/submit.py. Beside this file lie the archive of the code, job.sh
# (what is to run) and environment (variables that were allowed to pass).
#
#   worker.sh start    begins, unless it runs or is done; returns at once
#   worker.sh follow   shows the log until the end; exits as the run did
#   worker.sh wait     the same, but shows no more than the end of a log of a run that failed
#   worker.sh status   says in a line what it does
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
me=$(basename "$PWD")

# Held by the run and by every process that it left behind: one TPU serves one run at a time.
running() { ! (flock --nonblock 9) 9>../lock; }

result() { cat exit 2>/dev/null || echo 1; }  # killed before it could say

install() {
  [[ -e installed ]] && return
  mkdir -p code
  tar -xzf "$archive" -C code --strip-components=1
  rm -rf tools venv
  python3 -m pip install --quiet --target=tools uv  # brings the Python that the image may lack
  tools/bin/uv venv --quiet --python 3.12 venv
  tools/bin/uv pip install --quiet --python venv/bin/python -e './code[tpu,fast]'
  touch installed
}

train() {
  trap 'exit 1' ERR  # whatever failed here, its code must not be taken for the run's
  set -o errtrace
  source ./job.sh
  install
  source ./environment
  eval "$setup"
  cd code
  exec ../venv/bin/python launch/train.py "${arguments[@]}"
}

attempt() {
  trap : TERM  # a host that shuts down tells all its processes; this one waits for the run to save
  local code=0
  bash worker.sh train || code=$?
  ((code != 255)) || code=1  # what ssh says of itself
  echo "$code" >exit
  echo "$me: exit code $code"
}

main() {
  case "$1" in
    start)
      exec 9>../lock
      if ! flock --nonblock 9; then
        [[ "$(cat ../running)" == "$me" ]] && return
        echo "error: $(cat ../running) runs on this TPU" >&2
        return 3
      fi
      [[ "$(result)" == 0 ]] && return
      rm -f exit
      echo "$me" >../running
      setsid nohup bash worker.sh attempt >>log 2>&1 </dev/null &
      ;;
    follow)
      touch log
      tail --lines=100 --follow log &
      while running; do sleep 0.5; done
      sleep 0.5
      kill "$!"
      return "$(result)"
      ;;
    wait)
      while running; do sleep 0.5; done
      [[ "$(result)" == 0 ]] || tail --lines=20 log >&2
      return "$(result)"
      ;;
    status)
      if running; then
        echo "$me: runs"
      elif [[ -e log ]]; then
        echo "$me: exit code $(result)"
      else
        echo "$me: not begun"
      fi
      ;;
    train | attempt) "$1" ;;
  esac
}

main "$@"
