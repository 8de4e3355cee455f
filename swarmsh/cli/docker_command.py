"""Command lines as Go's pflag reads them, where click differs: `--flag=false`, `-p=80:80`."""

from __future__ import annotations

import click

from swarmsh.cli.values import parse_bool


class DockerCommand(click.Command):
    """A command whose boolean flags also take `=true` and `=false`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        plain, switched_off = self._without_explicit_booleans(ctx, list(args))
        rest = super().parse_args(ctx, plain)
        for name in switched_off:
            ctx.params[name] = False
        return rest

    def _without_explicit_booleans(self, ctx: click.Context, args: list[str]) -> tuple[list[str], list[str]]:
        """`--init=true` as `--init`; the names of flags given as false, which click has no word for."""
        options = {
            name: param
            for param in self.get_params(ctx)
            if isinstance(param, click.Option)
            for name in (*param.opts, *param.secondary_opts)
        }
        plain: list[str] = []
        switched_off: list[str] = []
        while args:
            arg = args.pop(0)
            if arg == "--" or not arg.startswith("-") or arg == "-":
                plain.append(arg)
                if arg == "--" or not ctx.allow_interspersed_args:
                    return plain + args, switched_off
                continue
            name, equals, value = _split(arg, options)
            option = options.get(name)
            if option is None:
                plain.append(arg)
            elif not option.is_flag:
                # The value keeps its place beside its option, also if it looks like one.
                if equals:
                    plain += [name, value]
                else:
                    plain += [arg, *args[:1]]
                    del args[:1]
            elif equals:
                try:
                    on = parse_bool(value)
                except ValueError as error:
                    raise click.BadParameter(str(error), ctx, option) from None
                assert option.name is not None
                switched_off = [found for found in switched_off if found != option.name]
                plain = [found for found in plain if found not in option.opts]
                if on:
                    plain.append(name)
                else:
                    switched_off.append(option.name)
            else:
                plain.append(arg)
        return plain, switched_off


def _split(arg: str, options: dict[str, click.Option]) -> tuple[str, str, str]:
    """(option, "=" if a value is attached, value); of `-qd80` the option is what takes the rest, if any does."""
    if arg.startswith("--"):
        name, equals, value = arg.partition("=")
        return name, equals, value
    for position, letter in enumerate(arg[1:], 1):
        option = options.get(f"-{letter}")
        rest = arg[position + 1 :]
        if option is None:
            return arg, "", ""
        if not option.is_flag and rest:
            return (f"-{letter}", "=", rest.removeprefix("=")) if position == 1 else (arg, "", "")
        if not option.is_flag:
            return f"-{letter}", "", ""
        if rest.startswith("=") and position == 1:
            return f"-{letter}", "=", rest[1:]
    return arg, "", ""
