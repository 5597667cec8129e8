"""Bodies of one content type, and forms with a file in them, read into memory and into no file."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO

from flask import abort, request
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import parse_form_data

from ..errors import InvalidRequest, InvalidValue, shown

#: A field that is no file, in bytes. It holds the parser's window of 64 KiB, too.
_LARGEST_FIELD = 256 * 1024
_MOST_PARTS = 16


@dataclass(frozen=True)
class Form:
    """The fields of a form, each of which was there once."""

    fields: Mapping[str, str]
    files: Mapping[str, bytes]


def _in_memory(
    total_content_length: int | None,
    content_type: str | None,
    filename: str | None,
    content_length: int | None = None,
) -> IO[bytes]:
    """Where the parser puts a file."""
    return io.BytesIO()


def content(content_type: str) -> bytes:
    """The body of the request that is being handled, which has to say that it is of that type: 415 otherwise."""
    if request.mimetype != content_type:
        abort(415, f"`Content-Type` is {shown(request.mimetype)}: send `{content_type}`")
    return request.get_data()


def form(*, fields: tuple[str, ...], files: tuple[str, ...]) -> Form:
    """The form in the request that is being handled; there may be these fields and files and no others.

    The size of the whole body is the server's to limit. Raises InvalidRequest for what is no such form.
    """
    try:
        _, texts, uploads = parse_form_data(
            request.environ,
            stream_factory=_in_memory,
            max_form_memory_size=_LARGEST_FIELD,
            max_form_parts=_MOST_PARTS,
            silent=False,
        )
    except RequestEntityTooLarge as error:
        raise InvalidRequest(
            f"the form has more than {_MOST_PARTS} parts, or a text of more than {_LARGEST_FIELD} bytes; a file is one "
            "that has a file name"
        ) from error
    except ValueError as error:
        raise InvalidRequest(f"the body is no multipart form: {error}") from error
    for found, allowed in ((texts, fields), (uploads, files)):
        for name in found:
            if name not in allowed:
                raise InvalidValue(
                    f"{shown(name)} is no such field of this form; it has the texts {', '.join(fields)} and, as a "
                    f"file with a file name, {', '.join(files)}",
                    param=name[:60],
                )
            if len(found.getlist(name)) > 1:
                raise InvalidValue(f"`{name}` is there more than once: send it once", param=name)
    return Form(texts.to_dict(), {name: file.stream.read() for name, file in uploads.items()})
