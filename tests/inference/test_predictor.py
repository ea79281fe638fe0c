"""A predictor gives the results of the run's own test for any batch size and number of workers; its windows cover the
right frames; unreadable videos do not affect others."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import TINY, TinyRuns, quick_runs
from video_files import BAD_VIDEOS, moving_frames, one_frame, write_video

from VideoMAE import run_class_finetuning, run_v2v_finetuning
from VideoMAE.augment.video_transforms import ValidationTransform
from VideoMAE.inference.predictor import Prediction, Predictor, load_predictor
from VideoMAE.video.reader import UnreadableVideoError, Video

CONTAINERS = {"mp4": "libx264", "mkv": "libx264", "mov": "libx264", "avi": "mpeg4", "webm": "libvpx"}


@pytest.fixture(scope="module")
def both(tiny_runs: TinyRuns) -> Predictor:
    return load_predictor([tiny_runs.vce, tiny_runs.v2v])


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """5 seconds, landscape."""
    return write_video(tmp_path_factory.mktemp("video") / "moving.mp4", moving_frames(50, width=96), fps=10)


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def values(predictions: list[Prediction]) -> np.ndarray:
    """Every intensity and every score. (V, K + 1)"""
    return np.array([[*(prediction.intensities or {}).values(), prediction.score] for prediction in predictions])


def check_emotions(run: Path, videos: Path, predictor: Predictor) -> None:
    """The predictions equal predictions.jsonl of the run, also for unreadable videos."""
    for line in lines(run / "predictions.jsonl"):
        [prediction] = predictor(videos / f"{line['id']}.mp4")
        assert prediction.error == line.get("unreadable")
        assert prediction.intensities == (None if prediction.error else pytest.approx(line["predicted"], abs=1e-5))


def check_scores(run: Path, videos: Path, predictor: Predictor) -> None:
    expected = {line["id"]: line["score"] for line in lines(run / "scores.jsonl")}
    predictions = predictor([videos / f"{key}.mp4" for key in expected])
    assert {prediction.path.stem: prediction.score for prediction in predictions} == pytest.approx(expected, abs=1e-5)


def test_predictions_equal_those_of_the_run_s_own_test(tiny_runs: TinyRuns, both: Predictor) -> None:
    assert len(lines(tiny_runs.vce / "predictions.jsonl")) == 5 and len(lines(tiny_runs.v2v / "scores.jsonl")) == 5
    check_emotions(tiny_runs.vce, tiny_runs.vce_videos, both)
    check_scores(tiny_runs.v2v, tiny_runs.v2v_videos, both)


def test_a_run_that_only_tested_is_loaded_with_its_views_and_activation(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    flags = ["--eval", "--finetune", str(tiny_runs.vce / "checkpoint-best.pth"), "--loss", "ce", "--short_side_size"]
    flags += ["44", "--test_num_segment", "3", "--test_num_crop", "1", "--sampling_rate", "3"]
    data = ["--data_path", str(tiny_runs.vce_videos.parent), "--output_dir", str(tmp_path / "vce")]
    with quick_runs():
        run_class_finetuning.main([*TINY, *data, *flags])
    predictor = load_predictor(tmp_path / "vce")
    check_emotions(tmp_path / "vce", tiny_runs.vce_videos, predictor)
    [prediction] = predictor(tiny_runs.vce_videos / "50000.mp4")
    assert prediction.intensities is not None and sum(prediction.intensities.values()) == pytest.approx(1)

    flags = ["--mode", "eval", "--checkpoint", str(tiny_runs.v2v / "checkpoint-best.pth"), "--crop", "center"]
    data = ["--data_path", str(tiny_runs.v2v_videos.parent), "--output_dir", str(tmp_path / "v2v")]
    with quick_runs():
        run_v2v_finetuning.main([*TINY, *data, *flags])
    assert lines(tmp_path / "v2v/scores.jsonl") != lines(tiny_runs.v2v / "scores.jsonl")
    check_scores(tmp_path / "v2v", tiny_runs.v2v_videos, load_predictor(tmp_path / "v2v"))


def test_order_and_values_do_not_depend_on_batches_and_workers(
    tiny_runs: TinyRuns, both: Predictor, video: Path, tmp_path: Path
) -> None:
    one_frame(tmp_path / "short.mp4")
    videos = [*sorted(tiny_runs.vce_videos.iterdir(), reverse=True), video, tmp_path / "short.mp4"]
    expected = both(videos)
    assert [prediction.path for prediction in expected] == videos
    assert [prediction.path.stem for prediction in expected if prediction.error is not None] == ["50004"]
    durations = [prediction.duration_seconds for prediction in expected if prediction.error is None]
    assert durations[-2:] == [5.0, pytest.approx(1 / 30)]
    for settings in ({"batch_size": 1}, {"batch_size": 7, "num_workers": 2}, {"batch_size": 1000}):
        found = load_predictor([tiny_runs.v2v, tiny_runs.vce], **settings)(videos)
        assert [prediction.path for prediction in found] == videos
        readable = [prediction for prediction in found if prediction.error is None]
        np.testing.assert_allclose(values(readable), values([p for p in expected if p.error is None]), atol=1e-5)


def test_views_of_several_videos_share_a_forward_pass(
    tiny_runs: TinyRuns, video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = load_predictor(tiny_runs.vce, num_segments=2, num_crops=3, batch_size=8)
    batches = []
    model = predictor.networks["vce"].model
    model.register_forward_hook(lambda module, inputs, output: batches.append(len(output)))
    assert len(predictor([video] * 4)) == 4
    assert batches == [8, 8, 8]


def test_a_stream_reads_at_most_one_batch_ahead(both: Predictor, video: Path) -> None:
    requested: list[int] = []

    def videos() -> Any:
        for number in range(100):
            requested.append(number)
            yield video

    stream = both.stream(videos())
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert len(requested) <= both.flags.batch_size + 1


@pytest.mark.parametrize("kind", CONTAINERS)
def test_every_container_and_codec_is_predicted_alike(both: Predictor, video: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"moving.{kind}"
    options = {} if kind != "webm" else {"codec_options": {"crf": "4", "b": "4M"}}
    write_video(path, moving_frames(50, width=96), fps=10, codec=CONTAINERS[kind], **options)
    found, expected = both([path, video])
    assert found.error is None and found.duration_seconds == pytest.approx(5, rel=0.01)
    np.testing.assert_allclose(values([found]), values([expected]), atol=0.05)


def test_unreadable_videos_have_a_reason_and_do_not_affect_others(both: Predictor, video: Path, tmp_path: Path) -> None:
    for name, make in BAD_VIDEOS.items():
        make(tmp_path / f"{name}.mp4")
    bad = [*sorted(tmp_path.iterdir()), tmp_path, tmp_path / "missing.mp4"]
    mixed = [path for pair in zip(bad, [video] * len(bad), strict=True) for path in pair]
    predictions = both(mixed)
    assert [prediction.path for prediction in predictions] == mixed
    for prediction in predictions[::2]:
        assert prediction.error and prediction[1:4] == (None, None, None)
    good = values(predictions[1::2])
    np.testing.assert_allclose(good, np.broadcast_to(good[0], good.shape), atol=1e-5)


def test_a_video_that_hangs_its_decoder_is_unreadable_with_workers(
    tiny_runs: TinyRuns, video: Path, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe.txt")  # nothing ever comes out of it
    (tmp_path / "hanging.mp4").write_text("ffconcat version 1.0\nfile pipe.txt\n")
    predictor = load_predictor(tiny_runs.v2v, num_workers=1, decode_seconds=5)
    before, hanging, after = predictor([video, tmp_path / "hanging.mp4", video])
    assert hanging.error == "the reader did not answer within 5 s"
    assert before.score == pytest.approx(after.score, abs=1e-5)  # of batches of different sizes


def test_emotion_curves_equal_the_model_applied_to_each_window(tiny_runs: TinyRuns, video: Path) -> None:
    """An independent loop: the central square of every 4th of 16 frames, from every 5th frame (0.5 s) on."""
    predictor = load_predictor(tiny_runs.vce, batch_size=3)
    curves = predictor.over_time(video)
    model, transform = predictor.networks["vce"].model, ValidationTransform(40, 32)
    starts = range(0, 50 - 16 + 1, 5)
    with Video(video) as opened, torch.inference_mode():
        clips = torch.stack([transform(opened.frames_at(np.arange(start, start + 16, 4))) for start in starts])
        expected = model(clips).sigmoid().numpy()
    np.testing.assert_allclose(curves.intensities, expected, atol=1e-6)
    np.testing.assert_allclose(curves.times_seconds, [(start + 8) / 10 for start in starts])
    assert curves.scores is None and curves.emotions == predictor.emotions and curves.path == video
    assert np.ptp(curves.intensities, axis=0).max() > 1e-4  # the video moves, and so do the curves


def test_a_window_as_long_as_the_video_gives_the_score_of_the_video(
    tiny_runs: TinyRuns, both: Predictor, video: Path
) -> None:
    curves = both.over_time(video, window_seconds=5)
    assert curves.times_seconds.tolist() == [2.5]
    assert curves.scores == pytest.approx([both(video)[0].score], abs=1e-5)
    longer = both.over_time(video, window_seconds=60)
    assert longer.times_seconds.tolist() == [2.5] and longer.scores == pytest.approx(curves.scores)
    short = load_predictor(tiny_runs.v2v).over_time(video, hop_seconds=0.3)
    np.testing.assert_allclose(short.times_seconds, [2, 2.3, 2.6, 2.9])  # windows of 4 s
    assert short.intensities is None and short.emotions == () and short.scores is not None


def test_windows_of_a_video_that_only_pyav_reads_and_of_one_frame(both: Predictor, video: Path, tmp_path: Path) -> None:
    path = write_video(tmp_path / "moving.avi", moving_frames(50, width=96), fps=10, codec="mpeg4")
    found, expected = both.over_time(path, hop_seconds=0.05), both.over_time(video, hop_seconds=0.1)
    np.testing.assert_allclose(found.times_seconds, expected.times_seconds)  # no hop is shorter than a frame
    np.testing.assert_allclose(found.intensities, expected.intensities, atol=0.05)
    one_frame(tmp_path / "short.mp4")
    assert both.over_time(tmp_path / "short.mp4").scores == pytest.approx([both(tmp_path / "short.mp4")[0].score])
    with pytest.raises(UnreadableVideoError, match="no such file"):
        both.over_time(tmp_path / "missing.mp4")
    with pytest.raises(ValueError, match="--hop_seconds 0: must be above 0"):
        both.over_time(video, hop_seconds=0)


def test_precision_is_bf16_or_that_of_the_run(tiny_runs: TinyRuns, both: Predictor, video: Path) -> None:
    half = load_predictor([tiny_runs.vce, tiny_runs.v2v], precision="bf16")
    np.testing.assert_allclose(values(half(video)), values(both(video)), atol=0.03)
    assert np.abs(values(half(video)) - values(both(video))).max() > 0
    assert {network.precision for network in both.networks.values()} == {"fp32"}


def test_memory_is_flat_over_200_videos(both: Predictor, tmp_path: Path) -> None:
    video = write_video(tmp_path / "moving.mp4", moving_frames(12))

    def resident_mib() -> float:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    stream = both.stream([video] * 220)
    for _ in range(20):
        next(stream)
    before = resident_mib()
    assert sum(prediction.error is None for prediction in stream) == 200
    assert resident_mib() - before < 10


def test_settings_out_of_range_are_refused(tiny_runs: TinyRuns) -> None:
    for settings, message in (
        ({"batch_size": 0}, "--batch_size 0: must be at least 1"),
        ({"num_workers": -1}, "--num_workers -1: must be at least 0"),
        ({"num_crops": 0}, "--num_crops 0: must be at least 1"),
        ({"precision": "fp16"}, "--precision fp16 needs a GPU"),
    ):
        with pytest.raises(ValueError, match=message):
            load_predictor(tiny_runs.vce, device="cpu", **settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no checkpoint is given"):
        load_predictor([])
    with pytest.raises(ValueError, match="are both checkpoints of VCE; give one of VCE, one of V2V, or one of each"):
        load_predictor([tiny_runs.vce, tiny_runs.vce / "checkpoint-last.pth"])
