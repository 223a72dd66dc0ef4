"""Values that this process knows to be secret: of its environment, and of the operator's file.

headers = {Authorization = "Bearer ${KEY}"}   KEY's value, and all of the header
api_key_env = "KEY"   environment = ["KEY"]   KEY's value
base_url = "https://me:pw@host"               what has the shape of one
"""

from __future__ import annotations

import dataclasses
import logging
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from f1.trace.redaction import LEAST, Redaction, read_key
from f1.trace.secrets import find, is_secret_name, seems_random

log = logging.getLogger("f1.trace")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_NAMES = ("environment", "env")  # hold names of variables that others see
_KEYS = "F1_API_KEYS"


def open_redaction(
    key: Path, fields: Iterable[str], said: Any, env: Mapping[str, str]
) -> Redaction:
    """`key`: the file of this machine's key; `fields`: names that the operator calls secret;
    `said`: all that the operator's file says. Where no key can be kept, digests are of this process
    alone."""
    try:
        digests = read_key(key)
    except OSError as error:
        log.warning("no key for what is redacted can be kept in %s: %s", key.parent, error)
        digests = secrets.token_bytes(32)
    return Redaction(digests, fields=fields, values=known_values(said, env))


def known_values(said: Any, env: Mapping[str, str]) -> dict[str, str]:
    """Their kinds, by value."""
    found: dict[str, str] = {}

    def add(value: str, kind: str) -> None:
        if len(value) >= LEAST and not value.isspace():
            found.setdefault(value, kind)

    for name, value in env.items():
        if is_secret_name(name) or name == _KEYS:
            add(value, "environment")
    for item in env.get(_KEYS, "").split(","):
        add(item.rpartition(":")[2].strip(), "f1_key")
    for name, text in _texts(said, ""):
        for variable in _VARIABLE.findall(text):
            add(env.get(variable, ""), "environment")
        value = env.get(text, "")
        if name == "api_key_env" or (name in _NAMES and seems_random(value)):
            add(value, "environment")
        filled = _VARIABLE.sub(lambda match: env.get(match[1], ""), text)
        if is_secret_name(name) and not text.isupper():  # those name a variable
            add(filled, "header")
            add(filled.rpartition(" ")[2], "header")
        for start, end, kind in find(filled):
            add(filled[start:end], kind)
    return found


def _texts(said: Any, name: str) -> Iterator[tuple[str, str]]:
    """All texts in there, and the keys that they stand under."""
    if isinstance(said, str):
        yield name, said
    elif dataclasses.is_dataclass(said) and not isinstance(said, type):
        for field in dataclasses.fields(said):
            yield from _texts(getattr(said, field.name), field.name)
    elif isinstance(said, Mapping):
        for key, inner in said.items():
            yield from _texts(inner, str(key))
    elif isinstance(said, list | tuple | set | frozenset):
        for inner in said:
            yield from _texts(inner, name)
