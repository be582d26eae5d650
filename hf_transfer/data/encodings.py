"""Finds the character encoding and line ends of text files: UTF-8 if the file is, otherwise a verified guess."""

import codecs
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hf_transfer.errors import InputError, shell_quoted, short_path

BLOCK_BYTES = 1 << 20
# An encoding is guessed from so many bytes of lines that are not ASCII, and verified on the whole file.
SAMPLE_BYTES = 1 << 17
BYTE_ORDER_MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
# Encodings that tables are still written in. Of those that fit a file equally well, the first is taken.
CANDIDATES = ("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258", "cp874",
              "gb18030", "big5", "cp932", "euc_jp", "cp949", "mac_roman")  # fmt: skip
_UTF8_SEQUENCE = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
# Signs such as ¹ or ¿ within a word: in the right code page, these bytes are letters.
_SIGN_IN_WORD = re.compile(r"(?<=\w)[¡-©«-´¶-¹»-¿×÷‚„†‡‰¤](?=[^\W\d_])")
_NON_ASCII_WORDS = re.compile(r"[^\s,;|]*[^\x00-\x7f][^,;|\t\r\n]*")
_LINE_END = re.compile(r"\r*\n|\r")


@dataclass(frozen=True)
class TextFile:
    """Dataclass of a text file's path, encoding and line ends, from `examine_text`.

    Attributes:
        path: of the file.
        encoding: as Python names it.
        newline: argument of `open`: ``"\\n"``, or ``""`` if lines end in a lone ``\\r``.
        remarks: sentences on how the file is read, for the log.
    """

    path: Path
    encoding: str
    newline: str
    remarks: tuple[str, ...] = ()

    def lines(self) -> Iterator[str]:
        """Yield the lines of the file with their line ends, without reading the whole file first."""
        with self.path.open(encoding=self.encoding, newline=self.newline) as stream:
            yield from stream


def examine_text(path: Path) -> TextFile:
    """Find the encoding and line ends of a text file, and return them as a `TextFile`.

    It is verified that all of the file can be decoded.

    Raises:
        InputError: some bytes are not in the encoding of the rest; the message says where.
    """
    with path.open("rb") as stream:
        start = stream.read(4)
    by_mark = next((encoding for mark, encoding in BYTE_ORDER_MARKS if start.startswith(mark)), None)
    encoding = by_mark or "utf-8"
    damage = _first_damage(path, encoding)
    remarks: tuple[str, ...] = ()
    if damage is not None and (by_mark or _mostly_utf8(path)):
        raise InputError(_damage_message(path, _display_name(encoding), damage))
    if damage is not None:
        encoding = _guess_encoding(path, damage)
    elif not by_mark:
        encoding = _utf16_without_byte_order_mark(path) or encoding
    if encoding not in ("utf-8", "utf-8-sig"):
        example = _example_text(path, encoding)
        check = f", as in {example!r}. If letters are wrong there, save the file as UTF-8." if damage else "."
        remarks = (f"{short_path(path)} is read as {_display_name(encoding)}{check}",)
    return TextFile(path, encoding, _newline(path, encoding), remarks)


def _first_damage(path: Path, encoding: str) -> tuple[int, int] | None:
    """Return line number and value of the first byte that `encoding` cannot decode, or None if all can be.

    Lines are counted from 1.
    """
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    line = 1
    with path.open("rb") as stream:
        while True:
            block = stream.read(BLOCK_BYTES)
            try:
                line += decoder.decode(block, final=not block).count("\n")
            except UnicodeDecodeError as error:
                before = error.object[: error.start].decode(error.encoding, "ignore")
                return line + before.count("\n"), error.object[min(error.start, len(error.object) - 1)]
            if not block:
                return None


def _sample(path: Path) -> bytes:
    """Return those of a file's first lines that are not ASCII, as bytes, up to `SAMPLE_BYTES` of them."""
    sample = bytearray()
    with path.open("rb") as stream:
        rest = b""
        while len(sample) < SAMPLE_BYTES and (block := stream.read(BLOCK_BYTES)):
            *lines, rest = (rest + block).split(b"\n")
            sample += b"".join(line + b"\n" for line in lines if not line.isascii())
            rest = rest[:BLOCK_BYTES]
        if len(sample) < SAMPLE_BYTES:
            sample += rest if not rest.isascii() else b""
    return bytes(sample[:SAMPLE_BYTES])


def _mostly_utf8(path: Path) -> bool:
    """Return whether most non-ASCII bytes of a file are UTF-8.

    The file is then damaged or mixed, not in another encoding.
    """
    sample = _sample(path)
    sequences = _UTF8_SEQUENCE.findall(sample)
    others = sum(byte > 127 for byte in sample) - sum(map(len, sequences))
    return len(sequences) > others / 2


def _guess_encoding(path: Path, damage: tuple[int, int]) -> str:
    """Return the name of the likeliest encoding that can decode all of a file that is not UTF-8.

    Raises:
        InputError: none of `CANDIDATES` can.
    """
    sample = _sample(path)
    for encoding in _rank_encodings(sample):
        if _first_damage(path, encoding) is None:
            return encoding
    raise InputError(_damage_message(path, "UTF-8", damage))


def _rank_encodings(sample: bytes) -> Iterable[str]:
    """Return the names of the encodings that a sample of bytes may have, the likeliest first."""
    from charset_normalizer import from_bytes

    readable = [encoding for encoding in CANDIDATES if _can_decode(sample, encoding)]
    matches = list(from_bytes(sample, cp_isolation=list(CANDIDATES), threshold=0.25))
    names = [name for match in matches for name in (match.encoding, *match.could_be_from_charset)]
    western = next((m for m in matches if "cp1252" in (m.encoding, *m.could_be_from_charset)), None)
    best = matches[0] if matches else None
    # Code pages of Latin letters fit short samples equally well: cp1252, the commonest, is taken unless another is
    # clearly better.
    plausible = "cp1252" in readable and not _SIGN_IN_WORD.search(sample.decode("cp1252"))
    if plausible and (best is None or (western and western.chaos <= best.chaos + 0.05
                                       and western.coherence >= best.coherence - 0.1)):  # fmt: skip
        turkish = re.search("[ýþð]", text := sample.decode("cp1252")) and not re.search("[áíóæÁÍÓ]", text)
        names.insert(0, "cp1254" if turkish else "cp1252")  # Icelandic has ý, þ and ð too, but also the others
    by_signs = sorted(readable, key=lambda encoding: len(_SIGN_IN_WORD.findall(sample.decode(encoding, "ignore"))))
    return dict.fromkeys([name for name in names if name in CANDIDATES] + by_signs)


def _can_decode(sample: bytes, encoding: str) -> bool:
    try:
        # An incremental decoder, as the sample may end within a character.
        codecs.getincrementaldecoder(encoding)("strict").decode(sample)
    except UnicodeDecodeError:
        return False
    return True


def _utf16_without_byte_order_mark(path: Path) -> str | None:
    """Return the encoding of a UTF-16 file without a byte order mark, or None if the file is not UTF-16.

    If its texts are ASCII, such a file is valid UTF-8 with a NUL byte beside every letter.
    """
    with path.open("rb") as stream:
        head = stream.read(SAMPLE_BYTES)
    if b"\0" not in head or path.stat().st_size % 2:
        return None
    for encoding in ("utf-16-le", "utf-16-be"):
        try:
            text = codecs.getincrementaldecoder(encoding)("strict").decode(head)
        except UnicodeDecodeError:
            continue
        if "\0" not in text and re.search(r"[\r\n]", text) and _first_damage(path, encoding) is None:
            return encoding
    return None


def _newline(path: Path, encoding: str) -> str:
    """Return the `newline` argument of `open` for a file: ``""`` if lines end in a lone ``\\r``, else ``"\\n"``.

    The first line end outside quotes decides.
    """
    with path.open(encoding=encoding, newline="") as stream:
        head = stream.read(SAMPLE_BYTES)
    line_end = _LINE_END.search(re.sub(r'"[^"]*"', "", head)) or _LINE_END.search(head)
    return "" if line_end and line_end.group() == "\r" else "\n"


def _example_text(path: Path, encoding: str) -> str:
    """Return the first words in a file that are not ASCII, in which a user can see a wrong encoding."""
    with path.open(encoding=encoding, newline="") as stream:
        for block in iter(lambda: stream.read(BLOCK_BYTES), ""):
            if words := _NON_ASCII_WORDS.search(block):
                return words.group()[:30].strip().strip('"')
    return ""


def _display_name(encoding: str) -> str:
    """Return the name of an encoding as people write it: ``WINDOWS-1252`` for ``cp1252``."""
    name = encoding.removesuffix("-sig").upper().replace("_", "-")
    return f"WINDOWS-{name[2:]}" if re.fullmatch(r"CP125\d", name) else name


def _damage_message(path: Path, encoding: str, damage: tuple[int, int]) -> str:
    line, byte = damage
    output = shell_quoted("mended" + path.suffix)
    return (
        f"{path}: line {line} holds the byte 0x{byte:02x}, which is not {encoding}, unlike the rest of the file. "
        f"Correct that line, or remove such bytes: iconv -c -f {encoding} -t UTF-8 {shell_quoted(path)} > {output}"
    )
