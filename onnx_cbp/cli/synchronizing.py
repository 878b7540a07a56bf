"""The option `--synchronize [GROUP]`."""

from __future__ import annotations

import click


class GroupIsOptional(click.Command):
    """`--synchronize [GROUP]` before MODEL, which click would take for the group."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Give an option without a group the default one."""
        given = [
            f"{word}=world" if word == "--synchronize" and not _is_group(following) else word
            for word, following in zip(args, [*args[1:], ""], strict=True)
        ]
        return super().parse_args(ctx, given)


def _is_group(word: str) -> bool:
    return word == "world" or word.startswith("size:")


def groups(group: str | None, layers: tuple[str, ...] = ()) -> bool | str | dict[str, str]:
    """The group, for all batch norms or for those with the names of layers, as `rewrite` takes it."""
    if layers:
        return dict.fromkeys(layers, group or "world")
    return True if group == "world" else group or False
