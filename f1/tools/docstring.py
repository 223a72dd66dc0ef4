"""What a docstring says of a function and its parameters (Google or Sphinx style)."""

from __future__ import annotations

import inspect
import re

_SECTION = re.compile(r"(Args|Arguments|Parameters|Returns|Yields|Raises|Examples?|Notes?):\s*\Z")
_PARAMETERS = ("Args", "Arguments", "Parameters")
_GOOGLE = re.compile(r"\*{0,2}(\w+)\s*(?:\([^)]*\))?:\s*(.*)")  # "city (str): Where to look."
_SPHINX = re.compile(r":(?:param|parameter|arg)\s+(?:[^:]*\s)?(\w+):\s*(.*)")


def parse_docstring(text: str | None) -> tuple[str, dict[str, str]]:
    """The description, and each parameter's. Sections other than parameters are left out."""
    description: list[str] = []
    parameters: dict[str, list[str]] = {}
    section = ""
    into = description  # where a line that opens nothing goes on
    indent = 0  # of the parameter names in the section
    for line in inspect.cleandoc(text or "").splitlines():
        plain, depth = line.strip(), len(line) - len(line.lstrip())
        if depth == 0 and (heading := _SECTION.match(plain)):
            section, into, indent = heading[1], [], 0
        elif match := _SPHINX.match(plain):
            into = parameters.setdefault(match[1], [])
            into.append(match[2])
        elif plain.startswith(":"):  # :returns:, :raises X:
            into = []
        elif section in _PARAMETERS and plain and depth <= (indent or depth):
            indent = indent or depth
            match = _GOOGLE.match(plain)
            into = parameters.setdefault(match[1], []) if match else []
            into.append(match[2] if match else plain)
        else:
            into.append(plain)
    return _joined(description), {name: _joined(lines) for name, lines in parameters.items()}


def _joined(lines: list[str]) -> str:
    return " ".join(line for line in lines if line)
