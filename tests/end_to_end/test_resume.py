"""The checkpoint of any step leads to the numbers of an unbroken run; tests/faults breaks runs off in every way."""

import shutil
from pathlib import Path

import pytest
from resume_helpers import flags, outcome
from vce_files import make_vce_folder

from VideoMAE.run_class_finetuning import main
from VideoMAE.training import checkpoint


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_vce_folder(tmp_path_factory.mktemp("vce") / "vce_dataset", 20, 5)


@pytest.fixture(scope="module")
def unbroken(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run on one process; tests only read it."""
    output_dir = tmp_path_factory.mktemp("unbroken") / "run"
    main(flags(dataset, output_dir))
    return output_dir


def test_the_checkpoint_of_every_step_leads_to_the_same_end(dataset: Path, unbroken: Path, tmp_path: Path) -> None:
    expected = outcome(unbroken)
    output_dir = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        kept: list[Path] = []

        def save_and_keep(folder: Path, content: dict) -> None:
            checkpoint.save(folder / checkpoint.LAST, content)
            kept.append(tmp_path / f"{len(kept)}.pth")
            shutil.copy(folder / checkpoint.LAST, kept[-1])

        patch.setattr(checkpoint, "save_last", save_and_keep)
        main(flags(dataset, output_dir, "--num_workers", "0"))
    assert len(kept) == len(expected["steps"])  # the last step of an epoch is saved with the epoch
    for saved in kept[1::5]:
        for file in output_dir.glob("checkpoint-*"):
            if file.name != checkpoint.BEST:
                file.unlink()
        shutil.copy(saved, output_dir / checkpoint.LAST)
        main(flags(dataset, output_dir))
        assert outcome(output_dir) == expected, saved
