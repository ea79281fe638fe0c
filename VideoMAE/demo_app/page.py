"""The demo's page and its endpoints for programs, in Gradio."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from VideoMAE.demo_app.answers import Answers, problem
from VideoMAE.demo_app.videos import SeenVideo, Uploads

IN_TURN = "model"  # one queue for everything that decodes or computes
MAX_WAITING = 100
HINT = '<div class="emo-card emo-hint">Drop a video, or pick an example.</div>'

Outputs = tuple[None, str, str]  # the emptied upload field, the result, the curves


def upload_field(uploads: Uploads, label: str, **options: Any) -> gr.File:
    """A field that takes only what was uploaded to this page: no address to download, no path of a file on the server.

    Not a subclass: Gradio writes a stub file beside the source of each class of components.
    """

    def own(path: str | Path) -> str:
        try:
            return str(uploads.own(path))
        except (ValueError, OSError) as error:
            raise gr.Error(str(error), print_exception=False) from error

    async def keep_in_place(path: str | Path | None) -> str | None:
        return None if path is None else own(path)

    def preprocess(payload: Any) -> str | None:
        return None if payload is None else own(payload.path)

    field = gr.File(label=label, file_count="single", **options)
    vars(field).update(
        async_move_resource_to_block_cache=keep_in_place,
        preprocess=preprocess,
        example_payload=lambda: {"path": "video.mp4", "meta": {"_type": "gradio.FileData"}},
    )
    return field


class Page:
    """What happens on the page. Uploads are removed when their request is answered, or has failed."""

    def __init__(self, answers: Answers, uploads: Uploads, examples: Sequence[SeenVideo], *, max_upload_mb: float):
        self.answers = answers
        self.uploads = uploads
        self.examples = list(examples)
        self.max_upload_mb = max_upload_mb

    def build(self) -> gr.Blocks:
        with gr.Blocks(title="How would the viewer feel?", analytics_enabled=False) as blocks:
            gr.HTML(self._head(), elem_classes="emo-head")
            with gr.Tab("One video"):
                self._build_one()
            with gr.Tab("Compare two"):
                self._build_two()
            self._build_api()
        return blocks.queue(max_size=MAX_WAITING, default_concurrency_limit=1)

    def _head(self) -> str:
        """What the model is, what it is not, how good it was, and whose weights it may hold."""
        tasks, reference = self.answers.predictor.tasks, self.answers.reference
        told = {"vce": "which emotions they felt", "v2v": "which they found more pleasant"}
        source = f"{' and '.join(task.upper() for task in tasks)}, short videos whose viewers told "
        source += " and ".join(told[task] for task in tasks)
        if reference.is_drawn:
            source = "a small drawn sample, not from real videos and viewers"
        tested = f"In its test: {escape('; '.join(reference.facts))}. " if reference.facts else ""
        return (
            f"<h1>How would the viewer feel?</h1><p>The model learned from {source}. It guesses what viewers report "
            f"on average, not what you feel, and may be wrong.</p><p>{tested}Weights that stem from the published "
            f"VideoMAE ones are CC BY-NC 4.0, not for commercial use.</p>"
        )

    def _build_one(self) -> None:
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=280):
                limits = f"up to {self.max_upload_mb:g} MB and {self.answers.max_seconds:g} s"
                upload = upload_field(self.uploads, f"A video, {limits}", elem_id="one-video", height=150)
                gallery = None
                if self.examples:
                    gallery = gr.Gallery(
                        [(seen.thumbnail(), seen.name) for seen in self.examples],
                        label="Examples", columns=4, height="auto", object_fit="cover", allow_preview=False,
                        elem_id="examples", buttons=[], interactive=False,
                    )  # fmt: skip
                gr.HTML('<p class="emo-foot">The file is removed from the server once it is answered.</p>')
            with gr.Column(scale=2, min_width=320):
                result, time = gr.HTML(HINT, elem_id="one-result"), gr.HTML(elem_id="one-time")
        outputs = [upload, result, time]
        upload.upload(self.about_upload, upload, outputs, api_visibility="private", concurrency_id=IN_TURN)
        if gallery is not None:
            gallery.select(self.about_example, None, outputs, api_visibility="private", concurrency_id=IN_TURN)

    def _build_two(self) -> None:
        names = [seen.name for seen in self.examples]
        fields: list[gr.components.Component] = []
        with gr.Row(equal_height=False):
            for letter in "AB":
                with gr.Column(min_width=280):
                    fields.append(upload_field(self.uploads, f"Video {letter}", elem_id=f"two-{letter}", height=130))
                    fields.append(
                        gr.Dropdown(names, value=None, label=f"or an example as {letter}", visible=bool(names))
                    )
        button = gr.Button("Compare", variant="primary")
        result = gr.HTML(elem_id="two-result")
        outputs = [fields[0], fields[2], result]
        button.click(self.about_two, fields, outputs, api_visibility="private", concurrency_id=IN_TURN)

    def _build_api(self) -> None:
        first, second = (
            upload_field(self.uploads, "video", visible=False),
            upload_field(self.uploads, "second", visible=False),
        )
        values = gr.JSON(visible=False)
        for function in self._endpoints():
            inputs = [first, second] if function == self.compare else [first]
            gr.Button(visible=False).click(function, inputs, values, api_name=function.__name__, concurrency_id=IN_TURN)

    def _endpoints(self) -> list[Callable[..., dict[str, Any]]]:
        return [self.predict, self.over_time, self.compare]

    def described_endpoints(self) -> dict[str, str]:
        """What each of the endpoints for programs gives, by name."""
        return {function.__name__: function.__doc__ or "" for function in self._endpoints()}

    def about_upload(self, upload: str | None) -> Iterator[Outputs]:
        """The result, then the curves too, or what is wrong with the video."""
        if upload is None:
            yield None, HINT, ""
            return
        with self.uploads.taken(upload) as (path,):
            try:
                seen = self.answers.see(path)
                yield from self._about(seen)
            except ValueError as error:
                yield None, problem(str(error)), ""

    def about_example(self, event: gr.SelectData) -> Iterator[Outputs]:
        try:
            yield from self._about(self.examples[event.index])
        except ValueError as error:
            yield None, problem(str(error)), ""

    def _about(self, seen: SeenVideo) -> Iterator[Outputs]:
        result = self.answers.about(seen, self.answers.predict(seen))
        yield None, result, '<div class="emo-card emo-hint">Looking at it piece by piece ...</div>'
        yield None, result, self.answers.about_time(seen, self.answers.over_time(seen))

    def about_two(
        self, first: str | None, first_example: str | None, second: str | None, second_example: str | None
    ) -> tuple[None, None, str]:
        """The comparison, or what is missing or wrong; an upload comes before an example."""
        with self.uploads.taken(*[upload for upload in (first, second) if upload]):
            try:
                seen = [self._chosen(first, first_example, "A"), self._chosen(second, second_example, "B")]
                (a, b) = [(video, self.answers.predict(video)) for video in seen]
                return None, None, self.answers.about_two(a, b)
            except ValueError as error:
                return None, None, problem(str(error))

    def _chosen(self, upload: str | None, example: str | None, letter: str) -> SeenVideo:
        if upload:
            return self.answers.see(Path(upload))
        for seen in self.examples:
            if seen.name == example:
                return seen
        raise ValueError(f"Choose a video {letter}.")

    def predict(self, video: str) -> dict[str, Any]:
        """The intensity of each emotion and the score of a video; null where no checkpoint tells it."""
        with self._answered(video) as (path,):
            seen = self.answers.see(path)
            return self.answers.as_values(seen, self.answers.predict(seen))

    def over_time(self, video: str) -> dict[str, Any]:
        """The same for windows of the video: intensities has a row per window and a column per emotion."""
        with self._answered(video) as (path,):
            seen = self.answers.see(path)
            found = self.answers.over_time(seen)
            return {
                "video": seen.name,
                "times_seconds": found.times_seconds.tolist(),
                "emotions": list(found.emotions),
                "intensities": None if found.intensities is None else found.intensities.tolist(),
                "scores": None if found.scores is None else found.scores.tolist(),
            }

    def compare(self, first: str, second: str) -> dict[str, Any]:
        """Both predictions, which video is more pleasant, and how the second's intensities differ."""
        with self._answered(first, second) as paths:
            seen = [self.answers.see(path) for path in paths]
            a, b = [self.answers.predict(video) for video in seen]
            values = {"first": self.answers.as_values(seen[0], a), "second": self.answers.as_values(seen[1], b)}
            return values | self.answers.compared(a, b)

    @contextmanager
    def _answered(self, *uploads: str | None) -> Iterator[list[Path]]:
        """A program's request: its files are removed, and a ValueError becomes the sentence that its client raises."""
        try:
            with self.uploads.taken(*[upload for upload in uploads if upload is not None]) as paths:
                if len(paths) < len(uploads):
                    raise ValueError("a video is missing: send one with gradio_client.handle_file(PATH)")
                yield paths
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error
