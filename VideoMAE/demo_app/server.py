"""The demo's server: Gradio's page, limited uploads that are removed, and a policy against loading from other sites."""

from __future__ import annotations

import asyncio
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import gradio as gr
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders, UploadFile
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from VideoMAE.demo_app.videos import Uploads, safe_name
from VideoMAE.reporting.page import TEMPLATES, render

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


class ContentSecurityPolicy:
    """Adds the policy to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = POLICY
                headers["Referrer-Policy"] = "no-referrer"
            await send(message)

        await self.app(scope, receive, with_policy)


def make_app(page: gr.Blocks, uploads: Uploads, *, max_upload_mb: float, endpoints: Mapping[str, str]) -> FastAPI:
    """The page, the description of its `endpoints` (by name) at /api, and an upload route that replaces Gradio's.

    Gradio names an uploaded file by its content, so equal uploads of two people are one file, and removing it after the
    first request would fail the second.
    """
    max_bytes = int(max_upload_mb * MEGABYTE)

    @asynccontextmanager
    async def sweeping(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(sweep(uploads))
        yield
        task.cancel()

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=sweeping)

    @app.get("/api")
    async def api(request: Request) -> Response:
        return HTMLResponse(render("demo_api.html", url=str(request.base_url), endpoints=endpoints))

    @app.post("/gradio_api/upload")
    async def upload(request: Request) -> Response:
        length = request.headers.get("content-length", "")
        try:
            if length.isdigit() and int(length) <= max_bytes + MULTIPART_BYTES:
                return JSONResponse(await receive_files(request, uploads))
            async for _ in request.stream():  # a client that is still sending would not read the response
                pass
            if length.isdigit():
                return PlainTextResponse(f"the file is larger than {max_upload_mb:g} MB", status_code=413)
            return PlainTextResponse("an upload needs a Content-Length header", status_code=411)
        except ClientDisconnect:
            return Response(status_code=400)  # not read

    @app.get("/gradio_api/upload_progress")
    async def upload_progress() -> Response:
        return Response('data: {"msg": "done"}\n\n', media_type="text/event-stream")  # progress is not reported

    gr.mount_gradio_app(
        app,
        page,
        path="/",
        max_file_size=max_bytes,
        footer_links=["api", "settings"],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        theme=gr.themes.Default(primary_hue="blue", font=FONTS, font_mono=["monospace"]),
        css=(TEMPLATES / "demo.css").read_text(encoding="utf-8"),
    )
    # Gradio does not count a mounted page as launched, and skips its checks of paths for a page not launched
    page.has_launched = page.is_running = True
    app.add_middleware(ContentSecurityPolicy)
    return app


async def receive_files(request: Request, uploads: Uploads) -> list[str]:
    """Saves the files of a form, each in its own folder; after a failure none is kept. -> their paths"""
    folders: list[Path] = []
    try:
        async with request.form(max_files=MAX_FILES) as form:
            for part in form.getlist("files"):
                if isinstance(part, UploadFile):
                    folders.append(Path(tempfile.mkdtemp(dir=uploads.folder)))
                    with (folders[-1] / safe_name(part.filename or "")).open("wb") as file:
                        await run_in_threadpool(shutil.copyfileobj, part.file, file)
        return [str(path) for folder in folders for path in folder.iterdir()]
    except BaseException:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        raise


async def sweep(uploads: Uploads) -> None:
    """Periodically removes uploads that no request used."""
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        await run_in_threadpool(uploads.remove_older_than, time.time() - KEEP_SECONDS)


class _Server(uvicorn.Server):
    """Calls `when_ready` after start-up."""

    def __init__(self, config: uvicorn.Config, when_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self.when_ready = when_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self.when_ready()


def serve_app(app: FastAPI, listener: socket.socket, *, when_ready: Callable[[], None]) -> None:
    """Serves until Ctrl-C or SIGTERM, which raise KeyboardInterrupt."""
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=SHUTDOWN_SECONDS, ws="none"
    )
    _Server(config, when_ready).run(sockets=[listener])
