"""Opens what runs are written down in, and what is hidden there, as settings and f1.toml say."""

from __future__ import annotations

from collections.abc import Mapping

from f1.config import Config
from f1.settings import Settings
from f1.store.runs import open_runs
from f1.trace.recorder import Recorder, Redacts


def hiding(config: Config, settings: Settings, env: Mapping[str, str]) -> Redacts:
    """Takes out of texts and JSON what the process knows to be secret, and what looks like it.
    `env` is the environment."""
    from f1.trace.known import open_redaction  # compiles many patterns

    return open_redaction(settings.redaction_file, config.trace.redact, config, env)


def open_recorder(
    config: Config, settings: Settings, env: Mapping[str, str], redaction: Redacts | None = None
) -> Recorder | None:
    """None where nothing is to be kept. `env` is the environment, which may say who else is told;
    `redaction`: as `hiding` makes it. Raises InvalidRequest."""
    from f1.trace.otel import open_otlp

    store = open_runs(settings)
    if store is None:
        return None
    trace, redaction = config.trace, redaction or hiding(config, settings, env)
    return Recorder(store, redaction, open_otlp(trace.otlp, redaction, env, trace.otlp_content))
