"""What fine-tuned networks say of videos: `load_predictor(checkpoints)(videos)` -> one Prediction a video.

N windows, K emotions, T frames, B clips.
"""

import dataclasses
import logging
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from VideoMAE.checkpoints.formats import inner
from VideoMAE.data.clip_sampling import sliding_starts
from VideoMAE.inference.clips import ReadClips, emotion_windows, preference_windows, read_videos
from VideoMAE.inference.config import NetworkFlags
from VideoMAE.inference.load import TASK_TITLES, TaskName, Trained, load_trained
from VideoMAE.training.backends import autocast, choose_precision
from VideoMAE.training.metrics import average_views
from VideoMAE.training.tasks import EmotionTask
from VideoMAE.video.reader import Video

logger = logging.getLogger(__name__)

PREFERENCE_WINDOW_SECONDS = 4.0
"""Window of `over_time` where only V2V's network is asked, which was trained on whole videos: as long as VCE's training
clips."""

Source = Path | str


class Prediction(NamedTuple):
    """What the networks say of one video; where it could not be read, only why."""

    path: Path
    intensities: dict[str, float] | None  # VCE: emotion -> [0, 1]; None without a VCE checkpoint
    score: float | None  # V2V: pleasantness, higher is more pleasant, no unit; None without a V2V checkpoint
    duration_seconds: float | None
    error: str | None  # why the video could not be read; then all else is None


class Curves(NamedTuple):
    """What the networks say of each window of one video."""

    path: Path
    times_seconds: np.ndarray  # (N,) middle of each window
    emotions: tuple[str, ...]
    intensities: np.ndarray | None  # (N, K)
    scores: np.ndarray | None  # (N,)


class Network:
    """A network on its device, and what it was trained for."""

    def __init__(self, trained: Trained, *, device: torch.device, precision: str, compile: bool) -> None:
        self.trained, self.device = trained, device
        self.precision = run_precision(trained, precision, device)
        self.model = trained.model.to(device)
        self._forward = torch.compile(self.model) if compile else self.model

    @torch.inference_mode()
    def __call__(self, clips: Tensor) -> np.ndarray:
        """Outputs, before any activation. (B, 3, T, H, W) -> (B, K) float32

        Raises:
            ValueError: they are not finite, or the GPU has no room.
        """
        try:
            with autocast(self.device, self.precision):
                outputs = self._forward(clips.to(self.device, non_blocking=True)).float().cpu().numpy()
        except torch.OutOfMemoryError as error:
            raise ValueError(f"no memory on the GPU for {len(clips)} clips; pass a smaller --batch_size") from error
        if not np.isfinite(outputs).all():
            raise ValueError(f"{self.trained.source}: the network's outputs are not finite; its weights are ruined")
        return outputs

    def answers(self, logits: np.ndarray) -> np.ndarray:
        """Intensities, or scores (K = 1), from the logits of each video's views, as the run's test has them. (V, views,
        K) -> (V, K)"""
        if self.trained.task == "v2v":
            return logits[:, 0]
        task = EmotionTask(loss=self.trained.recipe.loss)
        return task.probabilities(average_views(logits, average="logits"))


def run_precision(trained: Trained, precision: str, device: torch.device) -> str:
    """`auto` is what the run that trained the network asked for, where the device has it."""
    if precision == "auto":
        precision = inner(trained.config, "run").get("precision", "auto")
        if precision == "fp16" and device.type == "cpu":
            precision = "auto"
    return choose_precision(precision, device)


class ClipBatches:
    """Clips that wait for `batch_size` of them, and the outputs of those that went through, in the order they came."""

    def __init__(self, network: Callable[[Tensor], np.ndarray], batch_size: int) -> None:
        self.network, self.batch_size = network, batch_size
        self._clips: deque[Tensor] = deque()
        self._outputs: deque[np.ndarray] = deque()

    def add(self, clips: Tensor) -> None:
        """Takes a video's views; computes as soon as a batch is full."""
        self._clips.append(clips)
        while sum(map(len, self._clips)) >= self.batch_size:
            self._compute(self.batch_size)

    def flush(self) -> None:
        """Computes what is left."""
        if self._clips:
            self._compute(sum(map(len, self._clips)))

    @property
    def num_ready(self) -> int:
        """How many clips have gone through and were not taken yet."""
        return len(self._outputs)

    def take(self, num_views: int) -> np.ndarray:
        """Outputs of the next `num_views` clips, which must be ready. -> (num_views, K), or as the network gives"""
        return np.stack([self._outputs.popleft() for _ in range(num_views)])

    def _compute(self, num_clips: int) -> None:
        parts: list[Tensor] = []
        while num_clips:
            clips = self._clips.popleft()
            parts.append(clips[:num_clips])
            if len(clips) > num_clips:
                self._clips.appendleft(clips[num_clips:])
            num_clips -= len(parts[-1])
        self._outputs.extend(self.network(parts[0] if len(parts) == 1 else torch.cat(parts)))


class Predictor:
    """One network of VCE, one of V2V, or both, to be asked of any videos; see `load_predictor`."""

    def __init__(
        self,
        networks: Sequence[Network],
        *,
        batch_size: int,
        num_workers: int,
        decode_seconds: float,
        window_crops: int,
    ) -> None:
        self.networks: dict[TaskName, Network] = {network.trained.task: network for network in networks}
        self.tasks: tuple[TaskName, ...] = tuple(task for task in TASK_TITLES if task in self.networks)
        self.emotions: tuple[str, ...] = self.networks["vce"].trained.emotions if "vce" in self.networks else ()
        self.batch_size, self.num_workers, self.decode_seconds = batch_size, num_workers, decode_seconds
        self.window_crops = window_crops
        self._clips = ReadClips(
            emotion=self.networks["vce"].trained.emotion_clips() if "vce" in self.networks else None,
            preference=self.networks["v2v"].trained.preference_clips() if "v2v" in self.networks else None,
        )

    def __call__(self, videos: Source | Sequence[Source]) -> list[Prediction]:
        """What the networks say of each video, in order; one that cannot be read has its `error`."""
        return list(self.stream([videos] if isinstance(videos, (str, Path)) else videos))

    def stream(self, videos: Iterable[Source]) -> Iterator[Prediction]:
        """The same one after the other, as soon as they are there: views of several videos share a forward pass."""
        batches = {task: ClipBatches(self.networks[task], self.batch_size) for task in self.tasks}
        waiting: deque[tuple[Prediction, dict[TaskName, int]]] = deque()  # with how many views are to come
        paths = map(Path, videos)
        for path, clips in read_videos(
            paths, self._clips, num_workers=self.num_workers, decode_seconds=self.decode_seconds
        ):
            views: dict[TaskName, int] = {}
            parts: dict[TaskName, Tensor | None] = {"vce": clips.emotion, "v2v": clips.preference}
            for task, part in parts.items():
                if part is not None:
                    batches[task].add(part)
                    views[task] = len(part)
            waiting.append((Prediction(path, None, None, clips.duration_seconds, clips.error), views))
            yield from self._finished(waiting, batches)
        for of_task in batches.values():
            of_task.flush()
        yield from self._finished(waiting, batches)

    def _finished(
        self, waiting: deque[tuple[Prediction, dict[TaskName, int]]], batches: dict[TaskName, ClipBatches]
    ) -> Iterator[Prediction]:
        """The first of the waiting videos, as far as their outputs are there."""
        while waiting:
            prediction, views = waiting[0]
            for task in list(views):
                if batches[task].num_ready < views[task]:
                    return
                logits = batches[task].take(views.pop(task))
                values = self.networks[task].answers(logits[None])[0].tolist()
                if task == "vce":
                    prediction = prediction._replace(intensities=dict(zip(self.emotions, values, strict=True)))
                else:
                    prediction = prediction._replace(score=values[0])
                waiting[0] = (prediction, views)
            waiting.popleft()
            yield prediction

    def over_time(self, video: Source, *, window_seconds: float | None = None, hop_seconds: float = 0.5) -> Curves:
        """What the networks say of windows that slide over a video, `hop_seconds` apart, as long as they fit in.

        A window without `window_seconds` is as long as a clip of VCE's test (16 frames, every 4th of the video), or
        PREFERENCE_WINDOW_SECONDS without a VCE network; of a shorter video the whole is the only one. VCE's network
        sees the central square of each, unless `num_crops` was asked for.

        Raises:
            UnreadableVideoError: the video cannot be read.
            ValueError: a length that is not above 0.
        """
        path = Path(video)
        for name, value in (("window_seconds", window_seconds), ("hop_seconds", hop_seconds)):
            if value is not None and not value > 0:
                raise ValueError(f"--{name} {value:g}: must be above 0")
        times, values = np.empty(0), {}
        for task, network in self.networks.items():
            times, values[task] = self._slide(path, network, window_seconds=window_seconds, hop_seconds=hop_seconds)
        scores = values["v2v"][:, 0] if "v2v" in values else None
        return Curves(path, times, self.emotions, values.get("vce"), scores)

    def _slide(
        self, path: Path, network: Network, *, window_seconds: float | None, hop_seconds: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Middles of the windows in seconds, and one network's answers for each. -> (N,), (N, K)"""
        is_vce = network.trained.task == "vce"
        even = network.trained.preference_clips()
        crops = dataclasses.replace(network.trained.emotion_clips(), num_crops=self.window_crops)
        batches = ClipBatches(network, self.batch_size)
        with Video(path, size=None if is_vce else even.decode_size) as video:
            window_frames, num_frames, fps = self._window_frames(video.fps, window_seconds), video.num_frames, video.fps
            starts = sliding_starts(num_frames, window_frames=window_frames, hop_frames=hop_seconds * fps)
            windows = (
                emotion_windows(video, crops, starts, window_frames=window_frames)
                if is_vce
                else preference_windows(video, even, starts, window_frames=window_frames)
            )
            for views in windows:
                batches.add(views)
        batches.flush()
        logits = np.stack([batches.take(self.window_crops if is_vce else 1) for _ in starts])
        return (starts + min(window_frames, num_frames) / 2) / fps, network.answers(logits)

    def _window_frames(self, fps: float, window_seconds: float | None) -> float:
        if window_seconds is None and "vce" in self.networks:
            recipe = self.networks["vce"].trained.recipe
            return recipe.num_frames * recipe.sampling_rate
        return (window_seconds or PREFERENCE_WINDOW_SECONDS) * fps


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
    """A predictor with the network of a run's folder or of a checkpoint file, or with one of VCE and one of V2V.

    Args:
        checkpoints: folders of runs, or files: ours, the published fine-tuned form, or Hugging Face folders.
        device: auto, cpu, cuda or cuda:N.
        precision: fp32, bf16, fp16, or auto: the run's.
        compile: compile the networks at their first use, which takes minutes and a C++ compiler.
        num_segments: views of VCE's network along time. None: as many as the run's test took; V2V's sees one clip.
        num_crops: views along the long side, likewise.
        batch_size: clips in a forward pass; a video has num_segments x num_crops for VCE, one for V2V.
        num_workers: processes that read videos ahead, and that a video which hangs its decoder cannot stop; they need
            the main thread. 0: this process reads.
        decode_seconds: a worker that is at one video for longer is ended, and the video counts as unreadable.
        network_flags: what a checkpoint does not say of itself.

    Raises:
        ValueError: a checkpoint cannot be used, two of them are of the same task, or a setting cannot be.
    """
    sources = [checkpoints] if isinstance(checkpoints, (str, Path)) else list(checkpoints)
    for name, value, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0)):
        if value < least:
            raise ValueError(f"--{name} {value}: must be at least {least}")
    if not sources:
        raise ValueError("--checkpoint: no checkpoint is given")
    chosen = find_device(device)
    if compile and shutil.which(os.environ.get("CXX", "g++")) is None:
        raise ValueError("--compile needs a C++ compiler: apt-get install g++, or set CXX")
    networks: dict[TaskName, Network] = {}
    for source in sources:
        trained = load_trained(source, network_flags, num_segments=num_segments, num_crops=num_crops)
        task = trained.task
        if task in networks:
            raise ValueError(
                f"{networks[task].trained.source} and {trained.source} are both checkpoints of {TASK_TITLES[task]}; "
                "give one of VCE, one of V2V, or one of each"
            )
        networks[task] = Network(trained, device=chosen, precision=precision, compile=compile)
    return Predictor(
        list(networks.values()),
        batch_size=batch_size,
        num_workers=num_workers,
        decode_seconds=decode_seconds,
        window_crops=num_crops or 1,
    )


def find_device(device: str) -> torch.device:
    """The device of that name; auto is a GPU where there is one. Raises ValueError where torch sees none."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {device}: torch sees no GPU here")
    return torch.device(device)
