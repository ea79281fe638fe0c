"""Fine-tuning VideoMAE on the VCE and V2V datasets."""

import sys
from importlib.util import find_spec
from pathlib import Path

__version__ = "0.2.0"

REPOSITORY = Path(__file__).resolve().parents[1]
PROGRAM_FOLDERS = [REPOSITORY / name for name in ("VideoMAE", "data_prep", "models")]
# Import names of the packages in requirements.txt that any program may import. DeepSpeed and decord are not listed:
# most programs run without them, and the others report them if they are missing.
REQUIRED = (
    "av",
    "cv2",
    "gdown",
    "huggingface_hub",
    "jinja2",
    "matplotlib",
    "numpy",
    "safetensors",
    "scipy",
    "tensorboardX",
    "timm",
    "torch",
    "torchvision",
    "tqdm",
    "tyro",
)


def check_packages() -> None:
    """Checks that the required packages are installed, without importing them.

    Raises ImportError, or SystemExit in a program of the project, with the command that installs what is missing.
    """
    missing = [name for name in REQUIRED if name not in sys.modules and find_spec(name) is None]
    if not missing:
        return
    activate = f"'source {REPOSITORY / '.venv/bin/activate'}'"
    if not (REPOSITORY / "scripts/quickstart.sh").is_file():  # an installed package
        packages = " ".join({"cv2": "opencv-python-headless"}.get(name, name) for name in missing)
        advice = f"install what is missing with '{sys.executable} -m pip install {packages}'"
    elif (REPOSITORY / ".venv/bin/activate").is_file():
        advice = f"activate the project's environment with {activate}"
    else:
        set_up = f"'bash {REPOSITORY / 'scripts/quickstart.sh'} --setup_only'"
        advice = f"set up the project's environment with {set_up}, then activate it with {activate}"
    more = f" and {len(missing) - 1} more from requirements.txt" if len(missing) > 1 else ""
    sentence = f"{sys.executable} has no package {missing[0]}{more}: {advice}"
    program = Path(sys.argv[0])
    if sys.argv[0] == "-m" or program.name == "emodiversity" or program.resolve().parent in PROGRAM_FOLDERS:
        sys.exit(f"error: {sentence}")
    raise ImportError(sentence)


check_packages()
