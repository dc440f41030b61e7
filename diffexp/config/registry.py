"""Choices by name: a registry maps ``name:`` in a config to a schema and to what is built from it.

A *group* is a place in the config where one of several things is chosen: a schedule, a sampler, a
network. Each choice has a schema (a dataclass: its keys, types and defaults) and a builder (a function
or a class). Schemas import nothing heavy, so that a config can be checked without torch; the builder of
a built-in choice is therefore named by a string and imported when it is first built.
"""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from diffexp.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from diffexp.config.experiment import Experiment

Schema = TypeVar("Schema", bound="Choice")


@dataclass
class Choice:
    """Base of all schemas chosen by name. A group derives its own base; the choices derive from that."""

    name: str = ""
    registry: ClassVar["Registry"]
    # Keys that change how weights are trained, but not what they compute.
    training_only: ClassVar[tuple[str, ...]] = ()

    def problems(self, experiment: "Experiment") -> Iterator[tuple[str, str]]:
        """Yield ``(key, what is wrong)`` for values that do not fit the rest of the experiment.

        ``key`` is relative to this node. Types and ranges are already right when this is called.
        """
        yield from ()


def imported(place: str) -> Any:
    """What "module:attribute" names."""
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)


class Registry:
    """The choices of one group.

    Args:
        group: what is chosen, in the singular, for messages ("schedule").
        base: the group's base schema. Its fields belong to the framework; a builder receives the fields
            that its own schema adds.
    """

    def __init__(self, group: str, base: type[Choice]) -> None:
        self.group = group
        self.base = base
        self._families: list[type[Choice]] = [base]
        self._schemas: dict[str, type[Choice]] = {}
        self._builders: dict[str, Callable[..., Any] | str] = {}
        base.registry = self

    def register(self, name: str, builder: Callable[..., Any] | str | None) -> Callable[[type[Schema]], type[Schema]]:
        """Class decorator: make a schema (a dataclass derived from the group's base) selectable as ``name``.

        Args:
            name: what a config writes after ``name:``.
            builder: called with the schema's own fields as keywords, after what the framework passes
                (a schedule gets T first, a network the image shape (C, H, W)). Or ``"module:attribute"``. None where
                the schema says everything.

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

    def family(self, base: type[Schema]) -> type[Schema]:
        """Class decorator: a base of several of the group's schemas, whose fields too belong to the framework."""
        self._families.append(base)
        return base

    @property
    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._schemas)

    def schema(self, name: str) -> type[Choice]:
        """The schema registered as ``name``.

        Raises:
            UserError: for an unknown name, with the known ones.
        """
        try:
            return self._schemas[name]
        except (KeyError, TypeError):
            raise UserError(
                f"there is no {self.group} {name!r} (known: {', '.join(self.names)})."
                f"{did_you_mean(str(name), self.names)} A choice of your own needs --plugin MODULE."
            ) from None

    def own_fields(self, schema: type[Choice]) -> list[str]:
        """Names of the fields that ``schema`` adds to the group's base, and its family's: what its builder receives."""
        shared = {field.name for base in self._families if issubclass(schema, base) for field in fields(base)}
        return [field.name for field in fields(schema) if field.name not in shared]

    def builder(self, name: str) -> Callable[..., Any]:
        """The builder registered as ``name``, imported if it was given as a string."""
        builder = self._builders[name]
        if isinstance(builder, str):
            builder = self._builders[name] = imported(builder)
        assert callable(builder)
        return builder

    def build(self, choice: Choice, *args: Any, **kwargs: Any) -> Any:
        """Build what ``choice`` describes: ``builder(*args, **own fields, **kwargs)``."""
        own = {name: getattr(choice, name) for name in self.own_fields(type(choice))}
        return self.builder(choice.name)(*args, **own, **kwargs)
