"""Registries of components: each maps ``name:`` in a config to a schema and a builder.

A *group* is a place in the config with a choice of components: a schedule, a sampler, a network. A component's schema
is a dataclass with its keys, types and defaults; its builder is a function or class. Schemas do not import torch, so a
config can be validated without it. The path of a built-in component's builder follows from the group and the name. The
builder is imported on first use.
"""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, ClassVar, TypeVar

from diffexp.config.context import Context
from diffexp.errors import UserError, did_you_mean, requires_extra

Schema = TypeVar("Schema", bound="Component")


@dataclass
class Component:
    """Base class of all schemas chosen by name. Each group has its own base class, from which its components derive."""

    name: str = ""
    registry: ClassVar["Registry"]
    # Keys that affect training but not the function that the weights compute.
    training_only: ClassVar[tuple[str, ...]] = ()
    # The extra of diffexp that installs what the builder imports.
    extra: ClassVar[str | None] = None
    # The packages of that extra.
    packages: ClassVar[tuple[str, ...]] = ()

    def problems(self, context: Context) -> Iterator[tuple[str, str]]:
        """Yield ``(key, problem)`` for values that do not fit the rest of the experiment.

        ``key`` is relative to this node. Types and ranges are already valid when this is called.
        """
        yield from ()

    def fitting_defaults(self, context: Context) -> Iterator[tuple[str, Any]]:
        """Yield ``(key, value)`` for defaults that do not fit the rest of the experiment, and the values that do.

        They apply only where no file and no override sets the key.
        """
        yield from ()

    def unavailable(self, context: Context) -> Iterator[tuple[str, str]]:
        """Yield ``(key, problem)`` for files and packages that this machine lacks.

        Must take microseconds: every trial of a sweep is checked.
        """
        for package in self.packages:
            if not is_installed(package):
                yield "name", f"the package {package} is not installed. Run pip install 'diffexp[{self.extra}]'."


@cache
def is_installed(package: str) -> bool:
    """Whether a top-level package can be imported; does not import it."""
    return package in sys.modules or importlib.util.find_spec(package) is not None


def imported(place: str) -> Any:
    """Import the object that "module:attribute" or "module:class.attribute" names.

    Raises:
        AttributeError: if the module lacks it.
    """
    module, _, attributes = place.partition(":")
    found: Any = importlib.import_module(module)
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            raise AttributeError(f"expected {place}, got no {attribute} in {module}. Define or export it there.")
        found = getattr(found, attribute)
    return found


class Registry:
    """The components of one group.

    Args:
        group: name of the group in the singular, for messages ("schedule").
        base: the group's base schema. Its fields belong to the framework; a builder receives the fields
            that its own schema adds.
        builders: path of the built-in components' builders, as "module:attribute". {name} is replaced by the
            component's name, {schema} by the name of its schema without "Config".
    """

    def __init__(self, group: str, base: type[Component], builders: str = "") -> None:
        self.group = group
        self.base = base
        self.builders = builders
        self._bases: list[type[Component]] = [base]
        self._schemas: dict[str, type[Component]] = {}
        self._builders: dict[str, Callable[..., Any]] = {}
        base.registry = self

    def register(self, name: str, builder: Callable[..., Any] | None = None) -> Callable[[type[Schema]], type[Schema]]:
        """Decorate a schema (a dataclass derived from the group's base) to register it as ``name``.

        Args:
            name: value of ``name:`` in a config.
            builder: called with the framework's arguments (T for a schedule, the image shape (C, H, W) for a network),
                then the schema's own fields as keywords. None imports the one at `builders` on first use; a component
                that is never built needs none.

        Raises:
            ValueError: if another schema has the name or the schema is not of this group.
        """

        def add(schema: type[Schema]) -> type[Schema]:
            if not issubclass(schema, self.base):
                raise ValueError(f"expected a schema derived from {self.base.__name__}, got {schema.__name__}.")
            taken = self._schemas.get(name)
            if taken is not None and taken.__qualname__ != schema.__qualname__:
                raise ValueError(f"expected an unused {self.group} name, got {name!r}, the name of {taken.__name__}.")
            self._schemas[name] = schema
            if builder is not None:
                self._builders[name] = builder
            return schema

        return add

    def register_base(self, base: type[Schema]) -> type[Schema]:
        """Decorate a base class of several of the group's schemas, whose fields also belong to the framework."""
        self._bases.append(base)
        return base

    @property
    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._schemas)

    @property
    def schemas(self) -> list[type[Component]]:
        """All schemas, in the order in which they were registered."""
        return list(self._schemas.values())

    def schema(self, name: str) -> type[Component]:
        """Return the schema registered as ``name``.

        Raises:
            UserError: for an unknown name, listing the known ones.
        """
        try:
            return self._schemas[name]
        except (KeyError, TypeError):
            raise UserError(self.unknown(name)) from None

    def unknown(self, name: str) -> str:
        """Return the message for a name that is not registered."""
        return (
            f"expected a known {self.group} ({', '.join(self.names)}), got {name!r}."
            f"{did_you_mean(str(name), self.names)} To use your own, pass --plugin MODULE."
        )

    def own_fields(self, schema: type[Component]) -> list[str]:
        """Return the names of the fields that ``schema`` adds to its registered bases, which its builder receives."""
        shared = {field.name for base in self._bases if issubclass(schema, base) for field in fields(base)}
        return [field.name for field in fields(schema) if field.name not in shared]

    def builder(self, name: str) -> Callable[..., Any]:
        """Return the builder of the component ``name``; import it if it is built in.

        Raises:
            UserError: if its extra is not installed.
        """
        if name not in self._builders:
            found = self._schemas[name]
            place = self.builders.format(name=name, schema=found.__name__.removesuffix("Config"))
            what = f"{self.group} {name}"
            with nullcontext() if found.extra is None else requires_extra(what, found.extra):
                self._builders[name] = imported(place)
        return self._builders[name]

    def build(self, component: Component, *args: Any, **kwargs: Any) -> Any:
        """Build a component: ``builder(*args, **own fields, **kwargs)``."""
        own = {name: getattr(component, name) for name in self.own_fields(type(component))}
        return self.builder(component.name)(*args, **own, **kwargs)
