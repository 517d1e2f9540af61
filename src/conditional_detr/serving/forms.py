"""Read a multipart form with files, in memory. Its limits hold while the body streams."""

from collections.abc import AsyncIterator

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from conditional_detr.serving.limits import Refused

HEADER_BYTES = 4096  # header of a part
TEXT_BYTES = 1000  # a part without a file name
LONGEST_BOUNDARY = 70  # characters, by RFC 2046


class Part:
    """A part of a form.

    Attributes
    ----------
    field : name of the field
    file_name : as sent; None = it is no file
    content : bytes of the part
    """

    def __init__(self) -> None:
        self.field = ""
        self.file_name: str | None = None
        self.content = bytearray()


class FormReader:
    """Collects the parts of a form whose body arrives in pieces.

    Parameters
    ----------
    boundary : what separates the parts
    most_files, most_texts : largest number of parts with and without a file name
    """

    def __init__(self, boundary: bytes, most_files: int, most_texts: int) -> None:
        self.parts: list[Part] = []
        self.is_complete = False
        self._left = {True: most_files, False: most_texts}
        self._most = most_files
        self._part, self._header, self._name, self._value = Part(), 0, b"", b""
        self._disposition = b""
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._header_name,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_end,
                "on_part_data": self._data,
                "on_part_end": self._end,
                "on_end": self._finish,
            },
        )

    def write(self, data: bytes) -> None:
        """Take the next piece of the body.

        Raises
        ------
        Refused : it is no form, or has too much of something
        """
        try:
            self._parser.write(data)
        except FormParserError:
            raise Refused(400, "the form cannot be read: its parts are not as multipart/form-data says") from None

    def _begin(self) -> None:
        self._part, self._header, self._name, self._value, self._disposition = Part(), 0, b"", b"", b""

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._count_header(end - start)
        self._value += data[start:end]

    def _count_header(self, more: int) -> None:
        self._header += more
        if self._header > HEADER_BYTES:
            raise Refused(400, f"the form cannot be read: the header of a part is larger than {HEADER_BYTES} bytes")

    def _header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value
        self._name, self._value = b"", b""

    def _headers_end(self) -> None:
        options = options_of(self._disposition)
        if b"name" not in options:
            raise Refused(400, "the form cannot be read: a part has no field name")
        self._part.field = _text(options[b"name"])
        if b"filename" in options:
            self._part.file_name = _text(options[b"filename"])
        is_file = self._part.file_name is not None
        if not self._left[is_file]:
            raise Refused(400, f"the form has too many {f'files: at most {self._most}' if is_file else 'fields'}")
        self._left[is_file] -= 1

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._part.file_name is None and len(self._part.content) + end - start > TEXT_BYTES:
            raise Refused(400, f"the field {self._part.field[:TEXT_BYTES]!r} must be a file with a file name")
        self._part.content += data[start:end]

    def _end(self) -> None:
        self.parts.append(self._part)

    def _finish(self) -> None:
        self.is_complete = True


def options_of(value: str | bytes) -> dict[bytes, bytes]:
    """The parameters of a header.

    Raises
    ------
    Refused : they cannot be read
    """
    try:
        return dict(parse_options_header(value)[1])
    except Exception:  # Python's parser of e-mail headers, which reads them, raises several kinds
        raise Refused(400, "the form cannot be read: a header has damaged parameters") from None


def boundary_of(content_type: str) -> bytes:
    """What separates the parts of a form.

    Raises
    ------
    Refused : the content type does not say it
    """
    boundary = options_of(content_type).get(b"boundary", b"")
    if not 0 < len(boundary) <= LONGEST_BOUNDARY:
        raise Refused(400, f"the form cannot be read: the boundary must have 1 to {LONGEST_BOUNDARY} characters")
    return boundary


async def read_form(content_type: str, body: AsyncIterator[bytes], most_files: int, most_texts: int) -> list[Part]:
    """Read a form from its body.

    Raises
    ------
    Refused : it is no complete form, or has too much of something
    """
    reader = FormReader(boundary_of(content_type), most_files, most_texts)
    async for data in body:
        reader.write(data)
    if not reader.is_complete:
        raise Refused(400, "the form cannot be read: its end is missing")
    return reader.parts


def _text(given: bytes) -> str:
    return given.decode("utf-8", "replace")
