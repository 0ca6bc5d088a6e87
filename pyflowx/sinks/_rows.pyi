from typing import Any

from pyflowx.batch import I64

def fill(
    out: bytearray,
    first: int,
    last: int,
    begin: bytes,
    separator: bytes,
    end: bytes,
    nulls: bool,
    length: int,
    columns: tuple[tuple[str, bytes, bytes, Any, Any, Any], ...],
    ends: I64 | None,
) -> tuple[int, int]: ...
