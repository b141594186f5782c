#!/usr/bin/env bash
# Measures the speed of training side by side with the floor, loops by hand, Keras and Orbit: scripts/bench.sh [--help]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

peers=$root/.venv-bench
packages=("tf-models-official>=2.19,<2.21" "tf_keras>=2.21,<2.22")

# Orbit, without all that its distribution depends on, beside what .venv has.
prepare_peers() {
  local wanted="${packages[*]}"
  if [[ -x $peers/bin/python && -f $peers/installed && $(<"$peers/installed") == "$wanted" ]]; then
    return
  fi
  echo "Setting up $peers …" >&2
  "$python" -m venv --clear "$peers"
  local site
  site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  echo "import site; site.addsitedir('$site')" >"$("$peers/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/trainer.pth"
  if "$peers/bin/python" -m pip install --quiet --quiet --disable-pip-version-check --no-deps "${packages[@]}"; then
    echo "$wanted" >"$peers/installed"
  else
    echo "warning: Orbit could not be installed, so that its rows will fail; see the lines above" >&2
  fi
}

prepare ""
case " $* " in *" --help "* | *" -h "*) ;; *) prepare_peers ;; esac
PYTHONPATH=$root/scripts exec "$python" -m bench "$@"
