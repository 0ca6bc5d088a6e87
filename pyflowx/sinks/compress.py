"""Compression: of octets at once, and of a whole format."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pyflowx.sinks import AnyBatch, Encoder, Piece

METHODS = ("zstd", "gzip", "none")
SUFFIXES = {"zstd": ".zst", "gzip": ".gz"}
_FRAME = 1 << 20  # octets of text in a frame


def compressor(method: str) -> Callable[[bytes], bytes] | None:
    """A function that makes one whole frame of octets; None for ``none``."""
    if method == "zstd":
        import zstandard

        return zstandard.ZstdCompressor(level=1).compress
    if method == "gzip":
        import zlib

        def gzip(octets: bytes) -> bytes:
            stream = zlib.compressobj(level=1, wbits=31)
            return stream.compress(octets) + stream.flush()

        return gzip
    return None


class Compressed(Encoder[AnyBatch]):
    """Another format, compressed: frames that each hold whole rows, so that a file is good up to any of them."""

    appends = False
    prompt = False

    def __init__(self, inner: Encoder[AnyBatch], method: str) -> None:
        compress = compressor(method)
        assert compress is not None
        self.suffix = inner.suffix + SUFFIXES[method]  # type: ignore[misc]
        self._inner, self._compress = inner, compress
        self._parts: list[bytes] = []
        self._rows = self._size = 0

    def count(self, batch: AnyBatch) -> int:
        return self._inner.count(batch)

    def begin(self) -> Iterator[Piece]:
        self._take()
        yield from self._frames(self._inner.begin())

    def encode(self, batch: AnyBatch) -> Iterator[Piece]:
        yield from self._frames(self._inner.encode(batch))

    def flush(self) -> Iterator[Piece]:
        yield from self._frames(self._inner.flush())
        yield from self._frame()

    def end(self) -> Iterator[Piece]:
        self._take()
        yield from self._frames(self._inner.end())
        yield from self._frame()

    def _frames(self, pieces: Iterator[Piece]) -> Iterator[Piece]:
        for rows, data in pieces:
            parts = [data] if isinstance(data, bytes | memoryview) else data
            self._parts += map(bytes, parts)
            self._rows += rows
            self._size = sum(map(len, self._parts))
            if self._size >= _FRAME:
                yield from self._frame()

    def _frame(self) -> Iterator[Piece]:
        rows, octets = self._take()
        if octets:
            yield rows, self._compress(octets)

    def _take(self) -> tuple[int, bytes]:
        """What is held back, and hold nothing back any more."""
        rows, octets = self._rows, b"".join(self._parts)
        self._parts, self._rows, self._size = [], 0, 0
        return rows, octets
