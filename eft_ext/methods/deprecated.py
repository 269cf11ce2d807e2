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
        return getattr(owner if instance is None else instance, self.new)

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
                setattr(method, name.new, value)
            setattr(method, old, name)
