"""Read text files in various encodings, and numbers in text."""

import re
from pathlib import Path

from conditional_detr.errors import DataError

# Byte order marks. UTF-32 is first, because its mark begins with that of UTF-16.
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
    DataError : the file cannot be read or decoded
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

    It is not a guess if there is a byte order mark or an XML declaration, or if the text is valid UTF-8. Other text is read as
    GB 18030 (which contains GB2312 and GBK), or as Windows-1252 if most letters beyond ASCII stand alone among ASCII letters,
    as in European languages.

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
    """Whether text that is valid UTF-8 may be in another encoding. Some short GBK texts are valid UTF-8 by chance."""
    return not data.isascii() and PAIRS.fullmatch(data) is not None


def _guesses(data: bytes) -> list[str]:
    """Possible encodings of bytes that are not UTF-8, the most likely first."""
    if b"\0" in data:
        return []
    alone, runs = len(ALONE.findall(data)), len(HIGH.findall(data))
    return ["cp1252", "gb18030"] if 2 * alone > runs else ["gb18030", "cp1252"]


def number_of(text: str) -> float:
    """Convert a decimal number. Unlike `float`, this refuses "1_11", "nan" and digits of other scripts.

    Raises
    ------
    ValueError : it is not a decimal number
    """
    if not NUMBER.fullmatch(text.strip()):
        raise ValueError(f"{text!r} is not a number")
    return float(text)
