#!/usr/bin/env bash
# Sets up the virtual environment, including the packages that the tests need, and runs all tests.
#
#     bash scripts/test.sh [PYTEST_ARGUMENTS]
#
#   PYTHON           interpreter for the virtual environment, 3.10 or later; default: python3
#   VENV             folder of the virtual environment; default: .venv in the repository
#   TEST_PROCESSES   number of test files that run at a time; default: 2

set -euo pipefail

# shellcheck source=scripts/lib/common.sh
. "$(cd -P "$(dirname "${BASH_SOURCE[0]}")" && pwd)/lib/common.sh"
# shellcheck source=scripts/lib/setup.sh
. "$REPO_PATH/scripts/lib/setup.sh"
if [ "${1:-}" = "--help" ] || [ "${1:-}" = "-h" ]; then show_help "$0" && exit 0; fi

set_up_venv "$REPO_PATH/requirements.txt" "$REPO_PATH/tests/requirements.txt"
unset PYTHON
export TORCH_EXTENSIONS_DIR="${TORCH_EXTENSIONS_DIR:-$VENV/torch_extensions}"
cd "$REPO_PATH"
PATH="$VENV/bin:$PATH" exec "$VENV/bin/python" -m pytest -n "${TEST_PROCESSES:-2}" --dist loadfile "$@"
