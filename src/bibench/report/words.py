"""Numbers, sizes and times in words, for people."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["amount", "counted", "duration", "short_time", "size"]


def counted(number: int, what: str) -> str:
    """A number of things.

    >>> counted(1, "run"), counted(1200, "run")
    ('1 run', '1,200 runs')
    """
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def amount(value: float) -> str:
    """A count for people, with three digits.

    >>> amount(640), amount(11_173_962), amount(999_700)
    ('640', '11.2 M', '1.00 M')
    """
    return _scaled(value, ("", "K", "M", "G", "T", "P"))


def size(value: float) -> str:
    """A number of bytes for people, with three digits.

    >>> size(1_500), size(44.7e6)
    ('1.50 kB', '44.7 MB')
    """
    return _scaled(value, ("B", "kB", "MB", "GB", "TB", "PB"))


def short_time(seconds: float) -> str:
    """The time of a training step, or a latency, for people, with three digits.

    >>> short_time(0.00123), short_time(2.5), short_time(0.0000123)
    ('1.23 ms', '2.50 s', '12.3 µs')
    """
    for least, factor, unit in ((0.9995, 1, "s"), (0.9995e-3, 1e3, "ms")):
        if seconds >= least:
            return f"{_three(factor * seconds)} {unit}"
    return f"{_three(1e6 * seconds)} µs"


def _scaled(value: float, units: Sequence[str]) -> str:
    unit = 0
    while value >= 999.5 and unit < len(units) - 1:
        value, unit = value / 1000, unit + 1
    number = f"{value:.0f}" if unit == 0 else _three(value)
    return f"{number} {units[unit]}".rstrip()


def _three(value: float) -> str:
    return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f}"


def duration(seconds: float) -> str:
    """A length of time for people.

    >>> duration(4.2), duration(75), duration(7500)
    ('4.2 s', '1 min 15 s', '2 h 05 min')
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
