"""The application: what each address answers."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from importlib.resources import files
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse

from coterie.errors import in_a_line
from coterie.serving.answers import Latency, Model, Prediction, Refusal, State, answer_of
from coterie.serving.batching import Answer, Batcher, Places
from coterie.serving.images import plain_name, read_image, read_one_of_ones_own
from coterie.serving.networks import Served
from coterie.serving.options import ServingOptions
from coterie.serving.reference import reference_page
from coterie.serving.refusals import Refused
from coterie.serving.uploads import Upload, Uploads
from coterie.version import __version__

_log = logging.getLogger("coterie")

_DECODERS = min(4, os.cpu_count() or 1)
# The page brings all it needs; a name that looked like markup could fetch nothing.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"files": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            },
            "image/*": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Refusal, "description": "not an image, or not a request that can be read"},
    408: {"model": Refusal, "description": "the body came too slowly"},
    413: {"model": Refusal, "description": "too many bytes, pixels or images"},
    429: {"model": Refusal, "description": "the queue is full; Retry-After says when to come again"},
    503: {"model": Refusal, "description": "not ready yet, stopping, or waited past the deadline"},
    504: {"model": Refusal, "description": "decoding or the network took longer than the deadline"},
}


class Server:
    """What the addresses share.

    Attributes:
        served: The networks.
        options: The limits.
        places: Of the queue.
        state: ``warming``, ``ready``, ``stopping``; ``broken`` where warming failed.
    """

    def __init__(self, served: Served, options: ServingOptions) -> None:
        self.served, self.options = served, options
        self.places = Places(options.queue)
        self.state = "warming"
        self._batcher = Batcher(served, options, self.places)
        self._decoders = ThreadPoolExecutor(_DECODERS, "coterie-decode")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Inside, batches are run; the server is ready once the network is warm."""
        tasks = [asyncio.create_task(self._warm()), asyncio.create_task(self._batcher.run())]
        try:
            yield
        finally:
            self.state = "stopping"
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._batcher.close()
            self._decoders.shutdown(wait=False, cancel_futures=True)

    async def _warm(self) -> None:
        try:
            await asyncio.wrap_future(self._decoders.submit(read_one_of_ones_own, self.served.card))
            await self._batcher.warm()
        except Exception as error:  # such as too little memory for a whole batch
            self.state = "broken"
            most = self.options.max_batch
            _log.error("a batch of %d images cannot be run (%s); choose a smaller ⟨max_batch⟩", most, in_a_line(error))
        if self.state == "warming":
            self.state = "ready"

    async def predict(self, request: Request, top: int, ensemble: bool) -> Prediction:
        """The answer to a request.

        Raises:
            Refused: There is none.
        """
        uploads, running = Uploads(request, self.places, self.options), []
        loop = asyncio.get_running_loop()
        try:
            given = await self._admit(uploads, ensemble)
            began = loop.time()
            deadline = began + self.options.deadline_ms / 1000
            for name, file in given:
                running.append(self._decoders.submit(read_image, file, name, self.served.card, self.options.max_pixels))
            decoded = [asyncio.wrap_future(future) for future in running]
            answers = await _all(*(self._classify(pixels, ensemble, deadline) for pixels in decoded))
        finally:
            self.places.give(uploads.taken, running)
        return self._prediction(given, answers, top, 1000 * (loop.time() - began))

    async def _admit(self, uploads: Uploads, ensemble: bool) -> list[Upload]:
        """A request's images. One that came before the server was told to stop is answered."""
        try:
            self._check(ensemble)
            return await uploads.read()
        except Refused:
            await uploads.throw_away()
            raise

    def _check(self, ensemble: bool) -> None:
        if self.state != "ready":
            raise Refused(503, f"the server is {self.state}; send it again in a second", again=True)
        if ensemble and self.served.ensemble is None:
            raise Refused(400, "there is no ensemble beside this network; leave ensemble=true out")

    async def _classify(self, pixels: "asyncio.Future[Any]", ensemble: bool, deadline: float) -> Answer:
        try:
            async with asyncio.timeout_at(deadline):
                image = await pixels
        except TimeoutError as error:
            raise Refused(504, "decoding took too long; send fewer or smaller images at once") from error
        return await self._batcher.classify(image, ensemble, deadline)

    def _prediction(self, given: list[Upload], answers: list[Answer], top: int, took: float) -> Prediction:
        card = self.served.card
        slowest = max(answers, key=lambda answer: answer.network_ms)
        images = [
            answer_of(card, plain_name(name), answer, top) for (name, _), answer in zip(given, answers, strict=True)
        ]
        latency = Latency(total=round(took, 3), network=round(slowest.network_ms, 3), batch=slowest.batch)
        return Prediction(images=images, latency_ms=latency)

    def model(self) -> Model:
        """What answers, and within which limits."""
        card, options = self.served.card, self.options
        return Model(
            network=card["network"],
            student=self.served.student,
            method=card["method"],
            data=card["data"],
            classes=card["classes"],
            channels=card["channels"],
            image_size=card["image_size"],
            ensemble=self.served.ensemble is not None,
            max_images=options.images_at_once,
            max_bytes=options.max_bytes,
            max_pixels=options.max_pixels,
        )


async def _all(*coroutines: Any) -> list[Any]:
    """All results; the first failure ends the others."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


def create_app(served: Served, options: ServingOptions | None = None) -> FastAPI:
    """The application, for any ASGI server with one process; its ``state.server`` is what its addresses share.

    Args:
        served: The networks.
        options: The limits; None for the defaults.
    """
    server = Server(served, options or ServingOptions())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with server.running():
            yield

    about = "Send images, get the probabilities of classes. Every refusal says why in one line, its detail."
    app = FastAPI(
        title="coterie serve",
        version=__version__,
        description=about,
        lifespan=lifespan,
        docs_url=None,  # FastAPI's own pages are fetched from elsewhere
        redoc_url=None,
    )
    app.state.server = server
    app.add_exception_handler(Refused, _refuse)
    app.add_exception_handler(RequestValidationError, _refuse_options)
    app.add_exception_handler(Exception, _fail)
    _add_addresses(app, server)
    return app


def _add_addresses(app: FastAPI, server: Server) -> None:
    @app.post("/predict", responses=_REFUSALS, openapi_extra=_BODY, response_model_exclude_none=True)
    async def predict(
        request: Request,
        top: Annotated[int, Query(ge=1, description="how many of the likeliest classes are named")] = 3,
        ensemble: Annotated[bool, Query(description="ask the ensemble too, where there is one")] = False,
    ) -> Prediction:
        """Classify one image, the body itself, or several, as the files of multipart/form-data."""
        return await server.predict(request, top, ensemble)

    @app.get("/model")
    async def model() -> Model:
        """What answers: the network, its classes, and the limits of a request."""
        return server.model()

    @app.get("/healthz")
    async def healthz() -> State:
        """Whether the process lives: always 200."""
        return State(status="alive")

    @app.get("/readyz", responses={503: {"model": State, "description": "warming, stopping or broken"}})
    async def readyz(response: Response) -> State:
        """Whether images are classified: 200 once the network is loaded and warm, until the server is stopping."""
        response.status_code = 200 if server.state == "ready" else 503
        return State(status=server.state)

    page = files("coterie.serving").joinpath("page.html").read_text(encoding="utf-8")
    show = partial(HTMLResponse, headers={"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"})

    @app.get("/", include_in_schema=False)
    async def index() -> HTMLResponse:
        return show(page)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return show(reference_page(app.openapi()))


async def _refuse(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refused)
    # What is left of the body would be read as the next request.
    headers = {"Connection": "close"} | ({"Retry-After": "1"} if error.again else {})
    return JSONResponse({"detail": error.line}, error.status, headers)


async def _refuse_options(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return JSONResponse({"detail": f"{first['loc'][-1]}: {first['msg']}"}, 400, {"Connection": "close"})


async def _fail(request: Request, error: Exception) -> JSONResponse:
    """What nobody foresaw is in the server's log; a stranger learns nothing of the machine."""
    return JSONResponse({"detail": "the server failed; its log says more"}, 500)
