# Sourced by the other scripts: makes .venv with the package in it, once, and again when what it is made of changes.
#
# Call `prepare EXTRA` (EXTRA may be empty); afterwards $root is the project and $python its Python.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=$root/.venv/bin/python

prepare() {
  local extra=$1 stamp=$root/.venv/installed-${1:-base} base=${PYTHON:-python3}
  local wanted
  wanted=$(cat "$root/setup.py" "$root/pyproject.toml" | cksum)
  if [[ -x $python && -f $stamp && $(<"$stamp") == "$wanted" ]]; then
    return
  fi
  if ! "$base" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    echo "error: $base is not Python 3.10 or newer; install one, or name it: PYTHON=python3.11 $0" >&2
    exit 64
  fi
  echo "Setting up $root/.venv …" >&2
  # One that was interrupted while it was made has no pip, and is made anew.
  "$python" -m pip --version &>/dev/null || "$base" -m venv --clear "$root/.venv"
  "$python" -m pip install --quiet --quiet --disable-pip-version-check --editable "$root${extra:+[$extra]}"
  echo "$wanted" >"$stamp"
}
