#!/usr/bin/env bash
# Trains, and starts again whatever a restart can mend: scripts/preemptible.sh [--help] [options] [flags of trainer.main].
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

usage="usage: scripts/preemptible.sh [--attempts=5] [--pause=1] [--longest_pause=60] [flags of trainer.main]

Trains like scripts/train.sh, and starts the trainer again when it was preempted (75), found another at work (73) or was
killed (134 to 143). Every other exit code is its own: done, or nothing that another start would mend.

  --attempts=N        give up after N attempts in a row that saved no new step; exits with the last one's code
  --pause=SECONDS     wait so long before the next start, and twice as long after each attempt that saved no new step
  --longest_pause=S   but never longer than this. Waiting for another trainer (73) is no attempt, and has no end

Its own options come first, each with its = in it. Give it no --max_runtime: the trainer would be started again.

SIGUSR2 is passed on: the trainer saves and goes on. SIGTERM, SIGUSR1 and SIGHUP say that the machine goes: they are
passed on once, and when the trainer has ended nothing is started again. SIGINT and SIGQUIT end both, a second one
without saving.
Exits with the trainer's code, or with 75 instead of a code after which it would have started it again."

refuse() {
  echo "error: $1; see --help" >&2
  exit 64
}

attempts=5 shortest_pause=1 longest_pause=60
while [[ $# -gt 0 ]]; do
  case $1 in
    -h | --help)
      echo "$usage"
      exit
      ;;
    --attempts=*) attempts=${1#*=} ;;
    --pause=*) shortest_pause=${1#*=} ;;
    --longest_pause=*) longest_pause=${1#*=} ;;
    *) break ;;
  esac
  shift
done
[[ $attempts =~ ^[1-9][0-9]{0,8}$ ]] || refuse "--attempts=$attempts is no number of attempts; expected 1 or more"
for seconds in "$shortest_pause" "$longest_pause"; do
  [[ $seconds =~ ^(0|[1-9][0-9]{0,5})$ ]] || refuse "a pause of $seconds is none; expected whole seconds"
done

# What is started here is a process group of its own: Ctrl-C at a terminal would otherwise reach the trainer twice, from
# the terminal and from here, and the second signal ends it unsaved. In such a group it may still write to the terminal.
trap '' TTOU
child='' stop='' asked='' signalled=''

# Traps only note and pass on: one that starts a process can crash the shell when signals overlap.
# shellcheck disable=SC2317,SC2329 # They are who calls it.
pass() {
  signalled=yes
  case $1:$stop in
    USR2:*) ;;
    INT:* | QUIT:*) stop=${stop:-130} ;;
    # Platforms tell the same news twice, and the trainer takes a second signal for an order to end at once.
    *:?*) return 0 ;;
    *) stop=75 ;;
  esac
  if [[ -n $child ]]; then
    asked=${stop:+yes}
    kill -s "$1" "$child" 2>/dev/null || true
  fi
}
trap 'pass INT' INT
trap 'pass QUIT' QUIT
trap 'pass TERM' TERM HUP
trap 'pass USR1' USR1
trap 'pass USR2' USR2

prepare ""
# The trainer itself reads its flags, so that a flagfile, a default and a mistake mean here what they mean there.
run_dir=$("$python" -c '
import os
import sys

from trainer.command import new_flags, parse, run_command
from trainer.process.quiet import quiet_start
from trainer.run.catalog import check_name, find_experiment, known_experiments, short_name
from trainer.run.flags import define_flags


def main(argv):
    values = new_flags()
    define_flags(values)
    if parse(argv, values, usage="scripts/preemptible.sh [flags of trainer.main]", about="") is not None:
        name, run_dir = values["experiment"].value, values["run_dir"].value
        check_name(name)
        if not run_dir:
            # What only its own module knows: that may take the import of TensorFlow.
            with quiet_start():
                run_dir = os.path.join("runs", name if name in known_experiments() else short_name(find_experiment(name)))
        print(run_dir)
    return 0


run_command(main)
' "$@")

# Starts a command and waits for its end; its exit code is then in $code.
run() {
  set -m
  "$@" </dev/null &
  set +m
  child=$!
  # One that came while the child was made.
  if [[ -n $stop && -z $asked ]]; then
    kill -s TERM "$child" 2>/dev/null || true
  fi
  # A signal ends a wait early, also one that came, and was passed on, before that wait began. What has ended meanwhile is
  # remembered, and told by the next.
  while
    signalled='' code=0
    wait "$child" 2>/dev/null || code=$?
    [[ -n $signalled ]] || { [[ $code -gt 128 ]] && kill -0 "$child" 2>/dev/null; }
  do :; done
  child=''
}

# The newest committed step is then in $newest, -1 when there is none, and in words in $where.
find_newest() {
  local manifest
  newest=-1 where="no checkpoint"
  for manifest in "$run_dir"/checkpoints/step-*/manifest.json; do
    if [[ -f $manifest && $manifest =~ /step-0*([0-9]+)/manifest\.json$ && ${BASH_REMATCH[1]} -gt $newest ]]; then
      newest=${BASH_REMATCH[1]} where="step ${BASH_REMATCH[1]} is saved"
    fi
  done
}

pause=$shortest_pause idle=0
find_newest
while [[ -z $stop ]]; do
  before=$newest
  run "$python" -m trainer.main "$@"
  case $code in
    73 | 75 | 13[4-9] | 14[0-3]) ;;
    *) exit "$code" ;;
  esac
  [[ -z $stop ]] || break
  find_newest
  if [[ $newest -gt $before ]]; then
    idle=0 pause=$shortest_pause
  elif [[ $code -ne 73 ]]; then
    idle=$((idle + 1))
  fi
  if [[ $idle -ge $attempts ]]; then
    echo "error: nothing new was saved in $run_dir by the last $idle attempts, $where; its journal says what" \
      "ended them: mend that, and run the same command again" >&2
    exit "$code"
  fi
  echo "the trainer ended with $code, $where; it starts again in $pause s" >&2
  run sleep "$pause"
  pause=$((pause * 2 < longest_pause ? pause * 2 : longest_pause))
done
exit "$stop"
