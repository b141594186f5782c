#!/usr/bin/env bash
# Trains on a Spot VM or TPU VM, and saves when the machine is about to go: scripts/gce_spot.sh [--help] [arguments].
set -euo pipefail

usage="usage: scripts/gce_spot.sh [options of scripts/preemptible.sh] [flags of trainer.main]

Runs scripts/preemptible.sh, and watches what the metadata server of Google Compute Engine says of this machine, also
where that is a TPU VM: when it is preempted, or stopped for maintenance, the trainer saves and this exits with 75;
before a live migration the trainer saves and goes on. GCE_METADATA_HOST names another server, HOST or HOST:PORT."

case ${1-} in
  -h | --help)
    echo "$usage"
    exit
    ;;
esac
if ! command -v curl >/dev/null; then
  echo "error: curl is not installed, and asks the metadata server; install it, or use scripts/preemptible.sh" >&2
  exit 64
fi

server=http://${GCE_METADATA_HOST:-metadata.google.internal}/computeMetadata/v1/instance

# Tells this script, by a signal, each time that an entry of the metadata server says something that it should know.
watch_entry() {
  local entry=$1 etag=0 value='' before warned='' answer
  # The server answers when the entry is another than the one with the etag, or after the timeout; at first at once.
  while kill -0 $$ 2>/dev/null; do
    if ! answer=$(curl --silent --show-error --fail --include --noproxy '*' --connect-timeout 5 --max-time 90 \
      --header 'Metadata-Flavor: Google' \
      "$server/$entry?wait_for_change=true&timeout_sec=60&last_etag=$etag" 2>&1); then
      [[ -n $warned ]] || echo "warning: cannot ask $server/$entry (${answer##*$'\n'}); trying again" >&2
      warned=yes
      sleep 2
      continue
    fi
    warned='' before=$value value=${answer##*$'\n'}
    if [[ $answer =~ [Ee][Tt][Aa][Gg]:\ *([^[:space:]]+) ]]; then
      etag=${BASH_REMATCH[1]}
    else
      sleep 2 # A stand-in that cannot wait.
    fi
    [[ $value != "$before" ]] || continue
    case $value in
      TRUE | TERMINATE_ON_HOST_MAINTENANCE)
        echo "the machine goes: $entry is $value" >&2
        kill -TERM $$
        return
        ;;
      MIGRATE_ON_HOST_MAINTENANCE)
        echo "the machine is moved: $entry is $value" >&2
        kill -USR2 $$
        ;;
    esac
  done
}

# Until scripts/preemptible.sh has its own traps there is nothing to save.
trap 'exit 75' TERM
trap '' USR2 TTOU

# Groups of their own, so that each ends together with its request.
watchers=()
trap 'kill -- "${watchers[@]/#/-}" 2>/dev/null' EXIT
set -m
for entry in preempted maintenance-event; do
  watch_entry "$entry" </dev/null &
  watchers+=($!)
done
set +m

# In this very process, which is the one that the watchers know, and the one that gets every other signal.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/preemptible.sh" "$@"
