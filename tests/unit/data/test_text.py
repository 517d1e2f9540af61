"""Encodings of text, and the numbers in it."""

import pytest

from conditional_detr.data.text import decoded, encoding_of, number_of

CHINESE = "<annotation><name>安全帽</name></annotation>"


@pytest.mark.parametrize("encoding", ["gb2312", "gbk", "gb18030", "big5", "utf-8", "utf-16", "shift_jis"])
def test_xml_is_read_by_the_encoding_that_it_declares(encoding: str):
    text = f"<?xml version='1.0' encoding='{encoding}'?>{CHINESE.replace('安全帽', '安全')}"
    assert decoded(text.encode(encoding)) == text
    assert encoding_of(text.encode(encoding))[1] is False


@pytest.mark.parametrize(
    ("text", "encoding"),
    [(CHINESE, "gbk"), (CHINESE, "gb18030"), ("<name>Größe</name>", "cp1252"), ("<name>forêt brûlée</name>", "latin-1")],
)
@pytest.mark.parametrize("head", ["", "<?xml version='1.0' encoding='utf-8'?>", "<?xml version='1.0' encoding='nonsense'?>"])
def test_what_is_no_utf8_is_read_by_its_bytes(text: str, encoding: str, head: str):
    assert decoded((head + text).encode(encoding)) == head + text
    assert encoding_of((head + text).encode(encoding))[1] is True


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"\x80\0\x81", b"\xef\xbb\xbf\xff"])
def test_what_is_no_text_is_refused(data: bytes):
    with pytest.raises(UnicodeError):
        decoded(data)


@pytest.mark.parametrize(("text", "value"), [("1", 1), (" 0.5", 0.5), ("-.5e-3", -0.0005), ("+7.", 7)])
def test_decimal_numbers(text: str, value: float):
    assert number_of(text) == value


@pytest.mark.parametrize("text", ["1_11", "nan", "inf", "0x10", "١", "", "1,5", "1e"])
def test_other_words_are_no_numbers(text: str):
    with pytest.raises(ValueError, match="is not a number"):
        number_of(text)
