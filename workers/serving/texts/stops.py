"""Where an answer ends at one of its stop texts, whose characters may come in any pieces.

>>> stops = StopTexts(["END", "\\n\\n"])
>>> stops.add("one E"), stops.add("N two\\n"), stops.add("\\nthree"), stops.stopped
('one ', 'EN two', '', True)
>>> stops = StopTexts(["END"])
>>> stops.add("one E"), stops.end()
('one ', 'E')
"""

from __future__ import annotations

from collections.abc import Sequence

#: How many stop texts an answer may have, and of how many characters each.
MOST_STOPS, MOST_STOP_CHARACTERS = 16, 256


class StopTexts:
    """Holds back what may be the beginning of a stop text. Of several, that ends the answer which is complete first, and of
    those that are complete at once the longest.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = [(text, _borders(text)) for text in texts]
        #: How many characters of each stop text the answer ends with now.
        self._reached = [0] * len(texts)
        self._held = ""
        self.stopped = False

    def add(self, text: str) -> str:
        """Return what may be shown after a text was added, up to a stop text; nothing more after one."""
        if self.stopped or not self._texts:
            return "" if self.stopped else text
        whole = self._held + text
        for place, character in enumerate(text, start=len(self._held) + 1):
            complete = 0
            for index, (stop, borders) in enumerate(self._texts):
                reached = self._next(stop, borders, self._reached[index], character)
                self._reached[index] = reached
                complete = max(complete, reached if reached == len(stop) else 0)
            if complete:
                self._held, self.stopped = "", True
                return whole[: place - complete]
        shown = len(whole) - max(self._reached)
        self._held = whole[shown:]
        return whole[:shown]

    def end(self) -> str:
        """Return what was held back, when no text follows."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _next(stop: str, borders: list[int], reached: int, character: str) -> int:
        while reached and (reached == len(stop) or stop[reached] != character):
            reached = borders[reached - 1]
        return reached + (stop[reached] == character)


def _borders(text: str) -> list[int]:
    """Return for each beginning of a text how many characters it begins and ends with alike, besides all (Knuth, Morris
    and Pratt 1977): so that each character of an answer is looked at once.
    """
    borders = [0] * len(text)
    reached = 0
    for place in range(1, len(text)):
        while reached and text[place] != text[reached]:
            reached = borders[reached - 1]
        reached += text[place] == text[reached]
        borders[place] = reached
    return borders
