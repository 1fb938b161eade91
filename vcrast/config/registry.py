"""Registries: name -> builder of every swappable part.

A part is chosen by one YAML file: `name` finds the builder here, `module` is imported first (so that an extension need
not be imported by the package), every other key is a keyword of the builder. The YAML holds the defaults of these
keywords, the builder has none: a missing option is an error, not a second opinion.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from vcrast.config.words import suggest

T = TypeVar("T", bound=Callable[..., Any])


def importable_name(module: str) -> str:
    """The name under which Python finds `extensions.X` or `launch.X`.

    A wheel ships both folders inside vcrast; a clone has them beside it, and users may have their own `extensions`.
    """
    inside = f"vcrast.{module}"
    if module.partition(".")[0] not in ("extensions", "launch"):
        return module
    try:
        found = importlib.util.find_spec(inside)
    except ModuleNotFoundError as error:
        # A package above the module that asks in vain for another one is a fault of its own.
        if not f"{inside}.".startswith(f"{error.name}."):
            raise
        found = None
    return inside if found else module


def import_part(setting: str, module: str) -> ModuleType:
    """Import and return the module that a setting names; importing it registers its parts.

    Raises:
        ValueError: no such module. What goes wrong within it is raised as it is.
    """
    module = importable_name(module)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # A module that this one asks for in vain is no mistake in the setting.
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ValueError(
            f"{setting}={module}: Python finds no module {error.name!r}; a file extensions/NAME.py is extensions.NAME, "
            "other folders must be on PYTHONPATH"
        ) from None


class Registry:
    """One table of builders, such as the attention backends."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.builders: dict[str, Callable[..., Any]] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that enters a class or function under `name`; a name is given once."""

        def enter(builder: T) -> T:
            known = self.builders.get(name)
            # A module that is run and imported (python -m) registers the same builder twice; anything else is a clash.
            if known is not None and known.__qualname__ != builder.__qualname__:
                raise ValueError(
                    f"{self.kind} {name!r} is registered twice: {known.__module__} and {builder.__module__}"
                )
            self.builders[name] = builder
            return builder

        return enter

    def get(self, name: str) -> Callable[..., Any]:
        """The builder called `name`.

        Raises:
            KeyError: no such name; the message lists the registered ones.
        """
        if name not in self.builders:
            raise KeyError(f"{self.kind} {name!r} is not registered; {suggest(name, self.builders)}")
        return self.builders[name]

    def find(self, options: Mapping[str, Any]) -> Callable[..., Any]:
        """The builder that a config group names, its module imported first; errors as in `build`."""
        if module := options.get("module"):
            import_part(f"{self.kind}.module", str(module))
        return self.get(str(options["name"]))

    def build(self, options: Mapping[str, Any], **arguments: Any) -> Any:
        """Build the part that a config group describes.

        Args:
            options: `name`, optionally `module`, and the user's options as keywords of the builder.
            **arguments: what the program adds, such as sizes; they win over options of the same name.

        Raises:
            KeyError: no such part.
            ValueError: no such module; otherwise as `check_options`.
        """
        name, builder = str(options["name"]), self.find(options)
        chosen = {key: value for key, value in options.items() if key not in ("name", "module")}
        check_options(self.kind, builder, chosen, name=name, given=arguments)
        return builder(**{**chosen, **arguments})


def check_options(
    setting: str,
    builder: Callable[..., Any],
    options: Mapping[str, Any],
    *,
    name: str | None = None,
    given: Collection[str] = (),
) -> None:
    """Refuse options that `builder` does not take, lacks, or declares with another type.

    Args:
        setting: where the options stand, such as `attention` or `finetune.views`.
        builder: a class or function whose keywords the options are.
        options: of the user.
        name: of the part, where there are several of its kind.
        given: keywords that the program adds; an option of that name may be left out.

    Raises:
        ValueError: names the setting, its value, and what is valid.
    """
    part = f"{setting}={name}" if name else setting
    parameters = keywords(builder)
    valid = [key for key in parameters if key not in given or key in options]
    for key, value in options.items():
        if key not in parameters:
            raise ValueError(f"{setting}.{key}: {part} has no such option; {suggest(str(key), valid)}")
        declared = parameters[key].annotation
        if not fits(value, declared):
            raise ValueError(f"{setting}.{key}={value!r}: {part} expects {in_words(declared)}")
    missing = [key for key in valid if key not in options and _is_required(parameters[key])]
    if missing:
        raise ValueError(
            f"{setting}.{missing[0]}: not set, and {part} needs it; give a value in its file in configs/, or inherit "
            "one there with `defaults: [FILE, _self_]`"
        )


def keywords(builder: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """What a builder takes by name; a class that hands on `**others` takes what the next class in line takes, too."""
    found = dict(inspect.signature(builder, eval_str=True).parameters)
    if not isinstance(builder, type):
        return found
    for parent in builder.__mro__:
        if "__init__" not in vars(parent):
            continue
        own = inspect.signature(vars(parent)["__init__"], eval_str=True).parameters
        rest = [key for key, each in own.items() if each.kind is inspect.Parameter.VAR_KEYWORD]
        found |= {key: each for key, each in own.items() if key not in ("self", *found)}
        found = {key: each for key, each in found.items() if key not in rest}
        if not rest:
            break
    return found


def _is_required(parameter: inspect.Parameter) -> bool:
    named = parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return named and parameter.default is inspect.Parameter.empty


def fits(value: Any, declared: Any) -> bool:
    """Whether a value from YAML is of a declared type; a type that no YAML value has, such as a module, always fits.

    A whole number is also a `float`, `true` is no number, a text is no list.
    """
    origin, inner = get_origin(declared) or declared, get_args(declared)
    if origin in (Union, types.UnionType):
        return any(fits(value, each) for each in inner)
    if origin is Literal:
        return any(value == each and type(value) is type(each) for each in inner)
    if origin in (list, tuple, Sequence, Iterable):
        return _is_list(value) and all(fits(item, inner[0]) for item in value if inner)
    if origin in (dict, Mapping):
        return isinstance(value, Mapping) and all(fits(item, inner[1]) for item in value.values() if inner)
    if origin is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if origin is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin in (None, types.NoneType):
        return value is None
    return isinstance(value, origin) if origin in (bool, str) else True


def in_words(declared: Any) -> str:
    """A declared type as a message names it: `a list of float, or null`."""
    origin, inner = get_origin(declared) or declared, get_args(declared)
    if origin in (Union, types.UnionType):
        return " or ".join(in_words(each) for each in inner)
    if origin is Literal:
        return f"one of {', '.join(str(each) for each in inner)}"
    if origin in (list, tuple, Sequence, Iterable):
        return f"a list of {in_words(inner[0])}" if inner else "a list"
    if origin in (dict, Mapping):
        return f"a mapping of names to {in_words(inner[1])}" if inner else "a mapping"
    if origin in (None, types.NoneType):
        return "null"
    return str(getattr(origin, "__name__", origin))


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


SOURCES = Registry("data")
DOWNLOADS = Registry("data download")
ATTENTIONS = Registry("attention")
LINEARS = Registry("linear")
STREAMS = Registry("source")
PROGRAMS = Registry("source.program")
MODELS = Registry("model")
OBJECTIVES = Registry("objective")
EVALUATIONS = Registry("evaluation")
OPTIMS = Registry("optim")
SCHEDULES = Registry("schedule")
ENGINES = Registry("engine")
LOGGERS = Registry("logger")
