"""Reading text that people and tools wrote: its encoding, and the numbers in it."""

import re
from pathlib import Path

from conditional_detr.errors import DataError

# Marks at the beginning of a file. UTF-32 is first, because its mark begins with that of UTF-16.
MARKS = {
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
DECLARED = re.compile(rb"""^\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")
LARGER = {
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "euc-cn": "gb18030",
    "cp936": "gb18030",
    "shift_jis": "cp932",
    "euc-kr": "cp949",
}
ALONE = re.compile(rb"(?<![\x80-\xff])([\x80-\xff]|(?<=[A-Za-z])[\x80-\xff]{2}(?=[a-z]))(?![\x80-\xff])")
PAIRS = re.compile(rb"(?:[\0-\x7f]|[\xc2-\xdf][\x80-\xbf])*")
HIGH = re.compile(rb"[\x80-\xff]+")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def text_of(file: Path) -> str:
    """Read a text file, see `decoded`.

    Raises
    ------
    DataError : the file cannot be read, or is not text
    """
    try:
        return decoded(file.read_bytes())
    except (OSError, UnicodeError) as error:
        raise DataError(f"{file} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8 text'}") from None


def decoded(data: bytes) -> str:
    """Decode text, see `encoding_of`.

    Raises
    ------
    UnicodeError : it is not text in any of the encodings that are tried
    """
    return data.decode(encoding_of(data)[0])


def encoding_of(data: bytes) -> tuple[str, bool]:
    """The encoding of text, and whether it is a guess.

    It is known by a byte order mark, by the encoding that an XML declaration names, or because the text is UTF-8. Anything else
    is read as GB 18030 (which contains GB2312 and GBK), or as Windows-1252 if most letters beyond ASCII stand alone between
    others, as accented letters of European languages do.

    Raises
    ------
    UnicodeError : it is not text in any of these encodings
    """
    mark = next((mark for mark in MARKS if data.startswith(mark)), None)
    if mark is not None:
        return MARKS[mark], False
    named = DECLARED.match(data)
    declared = named[1].decode("ascii").lower() if named else "utf-8"
    known = [LARGER.get(declared, declared), "utf-8"]
    for encoding in [*known, *_guesses(data)]:
        try:
            data.decode(encoding)
        except (UnicodeError, LookupError):
            continue
        return encoding, encoding not in known
    raise UnicodeError("it is not UTF-8 text")


def may_be_other(data: bytes) -> bool:
    """Whether UTF-8 text could also be text in another encoding: a few words of GBK are, by chance, pairs of UTF-8."""
    return not data.isascii() and PAIRS.fullmatch(data) is not None


def _guesses(data: bytes) -> list[str]:
    """Possible encodings of bytes that are not UTF-8, the most likely first."""
    if b"\0" in data:
        return []
    alone, runs = len(ALONE.findall(data)), len(HIGH.findall(data))
    return ["cp1252", "gb18030"] if 2 * alone > runs else ["gb18030", "cp1252"]


def number_of(text: str) -> float:
    """A decimal number. Python's own conversion also takes "1_11", "nan" and digits of other scripts.

    Raises
    ------
    ValueError : it is no decimal number
    """
    if not NUMBER.fullmatch(text.strip()):
        raise ValueError(f"{text!r} is not a number")
    return float(text)
