"""Opening videos and decoding windows of them, by each decoder, beside bare decord; on a film as a web site encodes it
and on a copy for random access. By hand, memory and threads over many opened videos.

python tests/benchmarks/benchmark_reader.py
python tests/benchmarks/benchmark_reader.py --soak 5000 --decoder pyav
"""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from pathlib import Path
from statistics import mean, median

import av
import decord
import numpy as np
import tyro
from benchmarking import memory_mb, say, time_interleaved, use_threads, write_film

from VideoMAE.data.clip_sampling import evenly_spaced, random_fps_window, random_window
from VideoMAE.video.reader import DecoderName, Video, VideoInfo, probe

CLIP_LEN, STRIDE, CLIP_FPS, SIZE = 16, 4, 4.0, 224
COPY_SHORT_SIDE, COPY_KEY_FRAMES = 256, 16
WATCH_EVERY, SOAK_SECONDS = 500, 2


def write_copy(source: Path, target: Path) -> Path:
    """The film at a shorter side, with a key frame every few frames, for random access."""
    with av.open(str(source)) as film, av.open(str(target), "w") as copy:
        given = film.streams.video[0]
        width = round(given.width * COPY_SHORT_SIDE / given.height / 2) * 2
        options = {"crf": "20", "preset": "medium", "x264-params": f"keyint={COPY_KEY_FRAMES}:open-gop=0"}
        stream = copy.add_stream("libx264", rate=given.average_rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, COPY_SHORT_SIDE, "yuv420p"
        for frame in film.decode(given):
            scaled = frame.reformat(width=width, height=COPY_SHORT_SIDE, interpolation="BICUBIC")
            scaled.pict_type = 0  # the encoder chooses
            copy.mux(stream.encode(scaled))
        copy.mux(stream.encode(None))
    say(f"copy: {width} x {COPY_SHORT_SIDE}, a key frame every {COPY_KEY_FRAMES}, {target.stat().st_size / 1e6:.2f} MB")
    return target


def windows(info: VideoInfo, kind: str) -> list[np.ndarray]:
    """The same draws for every decoder."""
    rng = np.random.default_rng(0)
    if kind == "evenly spaced":
        return [evenly_spaced(info.num_frames, clip_len=CLIP_LEN)]
    if kind == "stride 4":
        return [random_window(info.num_frames, clip_len=CLIP_LEN, stride=STRIDE, rng=rng) for _ in range(20)]
    return [
        random_fps_window(info.num_frames, video_fps=info.fps, clip_len=CLIP_LEN, clip_fps=CLIP_FPS, rng=rng)
        for _ in range(20)
    ]


def read(path: Path, decoder: DecoderName, known: VideoInfo, indices: Iterator[np.ndarray]) -> np.ndarray:
    with Video(path, decoder=decoder, info=known) as video:
        return video.frames_at(next(indices))


def read_by_decord(path: Path, indices: Iterator[np.ndarray]) -> np.ndarray:
    return decord.VideoReader(str(path), num_threads=1).get_batch(next(indices)).asnumpy()


def say_table(title: str, functions: dict[str, Callable[[], object]], repeats: int) -> None:
    """Mean and median CPU milliseconds of each, and how many times as fast as the first it is."""
    seconds = time_interleaved(functions, repeats=repeats)
    say(title)
    floor = mean(next(iter(seconds.values())))
    for name, values in seconds.items():
        speed = floor / mean(values)
        say(f"  {name:22} mean {mean(values) * 1e3:7.2f} ms   median {median(values) * 1e3:7.2f} ms   {speed:5.2f} x")


def compare(path: Path, decoders: list[DecoderName], repeats: int) -> None:
    known = probe(path)
    opens: dict[str, Callable[[], object]] = {
        "floor: bare decord": lambda: decord.VideoReader(str(path), num_threads=1),
        "the check (probe)": partial(probe, path),
    }
    for name in decoders:
        opens[f"{name}, unknown file"] = lambda name=name: Video(path, decoder=name).close()
        opens[f"{name}, checked file"] = lambda name=name: Video(path, decoder=name, info=known).close()
    say_table("opening", opens, repeats)
    for kind in ("stride 4", "4 fps", "evenly spaced"):
        drawn = windows(known, kind)
        functions: dict[str, Callable[[], object]] = {"floor: bare decord": partial(read_by_decord, path, cycle(drawn))}
        for name in decoders:
            functions[name] = partial(read, path, name, known, cycle(drawn))
        say_table(f"opening and {CLIP_LEN} frames, {kind}", functions, repeats)
    frames = [read(path, name, known, cycle(drawn)) for name in decoders]
    largest = max(int(np.abs(other.astype(int) - frames[0]).max()) for other in frames)
    say(f"largest difference between the decoders' frames: {largest} of 255")


def compare_sizes(path: Path, repeats: int) -> None:
    """What squashing while decoding saves, for V2V's clips and were training's decoded to a smaller size."""
    info = probe(path)
    drawn, half = windows(info, "evenly spaced"), (info.height // 2, info.width // 2)
    functions: dict[str, Callable[[], object]] = {}
    for name, size in (("own size", None), (f"{SIZE} x {SIZE}", (SIZE, SIZE)), (f"{half[0]} x {half[1]}", half)):
        functions[name] = lambda size=size: Video(path, size=size, decoder="pyav").frames_at(drawn[0])
    say_table("16 evenly spaced frames by PyAV, squashed while decoding", functions, repeats)


def watch(path: Path, num_opens: int, decoder: DecoderName) -> None:
    """What this process holds while it opens the film again and again and reads four frames."""
    known, rng = probe(path), np.random.default_rng(0)
    held: list[float] = []
    for number in range(1, num_opens + 1):
        with Video(path, decoder=decoder, info=known) as video:
            video.frames_at(random_window(video.num_frames, clip_len=4, stride=4, rng=rng))
        if number % WATCH_EVERY == 0:
            gc.collect()
            held.append(memory_mb("VmRSS"))
            threads, files = (len(list(Path(f"/proc/self/{what}").iterdir())) for what in ("task", "fd"))
            say(f"{number:6d} opened: {held[-1]:8.1f} MB held, {threads} threads, {files} open files")
    say(f"{decoder}: memory at the end / at {WATCH_EVERY}: {100 * (held[-1] / held[0] - 1):+.1f} %")


def main(*, repeats: int = 20, soak: int = 0, decoder: DecoderName = "decord") -> None:
    """Time all in turn, on one thread.

    Args:
        repeats: timed calls of each.
        soak: above 0, open a short film so many times instead and show the memory held.
        decoder: of the soak.
    """
    use_threads(1)
    decoders: list[DecoderName] = ["decord", "pyav"]
    with tempfile.TemporaryDirectory() as folder:
        if soak:
            watch(write_film(Path(folder) / "film.mp4", seconds=SOAK_SECONDS), soak, decoder)
            return
        film = write_film(Path(folder) / "film.mp4")
        compare(film, decoders, repeats)
        compare_sizes(film, repeats)
        compare(write_copy(film, Path(folder) / "copy.mp4"), decoders, repeats)


if __name__ == "__main__":
    tyro.cli(main, use_underscores=True)
