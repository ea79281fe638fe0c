"""Features are those that transformers and the head see; every form holds the same; a call that was killed goes on."""

import json
import multiprocessing
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gates import Gate
from safetensors import safe_open
from tiny_runs import make_v2v_run
from transformers import VideoMAEModel
from vce_files import make_vce_folder
from video_files import write_grey_video
from weight_files import network, our_checkpoint, pretraining_network, v2v_network

from VideoMAE.checkpoints.programs import convert
from VideoMAE.data.vce import read_annotations
from VideoMAE.extract_features import main
from VideoMAE.inference.load import load_for_inference
from VideoMAE.inference.predictor import load_predictor
from VideoMAE.training import feature_store

REPOSITORY = Path(__file__).resolve().parents[2]
QUICK = ["--device", "cpu", "--num_workers", "0"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three videos, one of them in a subfolder; a file that is not a video; a text file."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "deeper").mkdir()
    for number, name in enumerate(("a.mp4", "b.mp4", "deeper/c.mp4")):
        write_grey_video(folder / name, 40, width=64, height=48, levels=lambda i, n=number: 40 + 50 * n + 2 * i)  # type: ignore[misc]
    (folder / "d.mp4").write_bytes(b"no video")
    (folder / "notes.txt").write_text("nothing")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VCE network without zero weights, for clips of 8 frames of 32 x 32."""
    return our_checkpoint(tmp_path_factory.mktemp("weights") / "vce.pth", network())


def extract(output_dir: Path, checkpoint: Path, *more: Any, status: int = 0) -> Path:
    arguments = ["--checkpoint", checkpoint, "--output_dir", output_dir, *QUICK, *more]
    assert main([str(argument) for argument in arguments]) == status
    return output_dir


def features(file: Path) -> np.ndarray:
    with np.load(file) as content:
        return content["features"]


def clips_of(checkpoint: Path, video: Path) -> torch.Tensor:
    return load_for_inference(checkpoint).clips()(video, np.random.default_rng(0))


def test_every_layer_equals_that_of_transformers(videos: Path, checkpoint: Path, tmp_path: Path) -> None:
    assert convert([str(checkpoint), str(tmp_path / "huggingface")]) == 0
    reference = VideoMAEModel.from_pretrained(tmp_path / "huggingface").eval()
    clips = clips_of(checkpoint, videos / "a.mp4")
    with torch.no_grad():
        states = reference(clips.transpose(1, 2), output_hidden_states=True).hidden_states
    assert len(states) == 5
    for layer, expected in enumerate(states):
        out = extract(
            tmp_path / f"of_{layer}",
            checkpoint,
            videos / "a.mp4",
            "--layer",
            layer,
            "--pool",
            "none",
            "--views",
            "keep",
        )
        np.testing.assert_allclose(features(out / "a.mp4.npz"), expected.numpy(), atol=1e-4)
    with torch.no_grad():
        normalised = network().fc_norm(states[4].mean(1))  # type: ignore[misc]
    out = extract(tmp_path / "final", checkpoint, videos / "a.mp4", "--views", "keep")
    np.testing.assert_allclose(features(out / "a.mp4.npz"), normalised.numpy(), atol=1e-4)


def test_the_head_on_final_features_gives_the_predictions(videos: Path, checkpoint: Path, tmp_path: Path) -> None:
    out = extract(tmp_path / "out", checkpoint, videos / "a.mp4", videos / "deeper")
    predicted = load_predictor(checkpoint, device="cpu")([videos / "a.mp4", videos / "deeper/c.mp4"])
    for name, prediction in zip(("a.mp4", "c.mp4"), predicted, strict=True):
        with torch.no_grad():
            logits = network().head(torch.from_numpy(features(out / f"{name}.npz")))
        assert prediction.intensities is not None
        expected = list(prediction.intensities.values())
        np.testing.assert_allclose(torch.sigmoid(logits).numpy(), expected, atol=1e-5)


def test_final_tokens_average_to_the_final_mean(videos: Path, checkpoint: Path, tmp_path: Path) -> None:
    of_tokens = features(extract(tmp_path / "none", checkpoint, videos / "a.mp4", "--pool", "none") / "a.mp4.npz")
    assert of_tokens.shape == (16, 128)
    about = json.loads((tmp_path / "none/features.json").read_text())
    assert (about["axes"], about["token_grid"]) == ({"tokens": 16, "channels": 128}, [4, 2, 2])
    last = features(extract(tmp_path / "last", checkpoint, videos / "a.mp4", "--layer", -1) / "a.mp4.npz")
    np.testing.assert_allclose(of_tokens.mean(axis=0), last, atol=1e-5)
    first_token = our_checkpoint(tmp_path / "cls.pth", network(use_mean_pooling=False))
    tokens = features(extract(tmp_path / "cls_none", first_token, videos / "a.mp4", "--pool", "none") / "a.mp4.npz")
    seen = features(extract(tmp_path / "cls", first_token, videos / "a.mp4") / "a.mp4.npz")
    np.testing.assert_allclose(tokens[0], seen, atol=1e-5)


def test_every_format_has_the_same_features_and_unreadable_videos_are_listed(
    videos: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["a.mp4", "b.mp4", "deeper/c.mp4"]
    npz = extract(tmp_path / "npz", checkpoint, videos, "--batch_size", 4, status=1)
    assert f"unreadable: {videos / 'd.mp4'}: " in capsys.readouterr().err
    (lost,) = [json.loads(line) for line in (npz / "unreadable.jsonl").read_text().splitlines()]
    assert (lost["id"], lost["path"]) == ("d.mp4", str(videos / "d.mp4"))
    expected = np.stack([features(npz / f"{name}.npz") for name in names])
    assert expected.std(axis=0).max() > 0.01
    tensors = extract(tmp_path / "tensors", checkpoint, videos, "--format", "safetensors", status=1)
    for name, row in zip(names, expected, strict=True):
        with safe_open(tensors / f"{name}.safetensors", framework="np") as file:
            assert file.metadata() == {"path": str(videos / name)}
            np.testing.assert_allclose(file.get_tensor("features"), row, atol=1e-5)
    matrix = extract(tmp_path / "matrix", checkpoint, videos, "--format", "matrix", "--dtype", "float16", status=1)
    rows = np.load(matrix / "features.npy", mmap_mode="r")
    assert (rows.shape, rows.dtype) == ((4, 128), np.float16)
    index = {line["id"]: line["row"] for line in map(json.loads, (matrix / "index.jsonl").read_text().splitlines())}
    assert list(index) == names
    np.testing.assert_allclose(rows[list(index.values())], expected, rtol=2e-3, atol=2e-3)
    (other,) = {0, 1, 2, 3} - set(index.values())
    assert np.isnan(rows[other]).all()
    assert {path.name for path in matrix.iterdir()} == {
        "features.npy",
        "index.jsonl",
        "features.json",
        "unreadable.jsonl",
        ".lock",
    }


def test_views_are_kept_or_averaged(videos: Path, checkpoint: Path, tmp_path: Path) -> None:
    views = ["--num_segments", 3, "--num_crops", 2]
    kept = features(extract(tmp_path / "k", checkpoint, videos / "a.mp4", "--views", "keep", *views) / "a.mp4.npz")
    mean = features(extract(tmp_path / "m", checkpoint, videos / "a.mp4", *views) / "a.mp4.npz")
    assert kept.shape == (6, 128)
    np.testing.assert_allclose(kept.mean(axis=0), mean, atol=1e-6)
    assert np.abs(kept[0] - kept[4]).max() > 1e-3
    whole = extract(tmp_path / "v2v", checkpoint, videos / "a.mp4", "--sampling", "v2v", "--views", "keep")
    assert features(whole / "a.mp4.npz").shape == (1, 128)


@pytest.mark.parametrize("form", ["npz", "matrix"])
def test_a_second_call_computes_only_the_missing_features(
    videos: Path, checkpoint: Path, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "some"
    shutil.copytree(videos, folder)
    out = extract(tmp_path / "out", checkpoint, folder, "--format", form, status=1)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.npz")}
    shutil.copy(folder / "a.mp4", folder / "d.mp4")
    (folder / "a.mp4").write_bytes(b"spoilt since")
    extract(out, checkpoint, folder, "--format", form)
    assert not (out / "unreadable.jsonl").exists()
    assert {path: path.stat().st_mtime_ns for path in before} == before
    if form == "npz":
        assert_close(features(out / "d.mp4.npz"), features(out / "a.mp4.npz"))
    else:
        index = {line["id"]: line["row"] for line in map(json.loads, (out / "index.jsonl").read_text().splitlines())}
        rows = np.load(out / "features.npy")
        assert sorted(index.values()) == [0, 1, 2, 3]
        assert_close(rows[index["d.mp4"]], rows[index["a.mp4"]])


assert_close = partial(np.testing.assert_allclose, rtol=0, atol=1e-5)  # batches of other sizes


def extract_until_gate(arguments: list[str], gate: Gate) -> None:
    feature_store.SECONDS_BETWEEN_SYNCS = 0.0
    gate.install()
    main(arguments)


@pytest.mark.parametrize("form", ["npz", "matrix"])
def test_a_killed_extraction_leaves_complete_features_and_resumes(checkpoint: Path, tmp_path: Path, form: str) -> None:
    data = make_vce_folder(tmp_path / "vce_dataset", 12, 4, num_frames=20)
    out = tmp_path / "out"
    more = ["--format", form, "--views", "keep", "--pool", "none"]
    arguments = [str(data), "--checkpoint", str(checkpoint), "--output_dir", str(out), *QUICK, *more]
    gate = Gate(tmp_path / "gate", "VideoMAE.inference.predictor:ClipBatches.take", calls=4)
    process = multiprocessing.get_context("fork").Process(target=extract_until_gate, args=(arguments, gate))
    process.start()
    gate.wait(process)

    def count() -> int:
        return (
            len((out / "index.jsonl").read_bytes().splitlines())
            if (out / "index.jsonl").exists()
            else len(list(out.glob(f"*.{form}")))
        )

    process.kill()
    process.join()
    assert count() == 3
    if form == "matrix":
        with (out / "index.jsonl").open("a") as file:
            file.write('{"id": "50003", "pa')  # as if killed in the middle of a line
    extract(out, checkpoint, data, *more)
    unbroken = extract(tmp_path / "unbroken", checkpoint, data, *more)
    ids = [key for split in ("train", "test") for key in read_annotations(data, split).ids]
    for key in ids if form != "matrix" else ():
        assert_close(features(out / f"{key}.{form}"), features(unbroken / f"{key}.{form}"))
    if form == "matrix":
        assert_close(np.load(out / "features.npy"), np.load(unbroken / "features.npy"))
        lines = [json.loads(line) for line in (out / "index.jsonl").read_text().splitlines()]
        assert sorted((line["row"], line["id"]) for line in lines) == list(enumerate(ids))
    assert not list(out.rglob("*.tmp"))


def test_other_settings_weights_or_videos_in_the_same_folder_are_refused(
    videos: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = extract(tmp_path / "out", checkpoint, videos / "a.mp4", "--format", "matrix")
    matrix = (out / "features.npy").read_bytes()
    other = our_checkpoint(tmp_path / "other.pth", network(init_values=0.1))
    for arguments, difference in (
        ([checkpoint, videos / "a.mp4", "--layer", 2], "--layer: final there, 2 here"),
        ([other, videos / "a.mp4"], "checksum of the weights: "),
        ([checkpoint, videos / "a.mp4", videos / "b.mp4"], "number of videos: 1 there, 2 here"),
    ):
        extract(out, *arguments, "--format", "matrix", status=1)
        message = capsys.readouterr().err.splitlines()[-1]
        assert message.startswith(f"error: {out}: contains features with other settings (")
        assert difference in message
    assert (out / "features.npy").read_bytes() == matrix
    extract(videos, checkpoint, videos / "a.mp4", status=1)
    assert "not empty and not a folder of features" in capsys.readouterr().err


def test_a_pretrained_encoder_gives_the_features_that_fine_tuning_starts_from(
    videos: Path, checkpoint: Path, tmp_path: Path
) -> None:
    reference = pretraining_network(hidden_size=128, num_hidden_layers=4, intermediate_size=512)
    reference.save_pretrained(tmp_path / "huggingface")
    assert convert([str(tmp_path / "huggingface"), str(tmp_path / "pretrained.pth"), "--to", "published"]) == 0
    clips = clips_of(checkpoint, videos / "a.mp4")
    unmasked = torch.zeros(len(clips), 16, dtype=torch.bool)
    with torch.no_grad():
        states = reference.videomae(
            clips.transpose(1, 2), bool_masked_pos=unmasked, output_hidden_states=True
        ).hidden_states
    last = states[4].mean(1)
    size = ["--input_size", 32, "--num_frames", 8, "--views", "keep"]
    out = extract(tmp_path / "last", tmp_path / "huggingface", videos / "a.mp4", *size, "--layer", 4)
    np.testing.assert_allclose(features(out / "a.mp4.npz"), last.numpy(), atol=1e-4)
    out = extract(tmp_path / "final", tmp_path / "pretrained.pth", videos / "a.mp4", *size)
    expected = torch.nn.functional.layer_norm(last, (128,), eps=1e-6)
    np.testing.assert_allclose(features(out / "a.mp4.npz"), expected.numpy(), atol=1e-4)


def test_datasets_lists_and_equal_names_get_distinct_ids(checkpoint: Path, videos: Path, tmp_path: Path) -> None:
    v2v = our_checkpoint(tmp_path / "v2v.pth", v2v_network())
    data = tmp_path / "v2v"
    (data / "videos").mkdir(parents=True)
    for number, key in enumerate(("00001", "00002", "00003")):
        write_grey_video(data / f"videos/{key}.mp4", 10, width=64, height=48, levels=lambda i, n=number: 50 * n + i)  # type: ignore[misc]
    (data / "train_labels.json").write_text(json.dumps({"comparisons": [["00001", "00003"]]}))
    out = extract(tmp_path / "dataset", v2v, data)
    assert sorted(path.name for path in out.glob("*.npz")) == ["00001.npz", "00003.npz"]  # those with a label
    assert json.loads((out / "features.json").read_text())["settings"]["--sampling"] == "v2v"
    (tmp_path / "list.txt").write_text(f"{data}/videos/00002.mp4\n\n{videos}/b.mp4\n")
    out = extract(tmp_path / "list", v2v, "--list", tmp_path / "list.txt")
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.npz")) == sorted(
        f"{path}.npz"[1:] for path in (f"{data}/videos/00002.mp4", f"{videos}/b.mp4")
    )
    (tmp_path / "again").mkdir()
    shutil.copy(videos / "b.mp4", tmp_path / "again/a.mp4")
    out = extract(tmp_path / "equal", v2v, videos / "a.mp4", tmp_path / "again/a.mp4", videos / "a.mp4")
    assert len(list(out.rglob("a.mp4.npz"))) == 2


@pytest.mark.parametrize(
    ("more", "status", "message"),
    [
        (["--layer", "5"], 1, "--layer 5: must be final, or a number from 0 to 4, or from -4 to -1"),
        (["--layer", "last"], 1, "--layer last: must be final"),
        (["--sampling", "v2v", "--num_crops", "3"], 1, "--num_crops 3: V2V samples one clip"),
        (["--batch_size", "0"], 2, "--batch_size 0: must be above 0"),
        (["--num_workers", "-1"], 2, "--num_workers -1: must be at least 0"),
        (["--list", "nowhere.txt"], 1, "nowhere.txt: no such file; check --list"),
    ],
)
def test_a_wrong_flag_is_reported_and_nothing_is_written(
    videos: Path,
    checkpoint: Path,
    tmp_path: Path,
    more: list[str],
    status: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    extract(tmp_path / "out", checkpoint, videos / "a.mp4", *more, status=status)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_features_that_overflow_float16_are_refused(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = network()
    with torch.no_grad():
        model.fc_norm.weight.mul_(1e6)  # type: ignore[union-attr]
    large = our_checkpoint(tmp_path / "large.pth", model)
    extract(tmp_path / "out", large, videos / "a.mp4", "--dtype", "float16", status=1)
    assert "overflows --dtype float16; use float32" in capsys.readouterr().err


def test_the_program_runs_as_a_file_from_any_folder_with_workers(
    videos: Path, checkpoint: Path, tmp_path: Path
) -> None:
    command = [sys.executable, REPOSITORY / "VideoMAE/extract_features.py", videos, "--checkpoint", checkpoint]
    done = subprocess.run(
        [*command, "--output_dir", "out", "--num_workers", "2", "--device", "cpu"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    assert "unreadable: 1 of 4 videos" in done.stderr
    assert len(list((tmp_path / "out").rglob("*.npz"))) == 3
    assert not done.stdout


def test_the_head_of_a_run_on_its_features_gives_its_scores(tmp_path: Path) -> None:
    run = make_v2v_run(tmp_path)
    out = extract(tmp_path / "out", run, tmp_path / "v2v_dataset")
    scores = {line["id"]: line["score"] for line in map(json.loads, (run / "scores.jsonl").read_text().splitlines())}
    weight = load_for_inference(run).model.state_dict()["head.0.weight"][0].numpy()
    assert len(scores) == 5
    for key, score in scores.items():
        assert features(out / f"{key}.npz") @ weight == pytest.approx(score, abs=1e-4)
