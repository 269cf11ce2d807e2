"""Attributes of methods that were renamed: the old names work for one version more."""

from __future__ import annotations

from inspect import getattr_static
from typing import Any

from eft_ext.ops.deprecated import note


class OldName:
    """The old name of the attribute `new`, on a class and on its instances; gives a DeprecationWarning."""

    def __init__(self, new: str) -> None:
        self.new = new

    def __set_name__(self, owner: type, name: str) -> None:
        self.old = name

    def __get__(self, instance: Any, owner: type) -> Any:
        note(self.old, self.new)
        if instance is None:
            return getattr(owner, self.new)
        overriding = vars(instance).get(_running(self.new))
        return getattr(instance if overriding is None else super(overriding, instance), self.new)

    def __set__(self, instance: Any, value: Any) -> None:
        note(self.old, self.new)
        setattr(instance, self.new, value)


def take_old_names(method: type, names: dict[str, OldName]) -> None:
    """Gives the new names what a subclass or a class mixed into it sets under the old; for `__init_subclass__`."""
    for old, name in names.items():
        value = getattr_static(method, old)
        if not isinstance(value, OldName):
            note(old, name.new, depth=3)  # the class statement, behind __init_subclass__ and ABCMeta
            if name.new not in vars(method):
                setattr(method, name.new, _property(method, name.new, value) if isinstance(value, property) else value)
            setattr(method, old, name)


def _running(new: str) -> str:
    """The key of the class whose property of the old name is being read, in an instance's attributes."""
    return f"_{new}_by"


def _property(method: type, new: str, old: property) -> property:
    """The property under its new name; `super()` in it reads the old name of the classes behind `method`."""

    def read(instance: Any) -> Any:
        attributes, key = vars(instance), _running(new)
        outer = attributes.get(key)
        attributes[key] = method
        try:
            return old.__get__(instance)
        finally:
            attributes[key] = outer

    return property(read)
