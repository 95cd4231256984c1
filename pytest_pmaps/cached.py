"""``cached_property`` without a lock.

That of functools has one before Python 3.12, for all objects of a class: a child that is forked
while another thread is inside would wait for it for ever.
"""

from __future__ import annotations

import sys

__all__ = ["cached_property"]

if sys.version_info >= (3, 12):
    from functools import cached_property
else:
    from collections.abc import Callable
    from typing import Any, Generic, Self, TypeVar, overload

    T = TypeVar("T")

    class cached_property(Generic[T]):  # in place of one that is called so
        """What a method gives, kept in the object; two threads may both compute it."""

        def __init__(self, method: Callable[[Any], T]) -> None:
            self._method = method
            self.__doc__ = method.__doc__

        def __set_name__(self, owner: type, name: str) -> None:
            self._name = name

        @overload
        def __get__(self, instance: None, owner: type) -> Self: ...
        @overload
        def __get__(self, instance: object, owner: type) -> T: ...
        def __get__(self, instance: object | None, owner: type) -> Self | T:
            if instance is None:
                return self
            value = self._method(instance)
            # No data descriptor: from now on the attribute is found first.
            instance.__dict__[self._name] = value
            return value
