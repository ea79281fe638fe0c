# shellcheck shell=bash
# The virtual environment of quickstart.sh and test.sh; to be sourced after common.sh.

# require_tool COMMAND PACKAGE: fails with the Debian package of a missing command.
require_tool() {
    command -v "$1" >/dev/null || fail "$1 is missing: install it, on Debian and Ubuntu with 'apt-get install $2'"
}

# set_up_venv REQUIREMENTS_FILE...: creates $VENV and installs the packages and this project; does nothing if they are installed.
set_up_venv() {
    local python="${PYTHON:-python3}" wanted stamp file
    local -a arguments=()
    require_tool "$python" python3
    require_tool git git
    require_tool g++ g++
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        fail "$python is $("$python" --version), but Python 3.10 or later is needed: set PYTHON=/path/to/python3.11"
    "$python" -c 'import sys; sys.exit(sys.version_info >= (3, 14))' ||
        echo "warning: $("$python" --version) is untested (3.10 to 3.13 are tested); set PYTHON to use another one" >&2
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        fail "$python cannot create virtual environments: on Debian and Ubuntu 'apt-get install python3-venv'"
    "$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
        fail "$python has no headers, which DeepSpeed needs to compile an extension: on Debian and Ubuntu 'apt-get install python3-dev'"
    for file in "$@"; do arguments+=(-r "$file"); done
    wanted="$(cat "$REPO_PATH/constraints.txt" "$REPO_PATH/pyproject.toml" "$@" | cksum) $("$python" --version) $*"
    stamp="$VENV/.installed-for-$(basename "$(dirname "${!#}")")"
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then return; fi
    echo "setting up $VENV (5 to 7 GB, a few minutes)"
    [ -x "$VENV/bin/python" ] || "$python" -m venv "$VENV"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "${arguments[@]}" -c "$REPO_PATH/constraints.txt" ||
        fail "installing the Python packages failed; see the messages above"
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --editable "$REPO_PATH" ||
        fail "installing the command emodiversity failed; see the messages above"
    echo "$wanted" >"$stamp"
}
