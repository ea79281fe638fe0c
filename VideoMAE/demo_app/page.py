"""The demo's page and its endpoints for programs, in Gradio, and the server, which limits and removes uploads."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect

from VideoMAE.demo_app.answers import Answers, to_html
from VideoMAE.demo_app.videos import DemoVideo, Uploads, safe_name
from VideoMAE.files import to_jsonable
from VideoMAE.reporting.page import ENVIRONMENT, TEMPLATES

QUEUE = "model"  # one queue for all that decodes or computes
MAX_WAITING = 100
HINT = to_html("hint", "Upload a video, or select an example.")
MEGABYTE = 2**20
MULTIPART_BYTES = 16_384  # of a form besides its file
MAX_FILES = 2  # in one form
KEEP_SECONDS, SWEEP_SECONDS = 3600.0, 60.0
SHUTDOWN_SECONDS = 3
FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Liberation Sans", "sans-serif"]
# Browsers refuse to load anything from other sites. Gradio's own scripts are inline and use eval.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:"
)


def upload_field(uploads: Uploads, label: str, **options: Any) -> gr.File:
    """A file field that accepts only uploads to this page: no URLs, no paths of the server."""

    def checked(path: str | Path) -> str:
        try:
            return str(uploads.checked(path))
        except (ValueError, OSError) as error:
            raise gr.Error(str(error), print_exception=False) from error

    async def keep_in_place(path: str | Path | None) -> str | None:
        return None if path is None else checked(path)

    field = gr.File(label=label, file_count="single", **options)  # for a subclass, Gradio would write a stub file
    vars(field).update(
        async_move_resource_to_block_cache=keep_in_place,
        preprocess=lambda payload: None if payload is None else checked(payload.path),
        example_payload=lambda: {"path": "video.mp4", "meta": {"_type": "gradio.FileData"}},
    )
    return field


@dataclass(frozen=True, eq=False)
class Page:
    """The page and its events. Uploads are removed at the end of their request."""

    answers: Answers
    uploads: Uploads
    examples: Sequence[DemoVideo]
    max_upload_mb: float

    @property
    def endpoints(self) -> list[Callable[..., dict[str, Any]]]:
        return [self.predict, self.over_time, self.compare]

    def build(self) -> gr.Blocks:
        with gr.Blocks(title="How would the viewer feel?", analytics_enabled=False) as blocks:
            gr.HTML(self.answers.head_html(), elem_classes="emo-head")
            with gr.Tab("One video"), gr.Row(equal_height=False):
                with gr.Column(scale=1, min_width=280):
                    limits = f"up to {self.max_upload_mb:g} MB and {self.answers.max_seconds:g} s"
                    upload = upload_field(self.uploads, f"A video, {limits}", elem_id="one-video", height=150)
                    gallery = gr.Gallery(
                        [(video.thumbnail, video.name) for video in self.examples],
                        label="Examples",
                        columns=4,
                        height="auto",
                        object_fit="cover",
                        allow_preview=False,
                        elem_id="examples",
                        buttons=[],
                        interactive=False,
                        visible=bool(self.examples),
                    )
                    gr.HTML('<p class="emo-foot">The server deletes the file after the prediction.</p>')
                with gr.Column(scale=2, min_width=320):
                    outputs = [upload, gr.HTML(HINT, elem_id="one-result"), gr.HTML(elem_id="one-time")]
            upload.upload(self.show_upload, upload, outputs, api_visibility="private", concurrency_id=QUEUE)
            gallery.select(self.show_example, None, outputs, api_visibility="private", concurrency_id=QUEUE)
            names = [video.name for video in self.examples]
            fields: list[gr.components.Component] = []
            with gr.Tab("Compare two"):
                with gr.Row(equal_height=False):
                    for side in "AB":
                        with gr.Column(min_width=280):
                            fields.append(
                                upload_field(self.uploads, f"Video {side}", elem_id=f"two-{side}", height=130)
                            )
                            label = f"or an example as {side}"
                            fields.append(gr.Dropdown(names, value=None, label=label, visible=bool(names)))
                button = gr.Button("Compare", variant="primary")
                outputs = [fields[0], fields[2], gr.HTML(elem_id="two-result")]
            button.click(self.show_comparison, fields, outputs, api_visibility="private", concurrency_id=QUEUE)
            videos = [upload_field(self.uploads, name, visible=False) for name in ("video", "second")]
            values = gr.JSON(visible=False)
            for endpoint, inputs in zip(self.endpoints, (videos[:1], videos[:1], videos), strict=True):
                button, name = gr.Button(visible=False), endpoint.__name__
                button.click(endpoint, inputs, values, api_name=name, concurrency_id=QUEUE)
        return blocks.queue(max_size=MAX_WAITING, default_concurrency_limit=1)

    def show_upload(self, upload: str | None) -> Iterator[tuple[None, str, str]]:
        """An emptied upload field and the prediction, then the curves too, or the reason why the video is rejected."""
        if upload is None:
            yield None, HINT, ""
            return
        with self.uploads.removed_after(upload) as (path,):
            yield from self._show(lambda: self.answers.probe(path))

    def show_example(self, event: gr.SelectData) -> Iterator[tuple[None, str, str]]:
        yield from self._show(lambda: self.examples[event.index])

    def _show(self, open_video: Callable[[], DemoVideo]) -> Iterator[tuple[None, str, str]]:
        try:
            video = open_video()
            result = self.answers.html(video, self.answers.predict(video))
            yield None, result, to_html("hint", "Computing the curves over time ...")
            yield None, result, self.answers.curves_html(video, self.answers.over_time(video))
        except ValueError as error:
            yield None, to_html("problem", str(error)), ""

    def show_comparison(
        self, first: str | None, first_example: str | None, second: str | None, second_example: str | None
    ) -> tuple[None, None, str]:
        """The comparison, or the reason why a video is missing or rejected; an upload replaces an example."""
        examples = {video.name: video for video in reversed(self.examples)}
        with self.uploads.removed_after(*filter(None, (first, second))):
            try:
                videos = []
                for letter, upload, example in (("A", first, first_example), ("B", second, second_example)):
                    if not upload and example not in examples:
                        raise ValueError(f"Select a video {letter}.")
                    videos.append(self.answers.probe(Path(upload)) if upload else examples[example or ""])
                a, b = [(video, self.answers.predict(video)) for video in videos]
                return None, None, self.answers.comparison_html(a, b)
            except ValueError as error:
                return None, None, to_html("problem", str(error))

    def predict(self, video: str) -> dict[str, Any]:
        """The intensity of each emotion and the score of a video; null without a checkpoint of that task."""
        with self._request(video) as (opened,):
            return self.answers.values(opened, self.answers.predict(opened))

    def over_time(self, video: str) -> dict[str, Any]:
        """The same for windows of the video: intensities has a row per window and a column per emotion."""
        with self._request(video) as (opened,):
            found = to_jsonable(self.answers.over_time(opened)._asdict())
            del found["path"]  # of the server
            return {"video": opened.name, **found}

    def compare(self, first: str, second: str) -> dict[str, Any]:
        """Both predictions, the more pleasant video, and the differences of the second's intensities."""
        with self._request(first, second) as videos:
            a, b = [self.answers.predict(video) for video in videos]
            values = {"first": self.answers.values(videos[0], a), "second": self.answers.values(videos[1], b)}
            return values | self.answers.compare(a, b)

    @contextmanager
    def _request(self, *uploads: str | None) -> Iterator[list[DemoVideo]]:
        """The videos of a program's request, removed at the end; a ValueError becomes the client's error."""
        try:
            if None in uploads:
                raise ValueError("a video is missing: send one with gradio_client.handle_file(PATH)")
            with self.uploads.removed_after(*filter(None, uploads)) as paths:
                yield [self.answers.probe(path) for path in paths]
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error


def make_server(page: Page) -> uvicorn.Server:
    """The page, the description of its endpoints at /api, and an upload route that replaces Gradio's. The server runs
    until Ctrl-C or SIGTERM, which raise KeyboardInterrupt.

    Gradio names an uploaded file by its content, so equal uploads of two people are one file, and removing it after the
    first request would fail the second.
    """
    max_bytes = int(page.max_upload_mb * MEGABYTE)

    async def sweep() -> None:
        """Periodically removes uploads that no request used."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            await run_in_threadpool(page.uploads.remove_older_than, time.time() - KEEP_SECONDS)

    @asynccontextmanager
    async def sweeping(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(sweep())
        yield
        task.cancel()

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=sweeping)

    @app.get("/api")
    async def api(request: Request) -> Response:
        endpoints = {endpoint.__name__: endpoint.__doc__ for endpoint in page.endpoints}
        template = ENVIRONMENT.get_template("demo_api.html")
        return HTMLResponse(template.render(url=str(request.base_url), endpoints=endpoints))

    @app.post("/gradio_api/upload")
    async def upload(request: Request) -> Response:
        length = request.headers.get("content-length", "")
        try:
            if length.isdigit() and int(length) <= max_bytes + MULTIPART_BYTES:
                return JSONResponse(await receive_files(request, page.uploads.folder))
            async for _ in request.stream():  # a client that is still sending would not read the response
                pass
            if length.isdigit():
                return PlainTextResponse(f"the file is larger than {page.max_upload_mb:g} MB", status_code=413)
            return PlainTextResponse("an upload needs a Content-Length header", status_code=411)
        except ClientDisconnect:
            return Response(status_code=400)  # not read

    @app.get("/gradio_api/upload_progress")
    async def upload_progress() -> Response:
        return Response('data: {"msg": "done"}\n\n', media_type="text/event-stream")  # progress is not reported

    blocks = page.build()
    gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        max_file_size=max_bytes,
        footer_links=["api", "settings"],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        css=(TEMPLATES / "demo.css").read_text(encoding="utf-8"),
        theme=gr.themes.Default(primary_hue="blue", font=FONTS, font_mono=["monospace"]),
    )
    # Gradio does not count a mounted page as launched, and skips its checks of paths for a page not launched
    blocks.has_launched = blocks.is_running = True
    headers = [("Content-Security-Policy", POLICY), ("Referrer-Policy", "no-referrer")]
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            ws="none",
            headers=headers,
        )
    )


async def receive_files(request: Request, uploads: Path) -> list[str]:
    """Saves the files of a form, each in its own subfolder; after a failure none is kept. -> their paths"""
    paths = []
    with ExitStack() as after_failure:
        async with request.form(max_files=MAX_FILES) as form:
            for part in form.getlist("files"):
                if isinstance(part, UploadFile):
                    folder = Path(tempfile.mkdtemp(dir=uploads))
                    after_failure.callback(shutil.rmtree, folder, ignore_errors=True)
                    paths.append(folder / safe_name(part.filename or ""))
                    with paths[-1].open("wb") as file:
                        await run_in_threadpool(shutil.copyfileobj, part.file, file)
        after_failure.pop_all()
    return list(map(str, paths))
