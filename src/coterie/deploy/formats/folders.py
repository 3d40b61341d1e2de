"""Folders that are either whole or absent."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from coterie.console.signals import unfinished
from coterie.errors import UserError
from coterie.files import plain_error, show_to_others


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``path``; it takes that name, with what was written in it, when the block succeeds.

    Args:
        path: The folder to make, which is not there. Its parent is created where missing.

    Raises:
        UserError: It exists already, the disk is full, or the parent cannot be written.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
        unfinished.add(temporary)
        temporary.mkdir()
        yield temporary
        if path.exists():  # renaming would replace an empty folder
            raise UserError(f"{path}: exists already; choose another name")
        for file in filter(Path.is_file, temporary.rglob("*")):
            show_to_others(file)
        temporary.rename(path)
    except (OSError, SafetensorError) as error:
        plain = plain_error(path, error)
        if plain is error:
            raise
        raise plain from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
            unfinished.discard(temporary)
