"""Small WordNets in the files of a real one (wndb(5WN)), for nltk to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

#: The part of speech of each file, and words that mean the same in it; one of several words has `_` between them.
SYNSETS: dict[str, Sequence[Sequence[str]]] = {
    "noun": (("car", "auto", "automobile", "motor_vehicle"), ("car", "railcar"), ("child", "kid"), ("dog", "hound")),
    "verb": (("run", "race"), ("run", "operate"), ("buy", "purchase"), ("happi", "gladden")),
    "adj": (("large", "big"), ("glad", "happy")),
    "adv": (("fast", "quickly"),),
}
_LETTERS = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
_EXCEPTIONS = {"verb": "bought buy\nran run\n", "noun": "children child\n"}


def save_wordnet(folder: Path, synsets: Mapping[str, Sequence[Sequence[str]]] = SYNSETS) -> Path:
    """Write a WordNet of these synsets; return the folder."""
    folder.mkdir(parents=True)
    (folder / "lexnames").write_text("00\tall\t1\n")
    for part, letter in _LETTERS.items():
        lines, senses, at = ["  1 A small WordNet.  \n"], dict[str, list[int]](), len("  1 A small WordNet.  \n")
        for words in synsets.get(part, ()):
            listed = " ".join(f"{word} 0" for word in words)
            frames = " 01 + 02 00" if part == "verb" else ""
            line = f"{at:08d} 00 {letter} {len(words):02x} {listed} 000{frames} | meaning {words[0]}  \n"
            for word in words:
                senses.setdefault(word, []).append(at)
            lines.append(line)
            at += len(line)
        (folder / f"data.{part}").write_text("".join(lines))
        index = [
            f"{word} {letter} {len(places)} 0 {len(places)} 0 {' '.join(f'{place:08d}' for place in places)}  \n"
            for word, places in sorted(senses.items())
        ]
        (folder / f"index.{part}").write_text("".join(index))
        (folder / f"{part}.exc").write_text(_EXCEPTIONS.get(part, ""))
    return folder
