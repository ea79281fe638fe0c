"""Predictions of trained networks for videos: `load_predictor(checkpoints)(videos)` -> one Prediction per video.

B clips, N windows, V videos, K outputs.
"""

import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from VideoMAE.checkpoints.formats import nested_dict
from VideoMAE.cli import counted
from VideoMAE.data.clip_sampling import sliding_starts
from VideoMAE.inference.clips import open_video, read_videos, window_clips
from VideoMAE.inference.config import InferenceFlags, NetworkFlags
from VideoMAE.inference.load import LoadedNetwork, TaskName, load_for_inference
from VideoMAE.training.backends import autocast, choose_precision
from VideoMAE.training.metrics import average_views
from VideoMAE.training.tasks import EmotionTask

PREFERENCE_WINDOW_SECONDS = 4.0
"""Default window of `over_time` without a VCE network: the length of VCE's training clips."""

Source = Path | str


class Prediction(NamedTuple):
    """The predictions for one video. If it cannot be read, `error` is the reason and all fields but `path` are None."""

    path: Path
    intensities: dict[str, float] | None  # VCE: emotion -> [0, 1]; None without a VCE checkpoint
    score: float | None  # V2V: pleasantness, higher is more pleasant, no unit; None without a V2V checkpoint
    duration_seconds: float | None
    error: str | None


class Curves(NamedTuple):
    """The predictions for each window of one video."""

    path: Path
    times_seconds: np.ndarray  # (N,) middle of each window
    emotions: tuple[str, ...]
    intensities: np.ndarray | None  # (N, K)
    scores: np.ndarray | None  # (N,)


class Network:
    """A loaded network on its device. `forward` maps clips (B, 3, T, H, W) to logits (B, K); it may be replaced."""

    def __init__(self, loaded: LoadedNetwork, *, device: str, precision: str, compile: bool = False) -> None:
        """Raises ValueError if the device is missing or does not support the precision."""
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        elif device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"--device {device}: torch finds no GPU")
        self.loaded, self.device = loaded, torch.device(device)
        if precision == "auto":
            precision = nested_dict(loaded.config, "run").get("precision", "auto")
            if precision == "fp16" and self.device.type == "cpu":
                precision = "auto"
        self.precision = choose_precision(precision, self.device)
        self.model = loaded.model.to(self.device)
        self.forward: Callable[[Tensor], Tensor] = torch.compile(self.model) if compile else self.model

    @torch.inference_mode()
    def __call__(self, clips: Tensor) -> np.ndarray:
        """The result of `forward`, as float32. Raises ValueError if it is not finite, or the GPU is out of memory."""
        try:
            with autocast(self.device, self.precision):
                outputs = self.forward(clips.to(self.device, non_blocking=True)).float().cpu().numpy()
        except torch.OutOfMemoryError as error:
            raise ValueError(
                f"out of GPU memory with {counted(len(clips), 'clip')}; pass a smaller --batch_size"
            ) from error
        if not np.isfinite(outputs).all():
            raise ValueError(f"{self.loaded.source}: the network's outputs are not finite; the weights are unusable")
        return outputs

    def predictions(self, logits: np.ndarray) -> np.ndarray:
        """Intensities, or scores (K = 1), as the run's test computes them. (V, views, K) -> (V, K)"""
        if self.loaded.task == "v2v":
            return logits[:, 0]
        return EmotionTask(loss=self.loaded.recipe.loss).probabilities(average_views(logits, average="logits"))


class ClipBatches:
    """Groups clips into batches of `batch_size`; `outputs` has the results that are not yet taken, in order."""

    def __init__(self, network: Callable[[Tensor], np.ndarray], batch_size: int) -> None:
        self.network, self.batch_size = network, batch_size
        self.outputs: deque[np.ndarray] = deque()
        self._clips: list[Tensor] = []  # waiting, (3, T, H, W) each

    def add(self, clips: Tensor) -> None:
        """Adds the views of a video; computes every full batch."""
        self._clips += clips
        while len(self._clips) >= self.batch_size:
            self.flush(self.batch_size)

    def flush(self, num_clips: int | None = None) -> None:
        """Computes the first of the waiting clips. None: all."""
        batch = self._clips[:num_clips]
        del self._clips[:num_clips]
        if batch:
            self.outputs.extend(self.network(torch.stack(batch)))

    def take(self, num_views: int) -> np.ndarray:
        """Removes and returns the next outputs, which must be ready, -> (num_views, ...)."""
        return np.stack([self.outputs.popleft() for _ in range(num_views)])


class VideoOutputs(NamedTuple):
    """The networks' outputs for one video. If it cannot be read, `error` is the reason and there are no outputs."""

    path: Path
    outputs: dict[TaskName, np.ndarray]  # (views, ...)
    duration_seconds: float | None
    error: str | None


def stream_outputs(
    paths: Iterable[Path], networks: Mapping[TaskName, Network], flags: InferenceFlags
) -> Iterator[VideoOutputs]:
    """Applies each network to the clips of its task, in order; views of several videos share a forward pass."""
    batches = {task: ClipBatches(network, flags.batch_size) for task, network in networks.items()}
    pending: deque[tuple[VideoOutputs, dict[TaskName, int]]] = deque()  # with the number of views

    def completed() -> Iterator[VideoOutputs]:
        while pending and all(len(batches[task].outputs) >= number for task, number in pending[0][1].items()):
            video, num_views = pending.popleft()
            yield video._replace(outputs={task: batches[task].take(number) for task, number in num_views.items()})

    clips_of_tasks = {task: network.loaded.clips() for task, network in networks.items()}
    for path, clips in read_videos(paths, clips_of_tasks, flags):
        num_views: dict[TaskName, int] = {}
        for task in networks if clips.error is None else ():
            views = getattr(clips, task)
            batches[task].add(views)
            num_views[task] = len(views)
        pending.append((VideoOutputs(path, {}, clips.duration_seconds, clips.error), num_views))
        yield from completed()
    for task_batches in batches.values():
        task_batches.flush()
    yield from completed()


class Predictor:
    """Predicts with a VCE network, a V2V network, or both; see `load_predictor`."""

    def __init__(self, networks: Mapping[TaskName, Network], flags: InferenceFlags) -> None:
        self.networks, self.flags, self.tasks = networks, flags, tuple(networks)
        self.emotions: tuple[str, ...] = networks["vce"].loaded.emotions if "vce" in networks else ()

    def __call__(self, videos: Source | Sequence[Source]) -> list[Prediction]:
        """The prediction for each video, in order."""
        return list(self.stream([videos] if isinstance(videos, (str, Path)) else videos))

    def stream(self, videos: Iterable[Source]) -> Iterator[Prediction]:
        """The prediction for each video, in order, as soon as it is computed."""
        for path, outputs, duration_seconds, error in stream_outputs(map(Path, videos), self.networks, self.flags):
            values = {
                task: self.networks[task].predictions(logits[None])[0].tolist() for task, logits in outputs.items()
            }
            intensities = dict(zip(self.emotions, values["vce"], strict=True)) if "vce" in values else None
            score = values["v2v"][0] if "v2v" in values else None
            yield Prediction(path, intensities, score, duration_seconds, error)

    def over_time(self, video: Source, *, window_seconds: float | None = None, hop_seconds: float = 0.5) -> Curves:
        """The predictions for a window that slides over a video.

        The VCE network sees the central square of each window, or `num_crops` crops. A video shorter than the window
        has one window.

        Args:
            window_seconds: None: a clip of VCE's test (16 frames, every 4th of the video), or
                PREFERENCE_WINDOW_SECONDS without a VCE network.
            hop_seconds: distance between windows.

        Raises:
            UnreadableVideoError: the video cannot be read.
            ValueError: a length is not above 0.
        """
        path = Path(video)
        for name, value in (("window_seconds", window_seconds), ("hop_seconds", hop_seconds)):
            if value is not None and not value > 0:
                raise ValueError(f"--{name} {value:g}: must be above 0")
        values: dict[TaskName, np.ndarray] = {}
        for task, network in self.networks.items():
            clips = network.loaded.clips(num_crops=self.flags.num_crops or 1)
            batches = ClipBatches(network, self.flags.batch_size)
            with open_video(path, clips) as opened:
                num_frames, fps = opened.num_frames, opened.fps
                window_frames = (window_seconds or PREFERENCE_WINDOW_SECONDS) * fps
                if window_seconds is None and "vce" in self.networks:
                    recipe = self.networks["vce"].loaded.recipe
                    window_frames = recipe.num_frames * recipe.sampling_rate
                starts = sliding_starts(num_frames, window_frames=window_frames, hop_frames=hop_seconds * fps)
                for views in window_clips(opened, clips, starts, window_frames=window_frames):
                    batches.add(views)
            batches.flush()
            values[task] = network.predictions(np.stack([batches.take(len(views)) for _ in starts]))
        times = (starts + min(window_frames, num_frames) / 2) / fps
        scores = values["v2v"][:, 0] if "v2v" in values else None
        return Curves(path, times, self.emotions, values.get("vce"), scores)


def load_predictor(
    checkpoints: Source | Sequence[Source],
    *,
    device: str = "auto",
    precision: str = "auto",
    compile: bool = False,
    num_segments: int | None = None,
    num_crops: int | None = None,
    batch_size: int = 8,
    num_workers: int = 0,
    decode_seconds: float = 120.0,
    network_flags: NetworkFlags | None = None,
) -> Predictor:
    """Loads a predictor with a VCE network, a V2V network, or one of each.

    The keyword arguments correspond to the flags of `emodiversity predict`; see PredictConfig.

    Args:
        checkpoints: output folders of runs, checkpoint files, or Hugging Face folders.
        device: auto, cpu, cuda or cuda:N.
        num_workers: may be above 0 only in the main thread.

    Raises ValueError if a checkpoint cannot be used, two are of the same task, or a setting is out of range.
    """
    sources = [checkpoints] if isinstance(checkpoints, (str, Path)) else list(checkpoints)
    for name, value, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0)):
        if value < least:
            raise ValueError(f"--{name} {value}: must be at least {least}")
    if not sources:
        raise ValueError("--checkpoint: no checkpoint is given")
    if compile and shutil.which(os.environ.get("CXX", "g++")) is None:
        raise ValueError("--compile needs a C++ compiler: apt-get install g++, or set CXX")
    networks: dict[TaskName, Network] = {}
    for source in sources:
        loaded = load_for_inference(source, network_flags, num_segments=num_segments, num_crops=num_crops)
        if loaded.task in networks:
            raise ValueError(
                f"{networks[loaded.task].loaded.source} and {loaded.source} are both checkpoints of "
                f"{loaded.task.upper()}; give one of VCE, one of V2V, or one of each"
            )
        networks[loaded.task] = Network(loaded, device=device, precision=precision, compile=compile)
    flags = InferenceFlags(num_segments, num_crops, batch_size, num_workers, decode_seconds)
    return Predictor(dict(sorted(networks.items(), reverse=True)), flags)  # VCE first
