"""Errors that know how they look on the wire: HTTP status, OpenAI `type`, `param` and `code`."""

from __future__ import annotations

import difflib


class F1Error(Exception):
    """Base of every error a user of F1 may see. `param` names the field that is wrong."""

    status = 500
    type = "server_error"
    code: str | None = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ):
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.code
        self.retry_after = retry_after  # seconds


class InvalidRequest(F1Error):
    """The request cannot be served as it is; the message says which field and what was expected."""

    status = 400
    type = "invalid_request_error"


class InvalidSchema(InvalidRequest):
    """A tool's or response's JSON Schema is refused."""

    code = "invalid_schema"


class ContextLengthExceeded(InvalidRequest):
    """The prompt and the tokens asked for do not fit the context."""

    code = "context_length_exceeded"


class Unauthorized(F1Error):
    """No key that is known."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class Forbidden(F1Error):
    """Not to be asked in this way, or by this one."""

    status = 403
    type = "permission_error"


class ModelNotFound(F1Error):
    """No model of that name or path."""

    status = 404
    type = "invalid_request_error"
    code = "model_not_found"


class NotFound(F1Error):
    """Nothing of that id is kept, or not for this caller."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class ModelFileError(F1Error):
    """A model file is broken or not supported; the message names tensor, field or offset."""

    code = "model_file_error"


class DownloadError(F1Error):
    """Weights could not be fetched or did not match their checksum."""

    code = "download_error"


class ConstraintError(F1Error):
    """No token is legal under the grammar, or the grammar refused a token it had allowed."""

    code = "constraint_error"


class Overloaded(F1Error):
    """No room for the request now; try again later."""

    status = 429
    type = "rate_limit_error"
    code = "overloaded"


class DeadlineExceeded(F1Error):
    """The time that the request was given is over; its work has been stopped."""

    status = 408
    type = "timeout_error"
    code = "timeout"


class EngineStopped(F1Error):
    """The engine has shut down or failed; requests in flight end with this."""

    status = 503
    code = "engine_stopped"


class EngineCrashed(EngineStopped):
    """The engine's process died while it answered this; another has been started."""

    code = "engine_crashed"


class Quarantined(InvalidRequest):
    """The engine's process has died of this request twice: it is refused for an hour."""

    status = 422
    code = "quarantined"


class ShuttingDown(F1Error):
    """The server takes no more requests; or its time to finish those it has is over."""

    status = 503
    code = "shutting_down"


def meant(word: str, known: list[str]) -> str:
    """Behind "… is not known": the word that it may have been, or all that there are."""
    near = difflib.get_close_matches(word, known, 1)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; there {'is' if len(known) == 1 else 'are'} {', '.join(known) or 'none'}"
