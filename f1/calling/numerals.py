"""Regular expressions of the numerals in a range, as JSON writes them.

5 … 120.5   ──▶   5 and its fractions | 6 … 119 and theirs | 120 up to .5
"""

from __future__ import annotations

from decimal import Decimal

ZERO = Decimal(0)
_DIGIT = "[0-9]"
_FRACTION = r"(?:|\.[0-9]+)"  # not (...)?: in xgrammar 0.2.8 (ba+)? matches "a", too
_EXPONENT = r"[eE](?:[+\-]?(?:[0-9]|[0-9]{2}|[12][0-9]{2}|30[0-7])|\-?308)"
# One digit stands before the point of a numeral with an exponent, so that no value overflows.
_SCIENTIFIC = rf"[0-9]{_FRACTION}{_EXPONENT}|1[eE]\+?308"
_WHOLE = "(?:0|[1-9][0-9]*)"


def integers(low: int | None, high: int | None) -> str:
    """Of the integers from `low` to `high`, both included; None: without end."""
    if low is None and high is None:
        return f"\\-?{_WHOLE}"
    options = []
    if low is None or low < 0:
        most = None if low is None else -low
        if most is None or most >= max(1, -(high if high is not None else 0)):
            least = 1 if high is None or high >= 0 else -high
            options.append(f"\\-(?:{_between(least, most)})")
    if high is None or high >= 0:
        least = 0 if low is None or low < 0 else low
        if high is None or high >= least:
            options.append(_between(least, high))
    return f"(?:{'|'.join(options)})"


def numbers(low: Decimal | None, high: Decimal | None, *, above: bool, below: bool) -> str:
    """Of the numbers from `low` to `high`; `above` and `below`: the bound itself is not one."""
    if low is None and high is None:
        return f"\\-?(?:{_WHOLE}{_FRACTION}|{_SCIENTIFIC})"
    options = []
    # Below zero: the magnitudes from -high to -low.
    if low is None or low < 0:
        least, strict = (-high, below) if high is not None and high <= 0 else (ZERO, False)
        options.append(f"\\-(?:{_magnitudes(least, None if low is None else -low, strict, above)})")
    if high is None or high > 0 or (high == 0 and not below):
        least, strict = (low, above) if low is not None and low >= 0 else (ZERO, False)
        options.append(_magnitudes(least, high, strict, below))
    return f"(?:{'|'.join(options)})"


def _magnitudes(low: Decimal, high: Decimal | None, above: bool, below: bool) -> str:
    """Numerals without sign in a range that begins at `low` >= 0."""
    whole, fraction = _split(low)
    options = []
    if high is None:
        if low == 0 and not above:
            return f"{_WHOLE}{_FRACTION}|{_SCIENTIFIC}"
        options.append(f"(?:{_between(whole + 1, None)}){_FRACTION}")
        options.append(f"{whole}{_tail(_at_least(fraction, above))}")
        if low == 0:
            options.append(rf"(?:[1-9]{_FRACTION}|0\.0*[1-9][0-9]*){_EXPONENT}")
        return "|".join(option for option in options if option)
    last, rest = _split(high)
    if whole == last:
        return f"{whole}{_tail(_within(fraction, rest, above, below))}"
    options.append(f"{whole}{_tail(_at_least(fraction, above))}")
    if last - whole > 1:
        options.append(f"(?:{_between(whole + 1, last - 1)}){_FRACTION}")
    if rest or not below:
        options.append(f"{last}{_tail(_at_most(rest, below))}")
    return "|".join(options)


def _split(value: Decimal) -> tuple[int, str]:
    """Its whole part, and the digits behind the point without the zeros at their end."""
    whole, _, fraction = f"{value:f}".partition(".")
    return int(whole), fraction.rstrip("0")


def _tail(digits: str) -> str:
    """What may follow the whole part: a point and digits, or nothing where `digits` may be."""
    if digits == "":
        return r"(?:|\.0+)"
    if digits.startswith("?"):
        return rf"(?:|\.(?:{digits[1:]}))"
    return rf"\.(?:{digits})"


# Digits behind a point, compared with a bound's. A "?" in front: there need be none.


def _at_least(bound: str, above: bool) -> str:
    if not bound:
        return "0*[1-9][0-9]*" if above else "?[0-9]+"
    options = []
    for at, digit in enumerate(bound):
        if digit < "9":
            options.append(f"{bound[:at]}[{int(digit) + 1}-9]{_DIGIT}*")
    options.append(f"{bound}0*[1-9][0-9]*" if above else f"{bound}{_DIGIT}*")
    return "|".join(options)


def _at_most(bound: str, below: bool) -> str:
    options = []
    for at, digit in enumerate(bound):
        if digit > "0":
            options.append(f"{bound[:at]}[0-{int(digit) - 1}]{_DIGIT}*")
        if at:
            options.append(bound[:at])
    if not below:
        options.append(f"{bound}0*" if bound else "0+")
    return "?" + "|".join(options)


def _within(low: str, high: str, above: bool, below: bool) -> str:
    """Both bounds have the same whole part."""
    same = 0
    while same < min(len(low), len(high)) and low[same] == high[same]:
        same += 1
    shared, low, high = low[:same], low[same:], high[same:]
    if not high:  # the bounds are equal
        return f"{shared}0*" if shared else "?0+"
    options = []
    first = int(low[0]) if low else 0
    if int(high[0]) - first > 1:
        options.append(f"[{first + 1}-{int(high[0]) - 1}]{_DIGIT}*")
    above_low = _at_least(low[1:], above)
    options.append(f"{first}" + _optional(above_low))
    below_high = _at_most(high[1:], below)
    if len(high) > 1 or not below:
        if int(high[0]) > first:
            options.append(high[0] + _optional(below_high))
        else:  # low is all zeros as far as it goes
            options[-1] = "0" + _optional(_within("", high[1:], above, below))
    text = f"{shared}(?:{'|'.join(options)})"
    if low or above:
        return text
    # low itself may stand without a digit more
    return f"{shared}|{text}" if shared else f"?{text}"


def _optional(digits: str) -> str:
    return f"(?:|{digits[1:]})" if digits.startswith("?") else f"(?:{digits})"


def _between(low: int, high: int | None) -> str:
    """Whole numerals from `low` >= 0 to `high`."""
    if high is None:
        digits = len(str(low))
        top = 10**digits
        longer = f"[1-9]{_DIGIT}{{{digits}}}{_DIGIT}*"
        return f"{_between(low, top - 1)}|{longer}"
    if low > high:
        raise ValueError(f"no integer from {low} to {high}")
    options = []
    for size in range(len(str(low)), len(str(high)) + 1):
        first = max(low, 10 ** (size - 1) if size > 1 else 0)
        options += _same_size(str(first), str(min(high, 10**size - 1)))
    return "|".join(options)


def _same_size(low: str, high: str) -> list[str]:
    """Numerals with as many digits as both have."""
    if low == high:
        return [low]
    if set(low) <= {"0"} and set(high) <= {"9"}:
        return [_DIGIT * len(low)]
    if len(low) == 1:
        return [f"[{low}-{high}]"]
    if low[0] == high[0]:
        return [low[0] + rest for rest in _same_size(low[1:], high[1:])]
    nines, zeros = "9" * (len(low) - 1), "0" * (len(low) - 1)
    options, first, last = [], int(low[0]), int(high[0])
    if low[1:] != zeros:
        options += [low[0] + rest for rest in _same_size(low[1:], nines)]
        first += 1
    if high[1:] != nines:
        last -= 1
    if first <= last:
        options.append(f"[{first}-{last}]" + _DIGIT * len(zeros))
    if high[1:] != nines:
        options += [high[0] + rest for rest in _same_size(zeros, high[1:])]
    return options
