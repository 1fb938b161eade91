"""Name -> builder for every swappable part, and the error that lists what exists.

A part is chosen by one YAML file: `name` finds the builder here, `module` is imported first (so that an extension need
not be imported by the package), every other key is a keyword of the builder.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, TypeVar

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
            ValueError: no such module, an option that the builder does not take, or of another type than it declares.
        """
        name, builder = str(options["name"]), self.find(options)
        chosen = {key: value for key, value in options.items() if key not in ("name", "module")}
        check_options(self.kind, name, builder, chosen)
        return builder(**{**chosen, **arguments})


def check_options(kind: str, name: str, builder: Callable[..., Any], chosen: Mapping[str, Any]) -> None:
    """Refuse options that `builder` does not take or whose type differs from the declared one."""
    signature = inspect.signature(builder, eval_str=True)
    for key, value in chosen.items():
        if key not in signature.parameters:
            raise ValueError(f"{kind}.{key}: {kind}={name} has no such option; {suggest(key, signature.parameters)}")
        declared = signature.parameters[key].annotation
        if declared in (int, float, bool, str) and not _is_a(value, declared):
            raise ValueError(f"{kind}.{key}={value!r}: {kind}={name} expects {declared.__name__}")


def _is_a(value: Any, declared: type) -> bool:
    if declared is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if declared is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, declared)


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
