"""Python runs this at its start where `Gate.environment` has put this folder on PYTHONPATH."""

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).parents[1] / "gates.py"))["install_from_environment"]()
