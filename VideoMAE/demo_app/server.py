"""The demo's server: Gradio's page, limited uploads that are removed, and a policy against loading from other sites."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import gradio as gr
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect

from VideoMAE.demo_app.page import Page
from VideoMAE.demo_app.videos import safe_name
from VideoMAE.reporting.page import ENVIRONMENT, TEMPLATES

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
        app, blocks, path="/", max_file_size=max_bytes, footer_links=["api", "settings"], run_history=False,
        ssr_mode=False, mcp_server=False, pwa=False, css=(TEMPLATES / "demo.css").read_text(encoding="utf-8"),
        theme=gr.themes.Default(primary_hue="blue", font=FONTS, font_mono=["monospace"])
    )  # fmt: skip
    # Gradio does not count a mounted page as launched, and skips its checks of paths for a page not launched
    blocks.has_launched = blocks.is_running = True
    headers = [("Content-Security-Policy", POLICY), ("Referrer-Policy", "no-referrer")]
    return uvicorn.Server(
        uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=SHUTDOWN_SECONDS, ws="none",
            headers=headers
        )
    )  # fmt: skip


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
