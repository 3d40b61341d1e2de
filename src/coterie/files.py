"""Files that are either whole or absent, written by one command at a time."""

import contextlib
import errno
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from safetensors import SafetensorError, safe_open

from coterie.console.signals import unfinished
from coterie.errors import UserError

if TYPE_CHECKING:  # what reads cards and names alone must not need torch
    from torch import Tensor

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DENIED = (
    *(errno.EACCES, errno.EROFS, errno.EPERM),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP),
)


def user_path(path: str | Path) -> Path:
    """A path as the user wrote it, with ``~`` for the user's home, which a shell replaces in some places only."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no such user
        return Path(path)


def plain_error(path: Path, error: BaseException) -> BaseException:
    """The line for a file that could not be written; the error itself where no user can mend it.

    Args:
        path: What was written.
        error: What its writing raised; safetensors raises an error of its own that only names the system's.
    """
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, SafetensorError) and (named := re.search(r"os error (\d+)", str(error))):
        number = int(named.group(1))
    if number in _FULL:
        return UserError(
            f"{path}: the disk is full; free some space and run the command again, a training with ⟨resume true⟩"
        )
    if number in _DENIED:
        return UserError(f"{path}: cannot be written ({os.strerror(number or 0)}); choose another place")
    if number == errno.ENOENT and not path.parent.is_dir():
        return UserError(f"{path}: its folder was removed while it was written; run the command again")
    if number == errno.ENOENT:  # a file system that takes none, such as /proc
        return UserError(f"{path}: cannot be written; choose another place")
    return error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a fresh path beside ``path``; what is written there takes its place when the block succeeds.

    A failure, a signal or a full disk leaves the old file as it was, or none.

    Args:
        path: The file to make. Its folder is created where missing.

    Raises:
        UserError: It is a folder, the disk is full, the folder cannot be written, or it was removed.
    """
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name a file in it")
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _fresh_file(path)
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        show_to_others(temporary)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        plain = plain_error(path, error)
        if plain is error:
            raise
        raise plain from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            unfinished.discard(temporary)


def show_to_others(file: Path) -> None:
    """Give a file that only its owner can read, as some libraries write them, the permissions of the user's others."""
    umask = os.umask(0)
    os.umask(umask)
    file.chmod(0o666 & ~umask)


def _fresh_file(path: Path) -> Path:
    """An empty file beside another, which is known as unfinished before it is there: a signal may come in between."""
    for _ in range(100):
        fresh = path.with_name(f".{path.name}.{os.urandom(4).hex()}{path.suffix}")
        unfinished.add(fresh)
        try:
            os.close(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except OSError as error:
            unfinished.discard(fresh)
            if not isinstance(error, FileExistsError):
                raise
        else:
            return fresh
    raise FileExistsError(errno.EEXIST, "no free name", str(path))


@contextlib.contextmanager
def locked(mark: Path, refusal: str) -> Iterator[Callable[[], bool]]:
    """Keep other commands out of what a file stands for, where the system has such locks.

    The lock goes with the process, however that ends. The file is removed at the end, and so are the folders that were
    made for it if nothing else is in them.

    Args:
        mark: The file.
        refusal: The line where another command holds it.

    Yields:
        Tells whether the file is still there, or has been removed with its folder.

    Raises:
        UserError: Another command holds it, or the folder cannot be written.
    """
    if sys.platform == "win32":
        yield mark.parent.is_dir
        return
    try:
        made = [folder for folder in mark.parents if not folder.exists()]
        handle = _lock(mark)
    except BlockingIOError:
        raise UserError(refusal) from None
    except OSError as error:
        raise plain_error(mark.parent, error) from error

    def held() -> bool:
        try:
            return os.path.samestat(os.fstat(handle), mark.stat())
        except OSError:
            return False

    try:
        yield held
    finally:
        with contextlib.suppress(OSError):
            if held():
                mark.unlink()  # while it is locked, so that no one else's is removed
        os.close(handle)
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _lock(mark: Path) -> int:
    """The open file, locked until it is closed.

    Raises:
        BlockingIOError: Another process has locked it.
    """
    import fcntl  # not on Windows

    while True:
        mark.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(mark, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            continue  # whoever held it has removed the folder since
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise
        except OSError:
            return handle  # a file system without locks
        # Whoever held it may have removed it since it was opened here; then it locks nothing.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), mark.stat()):
                return handle
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_tensors(path: Path, mend: str) -> "tuple[dict[str, Tensor], str | None]":
    """The tensors of a safetensors file, on the CPU, and the text that coterie keeps in it, if any.

    Args:
        path: The file.
        mend: What the user can do where it cannot be read; ends the error's line.

    Raises:
        UserError: It is missing, damaged, or no safetensors file.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would wait for its writer for ever
            raise UserError(f"{path}: is no file; {mend}")
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
    except UserError:
        raise
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
