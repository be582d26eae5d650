"""Character encoding and line ends of text files: UTF-8 as a rule, otherwise detected and verified."""

import codecs
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hf_transfer.errors import InputError, shell_quoted, short_path

BLOCK = 1 << 20
# So much of what is not ASCII is looked at to guess an encoding; the guess is verified on the whole file.
SAMPLE_BYTES = 1 << 17
MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
# What tables are still written in; of those that read a file equally well, the first is taken.
CANDIDATES = ("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258", "cp874",
              "gb18030", "big5", "cp932", "euc_jp", "cp949", "mac_roman")  # fmt: skip
_UTF8_SEQUENCE = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
# Within a word, signs such as ¹ or ¿ are letters of another code page.
_SIGN_IN_WORD = re.compile(r"(?<=\w)[¡-©«-´¶-¹»-¿×÷‚„†‡‰¤](?=[^\W\d_])")
_WORD = re.compile(r"[^\s,;|]*[^\x00-\x7f][^,;|\t\r\n]*")
_LINE_END = re.compile(r"\r*\n|\r")


@dataclass(frozen=True)
class TextFile:
    """A text file with its encoding and line ends, from `examine_text`.

    `newline` is an argument of `open`: lines end at ``\\n`` alone, or at ``\\r`` too where the file's do.
    """

    path: Path
    encoding: str
    newline: str
    remarks: tuple[str, ...] = ()

    def lines(self) -> Iterator[str]:
        """The lines with their ends, read as they are asked for."""
        with self.path.open(encoding=self.encoding, newline=self.newline) as stream:
            yield from stream


def examine_text(path: Path) -> TextFile:
    """The encoding and line ends of a text file, verified on all of it.

    Raises:
        InputError: parts of it are in no encoding, or in another than the rest; the message says where.
    """
    with path.open("rb") as stream:
        start = stream.read(4)
    marked = next((encoding for mark, encoding in MARKS if start.startswith(mark)), None)
    encoding = marked or "utf-8"
    damage = _first_damage(path, encoding)
    remarks: tuple[str, ...] = ()
    if damage is not None and (marked or _mostly_utf8(path)):
        raise InputError(_damaged(path, _shown(encoding), damage))
    if damage is not None:
        encoding = _guessed(path, damage)
    elif not marked:
        encoding = _utf16_without_mark(path) or encoding
    if encoding not in ("utf-8", "utf-8-sig"):
        example = _example(path, encoding)
        doubt = f", as in {example!r}. If letters are wrong there, save the file as UTF-8." if damage else "."
        remarks = (f"{short_path(path)} is read as {_shown(encoding)}{doubt}",)
    return TextFile(path, encoding, _newline(path, encoding), remarks)


def _first_damage(path: Path, encoding: str) -> tuple[int, int] | None:
    """Line and byte of the first place that is not in `encoding`; None where all of the file is."""
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    line = 1
    with path.open("rb") as stream:
        while True:
            block = stream.read(BLOCK)
            try:
                line += decoder.decode(block, final=not block).count("\n")
            except UnicodeDecodeError as error:
                before = error.object[: error.start].decode(error.encoding, "ignore")
                return line + before.count("\n"), error.object[min(error.start, len(error.object) - 1)]
            if not block:
                return None


def _sample(path: Path) -> bytes:
    """Lines of a file that are not ASCII, up to `SAMPLE_BYTES`."""
    found = bytearray()
    with path.open("rb") as stream:
        rest = b""
        while len(found) < SAMPLE_BYTES and (block := stream.read(BLOCK)):
            *lines, rest = (rest + block).split(b"\n")
            found += b"".join(line + b"\n" for line in lines if not line.isascii())
            rest = rest[:BLOCK]
        if not found or len(found) < SAMPLE_BYTES:
            found += rest if not rest.isascii() else b""
    return bytes(found[:SAMPLE_BYTES])


def _mostly_utf8(path: Path) -> bool:
    """Whether what is not ASCII is UTF-8 for a good part: such a file is damaged or mixed, not in another encoding."""
    sample = _sample(path)
    sequences = _UTF8_SEQUENCE.findall(sample)
    others = sum(byte > 127 for byte in sample) - sum(map(len, sequences))
    return len(sequences) > others / 2


def _guessed(path: Path, damage: tuple[int, int]) -> str:
    """The likeliest encoding of a file that is not UTF-8."""
    sample = _sample(path)
    for encoding in _ranked(sample):
        if _first_damage(path, encoding) is None:
            return encoding
    raise InputError(_damaged(path, "UTF-8", damage))


def _ranked(sample: bytes) -> Iterable[str]:
    from charset_normalizer import from_bytes

    readable = [encoding for encoding in CANDIDATES if _reads(sample, encoding)]
    matches = list(from_bytes(sample, cp_isolation=list(CANDIDATES), threshold=0.25))
    names = [name for match in matches for name in (match.encoding, *match.could_be_from_charset)]
    western = next((m for m in matches if "cp1252" in (m.encoding, *m.could_be_from_charset)), None)
    best = matches[0] if matches else None
    # Code pages of Latin letters read short samples equally well: the commonest of them is taken where it is as good.
    plausible = "cp1252" in readable and not _SIGN_IN_WORD.search(sample.decode("cp1252"))
    if plausible and (best is None or (western and western.chaos <= best.chaos + 0.05
                                       and western.coherence >= best.coherence - 0.1)):  # fmt: skip
        turkish = re.search("[ýþð]", text := sample.decode("cp1252")) and not re.search("[áíóæÁÍÓ]", text)
        names.insert(0, "cp1254" if turkish else "cp1252")  # Icelandic has these three letters too, and the others
    by_signs = sorted(readable, key=lambda encoding: len(_SIGN_IN_WORD.findall(sample.decode(encoding, "ignore"))))
    return dict.fromkeys([name for name in names if name in CANDIDATES] + by_signs)


def _reads(sample: bytes, encoding: str) -> bool:
    try:
        # The sample may end within a character.
        codecs.getincrementaldecoder(encoding)("strict").decode(sample)
    except UnicodeDecodeError:
        return False
    return True


def _utf16_without_mark(path: Path) -> str | None:
    """UTF-16 that begins without a mark is valid UTF-8 where its texts are ASCII: NUL bytes give it away."""
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
    """What `open` takes for the line ends of the file: ``""`` where the first outside quotes is a lone ``\\r``."""
    with path.open(encoding=encoding, newline="") as stream:
        head = stream.read(SAMPLE_BYTES)
    found = _LINE_END.search(re.sub(r'"[^"]*"', "", head)) or _LINE_END.search(head)
    return "" if found and found.group() == "\r" else "\n"


def _example(path: Path, encoding: str) -> str:
    with path.open(encoding=encoding, newline="") as stream:
        for block in iter(lambda: stream.read(BLOCK), ""):
            if found := _WORD.search(block):
                return found.group()[:30].strip().strip('"')
    return ""


def _shown(encoding: str) -> str:
    name = encoding.removesuffix("-sig").upper().replace("_", "-")
    return f"WINDOWS-{name[2:]}" if re.fullmatch(r"CP125\d", name) else name


def _damaged(path: Path, encoding: str, damage: tuple[int, int]) -> str:
    line, byte = damage
    out = shell_quoted("mended" + path.suffix)
    return (
        f"{path}: line {line} holds the byte 0x{byte:02x}, which is not {encoding} as the rest of the file. Mend that "
        f"line, or leave such bytes out: iconv -c -f {encoding} -t UTF-8 {shell_quoted(path)} > {out}"
    )
