"""Components by name: a registry maps ``name:`` in a config to a schema and to what is built from it.

A *group* is a place in the config where one of several components is chosen: a schedule, a sampler, a network. Each
component has a schema (a dataclass: its keys, types and defaults) and a builder (a function or a class). Schemas
import nothing heavy, so that a config can be checked without torch. The place of a built-in component's builder
follows from the group and the name, and is imported when it is first built.
"""

import importlib
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar

from diffexp.config.context import Context
from diffexp.errors import UserError, did_you_mean, requires_extra

Schema = TypeVar("Schema", bound="Component")


@dataclass
class Component:
    """Base of all schemas chosen by name. A group derives its own base; its components derive from that."""

    name: str = ""
    registry: ClassVar["Registry"]
    # Keys that change how weights are trained, but not what they compute.
    training_only: ClassVar[tuple[str, ...]] = ()
    # The extra of diffexp that installs what the builder imports.
    extra: ClassVar[str | None] = None

    def problems(self, context: Context) -> Iterator[tuple[str, str]]:
        """Yield ``(key, what is wrong)`` for values that do not fit the rest of the experiment.

        ``key`` is relative to this node. Types and ranges are already right when this is called.
        """
        yield from ()


def imported(place: str) -> Any:
    """What "module:attribute" or "module:class.attribute" names.

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
        group: what is chosen, in the singular, for messages ("schedule").
        base: the group's base schema. Its fields belong to the framework; a builder receives the fields
            that its own schema adds.
        builders: where the builders of diffexp's own components are, as "module:attribute": {name} stands for the
            component's name, {schema} for the name of its schema without "Config".
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
        """Class decorator: make a schema (a dataclass derived from the group's base) selectable as ``name``.

        Args:
            name: what a config writes after ``name:``.
            builder: called with the schema's own fields as keywords, after what the framework passes
                (a schedule gets T first, a network the image shape (C, H, W)). None takes the one that `builders`
                names, when it is first built; a component that is never built needs none.

        Raises:
            ValueError: if the name is taken by another schema or the schema is not of this group.
        """

        def add(schema: type[Schema]) -> type[Schema]:
            if not issubclass(schema, self.base):
                raise ValueError(f"{schema.__name__} must derive from {self.base.__name__}")
            taken = self._schemas.get(name)
            if taken is not None and taken.__qualname__ != schema.__qualname__:
                raise ValueError(f"the {self.group} name {name!r} is taken by {taken.__name__}")
            self._schemas[name] = schema
            if builder is not None:
                self._builders[name] = builder
            return schema

        return add

    def register_base(self, base: type[Schema]) -> type[Schema]:
        """Class decorator: a base of several of the group's schemas, whose fields too belong to the framework."""
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
        """The schema registered as ``name``.

        Raises:
            UserError: for an unknown name, with the known ones.
        """
        try:
            return self._schemas[name]
        except (KeyError, TypeError):
            raise UserError(self.unknown(name)) from None

    def unknown(self, name: str) -> str:
        """What to say of a name that is not registered."""
        return (
            f"there is no {self.group} {name!r} (known: {', '.join(self.names)})."
            f"{did_you_mean(str(name), self.names)} A component of your own needs --plugin MODULE."
        )

    def own_fields(self, schema: type[Component]) -> list[str]:
        """Names of the fields that ``schema`` adds to its registered bases: what its builder receives."""
        shared = {field.name for base in self._bases if issubclass(schema, base) for field in fields(base)}
        return [field.name for field in fields(schema) if field.name not in shared]

    def builder(self, name: str) -> Callable[..., Any]:
        """The builder of the component ``name``, imported if it is one of diffexp's own.

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
        """Build what ``component`` describes: ``builder(*args, **own fields, **kwargs)``."""
        own = {name: getattr(component, name) for name in self.own_fields(type(component))}
        return self.builder(component.name)(*args, **own, **kwargs)
