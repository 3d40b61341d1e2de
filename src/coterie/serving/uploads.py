"""The images of a request, read from its body within limits."""

import asyncio
from collections.abc import AsyncGenerator
from io import BytesIO
from typing import IO

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from coterie.serving.batching import Places
from coterie.serving.images import plain_name
from coterie.serving.options import ServingOptions
from coterie.serving.refusals import Refused

READ_SECONDS = 20.0
"""How long a sender has for a request's body."""

_THROW_SECONDS = 5.0
_FRAME = 100_000  # bytes of a multipart body that are no image's

Upload = tuple[str, IO[bytes]]


class Uploads:
    """Reads a request's body, with a place of the queue for each image.

    A place stands for ``max_bytes`` of the body, so that all bodies together take no more memory than the places say.

    Attributes:
        taken: How many places the request has; whoever made this gives them back.
    """

    def __init__(self, request: Request, places: Places, options: ServingOptions) -> None:
        self._request, self._places, self._options = request, places, options
        self._multipart = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
        self._most = options.max_bytes * options.images_at_once + _FRAME if self._multipart else options.max_bytes
        self._read = 0
        self.taken = 0

    async def read(self) -> list[Upload]:
        """The images: a name and an open file each.

        Raises:
            Refused: There are none, too many, or too large ones; no place is free; the sender is too slow.
        """
        try:
            self._take(1)
            said = self._request.headers.get("content-length", "")
            if said.isdecimal() and int(said) > self._most:
                raise self._too_large()
            async with asyncio.timeout(READ_SECONDS):
                uploads = await (self._parts() if self._multipart else self._whole())
            self._take(len(uploads) - self.taken)
            return uploads
        except TimeoutError as error:
            raise Refused(408, f"the body took more than {READ_SECONDS:g} s; send a smaller image") from error
        except ClientDisconnect as error:
            raise Refused(400, "the sender went away") from error

    def _take(self, count: int) -> None:
        if count > 0:
            self._places.take(count)
            self.taken += count

    def _too_large(self, name: str = "") -> Refused:
        where = f"{plain_name(name)}: " if name else ""
        return Refused(413, f"{where}more than {self._options.max_bytes} bytes an image; send a smaller one")

    async def _chunks(self) -> AsyncGenerator[bytes, None]:
        async for chunk in self._request.stream():
            self._read += len(chunk)
            if self._read > self._most:
                raise self._too_large()
            if self._read > self.taken * self._options.max_bytes + _FRAME:
                self._take(1)
            yield chunk

    async def _whole(self) -> list[Upload]:
        body = b"".join([chunk async for chunk in self._chunks()])
        if not body:
            raise Refused(400, "the body is empty; send an image, or several as multipart/form-data")
        return [("image", BytesIO(body))]

    async def _parts(self) -> list[Upload]:
        most = self._options.images_at_once
        parser = MultiPartParser(self._request.headers, self._chunks(), max_files=most + 1, max_fields=0)
        parser.spool_max_size = self._options.max_bytes + 1  # in memory, which the places bound, and in no file
        try:
            form = await parser.parse()
        except MultiPartException as error:
            if "Too many files" in error.message:
                raise self._too_many() from error
            raise Refused(400, "the multipart body cannot be read; send files alone, each with a file name") from error
        files = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
        if not files:
            raise Refused(400, "the body holds no file; send an image, or several as multipart/form-data")
        if len(files) > most:
            raise self._too_many()
        for file in files:
            if (file.size or 0) > self._options.max_bytes:
                raise self._too_large(file.filename or "image")
        return [(file.filename or "image", file.file) for file in files]

    def _too_many(self) -> Refused:
        return Refused(413, f"more than {self._options.images_at_once} images in a request; send them in several")

    async def throw_away(self) -> None:
        """Read on to the end of the body, so that a sender who writes before reading sees why it is refused."""
        rest = 0
        try:
            async with asyncio.timeout(_THROW_SECONDS):
                async for chunk in self._request.stream():
                    rest += len(chunk)
                    if rest > self._most:
                        return
        except (TimeoutError, ClientDisconnect, RuntimeError):  # the last where all of it had been read
            return
