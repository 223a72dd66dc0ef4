"""Opens what runs are written down in, as the settings and f1.toml have it."""

from __future__ import annotations

from collections.abc import Mapping

from f1.config import Config
from f1.settings import Settings
from f1.store.runs import open_runs
from f1.trace.recorder import Recorder


def open_recorder(config: Config, settings: Settings, env: Mapping[str, str]) -> Recorder | None:
    """None where nothing is to be kept. `env` is the environment: what is secret in it is not
    written down, and it may say who else is told. Raises InvalidRequest."""
    from f1.trace.known import open_redaction  # compiles many patterns
    from f1.trace.otel import open_otlp

    store = open_runs(settings)
    if store is None:
        return None
    redaction = open_redaction(settings.redaction_file, config.trace.redact, config, env)
    trace = config.trace
    return Recorder(store, redaction, open_otlp(trace.otlp, redaction, env, trace.otlp_content))
