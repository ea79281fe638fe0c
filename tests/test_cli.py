"""What users see of log messages."""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAM = """
import logging, sys
from VideoMAE.cli import show_messages
show_messages(sys.stdout)
torch = logging.getLogger("torch._subclasses.fake_tensor")
torch.setLevel(logging.NOTSET)  # as it is until torch has been imported as a whole
torch.info("FakeTensor cache stats:")
torch.warning("a warning of torch")
logging.getLogger("VideoMAE.inference.predictor").info("3 videos")
"""


def test_torch_s_notes_are_not_shown_and_its_warnings_and_our_notes_are() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("a warning of torch\n3 videos\n", "")
