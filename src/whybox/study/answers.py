"""The answers of a study in SQLite: an answer is on the disk before its place counts as answered."""

import json
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from whybox.errors import WhyboxError
from whybox.files import one_line
from whybox.study.design import Asked

LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
"""Without those that are read as others: I and 1, O and 0."""
CODE = 10
"""Letters of a participant code: 32 ** 10 of them, too many to guess one."""
TABLES = """
CREATE TABLE IF NOT EXISTS people (
    number INTEGER PRIMARY KEY, code TEXT NOT NULL UNIQUE, respondents TEXT NOT NULL, began_at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS places (
    number INTEGER NOT NULL, place INTEGER NOT NULL, question TEXT NOT NULL, condition TEXT NOT NULL, shown TEXT NOT NULL,
    asked_at TEXT, answered_at TEXT, milliseconds INTEGER, answer TEXT, PRIMARY KEY (number, place));
"""
PEOPLE, SIMULATED = "people", "simulated"


class NotFoundError(WhyboxError):
    """A participant code that nobody has."""


class ConflictError(WhyboxError):
    """An answer to a question that is answered already, or not yet asked."""


@dataclass(frozen=True)
class Place:
    """A question of one person.

    Attributes:
        number: The person's.
        place: Of the question in the person's order, from 0.
        count: How many questions the person has.
        asked: The question and how it is shown.
        asked_at: When it was first shown, in UTC; "" for not yet.
        answered_at: When the answer was stored; "" for not yet.
        milliseconds: From the first time that it was shown to the answer, by the person's device; -1: not told.
        answer: The answer; None: not yet.
    """

    number: int
    place: int
    count: int
    asked: Asked
    asked_at: str = ""
    answered_at: str = ""
    milliseconds: int = -1
    answer: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Person:
    """Someone who took part, or was simulated.

    Attributes:
        number: From 0, in the order in which they began.
        code: The participant code.
        respondents: "people" or "simulated".
        began_at: When the person agreed and began, in UTC.
    """

    number: int
    code: str
    respondents: str
    began_at: str


class Answers:
    """The file of a study's answers; it may be used by several threads and processes at once."""

    def __init__(self, file: Path, *, read_only: bool = False) -> None:
        """Open the file; a missing one is made.

        Args:
            file: The file.
            read_only: Refuse a missing one instead.

        Raises:
            WhyboxError: It is no such file, or cannot be opened.
        """
        if read_only and not file.is_file():
            raise WhyboxError(f"{file}: nobody has taken part yet; `whybox study serve` asks people")
        self._file, self._lock = file, threading.RLock()
        try:
            # Without implicit transactions: they are begun below, where a read and a write belong together.
            self._base = sqlite3.connect(file, isolation_level=None, check_same_thread=False, timeout=20)
            self._base.execute("PRAGMA journal_mode=WAL")
            # Also after a power cut: each commit waits for the disk, which WAL alone does not.
            self._base.execute("PRAGMA synchronous=FULL")
            self._base.executescript(TABLES)
        except sqlite3.Error as error:
            raise WhyboxError(f"{file}: cannot be opened as a file of answers ({one_line(error)})") from None

    def __enter__(self) -> Self:
        """The file itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._base.close()

    def begin(self, plan: Callable[[int], Sequence[Asked]], *, respondents: str = PEOPLE) -> str:
        """Add a person.

        Args:
            plan: The questions of the person of a number.
            respondents: "people" or "simulated".

        Returns:
            The participant code: random, or for a simulated one its number.
        """
        with self._transaction():
            (number,) = self._base.execute("SELECT COALESCE(MAX(number) + 1, 0) FROM people").fetchone()
            code = f"SIMULATED-{number}" if respondents == SIMULATED else "".join(secrets.choice(LETTERS) for _ in range(CODE))
            self._base.execute("INSERT INTO people VALUES (?, ?, ?, ?)", (number, code, respondents, now()))
            # The plan is kept, so that a person goes on with the same one whatever becomes of study.json.
            rows = [
                (number, place, asked.question, asked.condition, json.dumps(asked.order))
                for place, asked in enumerate(plan(number))
            ]
            named = "INSERT INTO places (number, place, question, condition, shown) VALUES (?, ?, ?, ?, ?)"
            self._base.executemany(named, rows)
        return code

    def next_of(self, code: str) -> Place | None:
        """The first question that a person has not answered, noting when it was first shown.

        Args:
            code: The participant code.

        Returns:
            The place; None where all are answered.

        Raises:
            NotFoundError: Nobody has this code.
        """
        with self._transaction():
            place = next((place for place in self._places(self._number(code)) if place.answer is None), None)
            if place is not None:
                first = "UPDATE places SET asked_at = ? WHERE number = ? AND place = ? AND asked_at IS NULL"
                self._base.execute(first, (now(), place.number, place.place))
        return place

    def place_of(self, code: str, place: int) -> Place:
        """One of a person's questions.

        Args:
            code: The participant code.
            place: From 0.

        Returns:
            The place.

        Raises:
            NotFoundError: Nobody has this code, or there is no such place.
        """
        with self._lock:
            found = next((other for other in self._places(self._number(code)) if other.place == place), None)
        if found is None:
            raise NotFoundError(f"there is no question {place + 1}")
        return found

    def store(self, place: Place, answer: Mapping[str, Any], milliseconds: int = -1) -> None:
        """Store an answer; when this returns, it is on the disk. The same answer again changes nothing.

        Args:
            place: The question.
            answer: The answer, checked by the design.
            milliseconds: How long it took; -1: not known.

        Raises:
            ConflictError: It has another answer already, or an earlier question has none yet.
        """
        with self._transaction():
            places = list(self._places(place.number))
            kept = places[place.place].answer
            if kept is not None and kept != dict(answer):
                raise ConflictError(f"question {place.place + 1} is answered already")
            if any(earlier.answer is None for earlier in places[: place.place]):
                raise ConflictError(f"question {place.place + 1} has not been asked yet")
            if kept is None:
                values = (json.dumps(dict(answer)), now(), milliseconds, place.number, place.place)
                named = "UPDATE places SET answer = ?, answered_at = ?, milliseconds = ? WHERE number = ? AND place = ?"
                self._base.execute(named, values)

    def people(self) -> list[Person]:
        """All who began.

        Returns:
            In the order in which they began.
        """
        with self._lock:
            rows = self._base.execute("SELECT number, code, respondents, began_at FROM people ORDER BY number").fetchall()
        return [Person(*row) for row in rows]

    def places(self, number: int) -> list[Place]:
        """The questions of a person.

        Args:
            number: The person's.

        Returns:
            In their order.
        """
        with self._lock:
            return list(self._places(number))

    def _places(self, number: int) -> Iterator[Place]:
        named = "SELECT place, question, condition, shown, asked_at, answered_at, milliseconds, answer FROM places"
        rows = self._base.execute(f"{named} WHERE number = ? ORDER BY place", (number,)).fetchall()
        for place, question, condition, shown, asked_at, answered_at, took, answer in rows:
            asked = Asked(question, condition, tuple(json.loads(shown)))
            times = (asked_at or "", answered_at or "", -1 if took is None else took)
            yield Place(number, place, len(rows), asked, *times, None if answer is None else json.loads(answer))

    def _number(self, code: str) -> int:
        row = self._base.execute("SELECT number FROM people WHERE code = ?", (code.strip().upper(),)).fetchone()
        if row is None:
            raise NotFoundError("nobody has this code; check its letters, or begin anew")
        return int(row[0])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing, and alone."""
        with self._lock:
            try:
                # Immediate: two processes that both read first could not both write then.
                self._base.execute("BEGIN IMMEDIATE")
                yield
                self._base.execute("COMMIT")
            except sqlite3.Error as error:
                self._roll_back()
                raise WhyboxError(f"{self._file}: an answer could not be stored ({one_line(error)})") from None
            except BaseException:
                self._roll_back()
                raise

    def _roll_back(self) -> None:
        if self._base.in_transaction:
            self._base.execute("ROLLBACK")


def now() -> str:
    """The time in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
