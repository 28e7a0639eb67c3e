"""What may be set on an object from a notebook. Python takes any name, so a typing error would pass in silence."""

from __future__ import annotations

import difflib


class Settings:
    """Refuses to set what is no setting, and says what is: properties that can be set, and attributes with a type."""

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_"):
            self._check(name, value)
        super().__setattr__(name, value)

    def _check(self, name: str, value: object) -> None:
        kind = type(self)
        there = getattr(kind, name, None)
        if isinstance(there, property):
            why = f"{name} tells something and cannot be set" if there.fset is None else ""
        elif callable(there):
            why = f"{name} is called, not set: panel.{name}(…)"
        elif there is not None or any(name in vars(each).get("__annotations__", ()) for each in kind.__mro__):
            why = ""
        else:
            near = difflib.get_close_matches(name, settings(kind), n=1)
            why = f"there is no setting {name!r}" + (f", did you mean {near[0]!r}?" if near else "")
        if why:
            raise AttributeError(f"{why}; got {value!r}, settings are {', '.join(settings(kind))}")


def settings(kind: type) -> list[str]:
    """Return the names of the properties of a class that can be set, sorted."""
    return [name for name in sorted(dir(kind)) if getattr(getattr(kind, name), "fset", None) and name[0] != "_"]
