"""Files that are either whole or absent."""

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open
from torch import Tensor

from coterie.errors import UserError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a fresh path beside ``path``; what is written there takes its place when the block succeeds.

    A failure, a kill or a full disk leaves the old file as it was, or none.

    Args:
        path: The file to make. Its folder is created where missing.

    Raises:
        UserError: The disk is full or the folder cannot be written.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes files that only their owner can read
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{path}: the disk is full; free some space and run the command again") from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR):
            reason = error.strerror or "not writable"
            raise UserError(f"{path}: cannot be written ({reason}); choose another place") from error
        raise
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_tensors(path: Path, mend: str) -> tuple[dict[str, Tensor], str | None]:
    """The tensors of a safetensors file, on the CPU, and the text that coterie keeps in it, if any.

    Args:
        path: The file.
        mend: What the user can do where it cannot be read; ends the error's line.

    Raises:
        UserError: It is missing, damaged, or no safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("coterie")
            return {name: file.get_tensor(name) for name in file.keys()}, text  # noqa: SIM118 - no dict
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; {mend}") from error
    except SafetensorError as error:
        raise UserError(f"{path}: damaged or no safetensors file ({error}); {mend}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error}); {mend}") from error


def read_text(path: Path, mend: str) -> str:
    """A text file that may have come from elsewhere.

    Args:
        path: The file.
        mend: What the user can do where it cannot be read; ends the error's line.

    Raises:
        UserError: It is missing, no regular file, cannot be read, or is no UTF-8.
    """
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: is no file; {mend}")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; {mend}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: holds bytes that are no UTF-8 text, at {error.start}; {mend}") from error
    except (OSError, ValueError) as error:  # a ValueError of a name that holds a zero byte
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error}); {mend}") from error


def read_yaml(path: Path, mend: str) -> Any:
    """The content of a YAML file that may have come from elsewhere; the arguments are :func:`read_text`'s.

    Raises:
        UserError: It cannot be read or is no YAML.
    """
    text = read_text(path, mend)
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a ValueError of a date that is none: 2024-13-01
        raise UserError(f"{path}: not valid YAML ({_in_short(error)}); {mend}") from error


def parse_json(text: str, where: str, mend: str) -> Any:
    """The content of a JSON text that may have come from elsewhere.

    Raises:
        UserError: It is no JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not valid JSON ({_in_short(error)}); {mend}") from error


def read_json(path: Path, mend: str) -> Any:
    """The content of a JSON file that may have come from elsewhere; the arguments are :func:`read_text`'s.

    Raises:
        UserError: It cannot be read or is no JSON.
    """
    return parse_json(read_text(path, mend), str(path), mend)


def _in_short(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return " ".join(str(error).split())[:120]
