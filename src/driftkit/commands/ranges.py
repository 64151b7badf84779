"""A number within bounds, as an option's value."""

from __future__ import annotations

from typing import Any

import click


class Numbers(click.FloatRange):
    """A FloatRange that does not take NaN, which no comparison puts outside."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if number != number:
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return number
