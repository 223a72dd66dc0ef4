"""A typed, documented Python function as a tool: its JSON Schema, and calls with real types."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    NotRequired,
    TypedDict,
    Union,
    Unpack,
    cast,
    get_args,
    get_origin,
    overload,
)

from f1.tools.docstring import parse_docstring
from f1.tools.spec import Annotations, CallLimits, ToolSpec
from f1.types import JsonSchema, Tool

if TYPE_CHECKING:
    from pydantic import TypeAdapter

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True, slots=True)
class FunctionTool:
    """A function and what the model is told of it. Calling it calls the function."""

    function: Callable[..., Any]
    tool: Tool
    arguments: TypeAdapter[dict[str, Any]]
    output: JsonSchema | None = None
    examples: tuple[Mapping[str, Any], ...] = ()
    annotations: Annotations = field(default_factory=Annotations)
    limits: CallLimits = field(default_factory=CallLimits)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def bind(self, arguments: str) -> dict[str, Any]:
        """Keyword arguments of the annotated types from JSON text. Raises ValueError."""
        from pydantic import ValidationError

        try:
            return self.arguments.validate_json(arguments)
        except ValidationError as error:
            wrong = (
                f"{'.'.join(map(str, each['loc'])) or 'arguments'}: {each['msg']}"
                for each in error.errors(include_url=False, include_context=False)
            )
            raise ValueError("; ".join(wrong)) from error

    @property
    def spec(self) -> ToolSpec:
        """The tool as F1 keeps it; its calls run in threads of this process."""
        from f1.tools.runners.function import FunctionRunner

        return ToolSpec(
            self.tool,
            FunctionRunner(self),
            self.output,
            self.examples,
            self.annotations,
            self.limits,
        )


class ToolOptions(TypedDict, total=False):
    """What `@tool` takes; what is left out is read from the function, or is the default."""

    name: str
    description: str
    read_only: bool  # a call changes nothing; also means that it may be made again
    destructive: bool  # of those that are not read-only: a call may undo or overwrite
    idempotent: bool  # a second call of the same arguments changes nothing further
    timeout: float  # seconds, each try
    retries: int  # of repeatable tools, where the failure may pass
    max_parallel: int
    output: JsonSchema  # of what it returns; otherwise from the annotation, if there is one
    examples: Sequence[Mapping[str, Any]]  # arguments of good calls


@overload
def tool(function: Callable[..., Any], /) -> FunctionTool: ...
@overload
def tool(**options: Unpack[ToolOptions]) -> Callable[[Callable[..., Any]], FunctionTool]: ...


def tool(
    function: Callable[..., Any] | None = None, /, **options: Unpack[ToolOptions]
) -> FunctionTool | Callable[[Callable[..., Any]], FunctionTool]:
    """Makes a function a tool; `@tool` and `@tool(read_only=True, timeout=5)` both work.

    The parameters' schema comes from the annotations (everything pydantic knows: scalars, list,
    dict, Optional, Literal, Enum, dataclasses, models, Annotated with Field), the descriptions
    from the docstring. Raises TypeError for a function that has no such schema, or an option that
    is none; ValueError for limits or examples that cannot be kept to.
    """
    if function is None:
        return lambda wrapped: make_tool(wrapped, **options)
    return make_tool(function, **options)


def make_tool(function: Callable[..., Any], **options: Unpack[ToolOptions]) -> FunctionTool:
    """`tool` without the decorator. A FunctionTool is returned as it is."""
    if isinstance(function, FunctionTool):
        return function
    if unknown := options.keys() - ToolOptions.__annotations__.keys():
        raise TypeError(f"a tool has no option {', '.join(sorted(unknown))}")
    name = options.get("name") or str(getattr(function, "__name__", type(function).__name__))
    if not _NAME.match(name):
        raise TypeError(f"a tool's name is 1 to 64 of A-Z, a-z, 0-9, '_', '-', not {name!r}")
    summary, parameter_docs = parse_docstring(inspect.getdoc(function))
    signature = _signature(function, name)
    adapter, schema = _arguments(signature, name, parameter_docs)
    return FunctionTool(
        function,
        Tool(name, options.get("description", summary), schema),
        adapter,
        options.get("output") or _output(signature),
        _examples(options.get("examples", ()), adapter, name),
        Annotations(**_chosen(Annotations, options)),
        CallLimits(**_chosen(CallLimits, options)),
    )


def _chosen(kind: type, options: ToolOptions) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key in kind.__annotations__}


def _examples(
    examples: Sequence[Mapping[str, Any]], adapter: TypeAdapter[dict[str, Any]], name: str
) -> tuple[Mapping[str, Any], ...]:
    from pydantic_core import to_json

    for example in examples:
        try:
            adapter.validate_json(to_json(example))
        except ValueError as error:
            raise ValueError(f"tool '{name}' has an example that does not fit: {error}") from error
    return tuple(examples)


def _output(signature: inspect.Signature) -> dict[str, Any] | None:
    """The JSON Schema of what comes back, where the annotation says anything about it."""
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticUserError
    from pydantic.json_schema import GenerateJsonSchema

    class Written(GenerateJsonSchema):
        """Fields with defaults are written, too: who refers to one finds it."""

        def field_is_required(self, field: Any, total: bool) -> bool:
            if field["type"] == "typed-dict-field":
                return bool(field.get("required", total))
            return not field.get("serialization_exclude")

    if signature.return_annotation is signature.empty:
        return None
    try:
        returned: TypeAdapter[Any] = TypeAdapter(signature.return_annotation)
        schema = returned.json_schema(mode="serialization", schema_generator=Written)
    except PydanticUserError:  # a type that has none: its values are written as they come
        return None
    return _simplify(schema) or None  # `Any` is {}


def _arguments(
    signature: inspect.Signature, name: str, docs: Mapping[str, str]
) -> tuple[TypeAdapter[dict[str, Any]], dict[str, Any]]:
    """A validator of the arguments' object, and its JSON Schema."""
    from pydantic import ConfigDict, Field, TypeAdapter
    from pydantic.errors import PydanticUserError
    from typing_extensions import TypedDict as FieldsDict  # pydantic's, below Python 3.12

    defaults: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    for parameter in signature.parameters.values():
        annotation = _annotation(parameter, name)
        if parameter.name in docs:
            annotation = Annotated[annotation, Field(description=docs[parameter.name])]
        if parameter.default is not parameter.empty:
            defaults[parameter.name] = parameter.default
            annotation = NotRequired[annotation]
        fields[parameter.name] = annotation
    # A TypedDict, not a model: its keys may have any name, and missing ones stay missing.
    shape = cast(Any, FieldsDict)("Arguments", fields)
    shape.__pydantic_config__ = ConfigDict(extra="forbid")
    try:
        adapter = TypeAdapter(shape)
        schema = _simplify(adapter.json_schema())
    except PydanticUserError as error:
        reason = str(error).split("\n", 1)[0]
        raise TypeError(f"tool '{name}' has a parameter without a JSON Schema: {reason}") from error
    _add_defaults(schema, defaults)
    return adapter, schema


def _signature(function: Callable[..., Any], name: str) -> inspect.Signature:
    try:
        return inspect.signature(function, eval_str=True)
    except NameError as error:
        raise TypeError(f"tool '{name}': its annotations cannot be resolved: {error}") from error


def _annotation(parameter: inspect.Parameter, tool_name: str) -> Any:
    if parameter.kind not in _NAMED:
        raise TypeError(f"tool '{tool_name}': parameter '{parameter.name}' cannot be given by name")
    if parameter.annotation is parameter.empty:
        raise TypeError(f"tool '{tool_name}': parameter '{parameter.name}' has no annotation")
    annotation = parameter.annotation
    if parameter.default is None and get_origin(annotation) in (Union, types.UnionType):
        # `X | None = None`: leaving it out already says None, one way is enough for the model.
        kinds = tuple(kind for kind in get_args(annotation) if kind is not type(None))
        annotation = Union[kinds]  # noqa: UP007 - built at run time
    return annotation


def _add_defaults(schema: dict[str, Any], defaults: Mapping[str, Any]) -> None:
    from pydantic_core import PydanticSerializationError, to_jsonable_python

    for name, default in defaults.items():
        if default is None:
            continue
        try:
            schema["properties"][name]["default"] = to_jsonable_python(default)
        except PydanticSerializationError:
            continue  # a default the model cannot write; Python still applies it


def _simplify(schema: dict[str, Any]) -> dict[str, Any]:
    """Without generated titles, and with definitions in place of references to them: the shorter
    the schema, the better a small model follows it. A recursive schema keeps its references."""
    definitions = schema.get("$defs", {})
    recursive = False

    def walk(node: Any, inside: tuple[str, ...]) -> Any:
        nonlocal recursive
        if isinstance(node, list):
            return [walk(item, inside) for item in node]
        if not isinstance(node, dict):
            return node
        reference = str(node.get("$ref", "")).removeprefix("#/$defs/")
        if reference in inside:
            recursive = True
            return node
        if reference in definitions:
            rest = {key: value for key, value in node.items() if key != "$ref"}
            return walk(definitions[reference] | rest, (*inside, reference))
        return {key: walk_keyword(key, value, inside) for key, value in node.items()
                if key not in ("title", "$defs")}  # fmt: skip

    def walk_keyword(key: str, value: Any, inside: tuple[str, ...]) -> Any:
        if key == "properties":  # names of the user's, not keywords
            return {name: walk(property, inside) for name, property in value.items()}
        return value if key in ("const", "default", "enum", "examples") else walk(value, inside)

    simple = cast(dict[str, Any], walk(schema, ()))
    return schema if recursive else simple
