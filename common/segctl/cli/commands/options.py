"""Parameter types and groups that several commands share."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import click

from segctl.cli.app import Verb, insert_options, take_common_options
from segctl.cli.mapsearch import EndWanted, parse_end
from segctl.model.policy import Selector, Tags

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
TAG = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]*)=([A-Za-z0-9][A-Za-z0-9_.-]*)")
EVERYTHING = "everything"
MOST_DAYS = 3650
REMOVAL = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]*)-")


class Duration(click.ParamType[int]):
    """`90s`, `10m`, `1h30m`, `2d`: whole seconds, at least one."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        parts = re.findall(r"(\d{1,9})([smhd])", str(value))
        seconds = sum(int(number) * UNITS[unit] for number, unit in parts)
        if not seconds or "".join(n + u for n, u in parts) != str(value):
            self.fail(f"{value!r} is no duration. Write a number and s, m, h or d: 90s, 10m, 1h30m.", param, ctx)
        return seconds


class Moment(click.ParamType[datetime | int]):
    """A date or time in UTC, `2027-05-01T12:00`, or how long ago, `2d`: seconds."""

    name = "moment"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime | int:
        if isinstance(value, datetime | int):
            return value
        text = str(value)
        if re.fullmatch(r"(\d{1,9}[smhd])+", text):
            return Duration().convert(text, param, ctx)
        try:
            moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
        except ValueError:
            self.fail(f"{text!r} is no time. Write 2027-05-01, 2027-05-01T12:00, or 2d for two days ago.", param, ctx)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


class Ends(click.ParamType[EndWanted]):
    """An end of an edge of the map: see segctl.cli.mapsearch.parse_end."""

    name = "end"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> EndWanted:
        if isinstance(value, EndWanted):
            return value
        try:
            return parse_end(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Days(Duration):
    """A duration of whole days, as their number: `30d`, `48h`."""

    name = "days"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        seconds = super().convert(value, param, ctx)
        if seconds % UNITS["d"] or seconds > MOST_DAYS * UNITS["d"]:
            self.fail(f"{value!r}: write whole days, at most {MOST_DAYS}d, such as 30d.", param, ctx)
        return seconds // UNITS["d"]


class Service(click.ParamType[tuple[str, int | None]]):
    """`5432`, `tcp/5432` or `udp`: a protocol, empty for any, and a port, None for any."""

    name = "service"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int | None]:
        if isinstance(value, tuple):
            return value[0], value[1]
        match = re.fullmatch(r"(?:(tcp|udp|icmp|icmpv6|\d{1,3})/)?(\d{1,5})|(tcp|udp|icmp|icmpv6)", str(value))
        if not match or int(match[2] or 0) > 65535:
            self.fail(f"{value!r} is no port. Write 5432, tcp/5432, or a protocol: udp.", param, ctx)
        return match[1] or match[3] or "", int(match[2]) if match[2] else None


class TagPair(click.ParamType[tuple[str, str]]):
    """`KEY=VALUE` as a pair."""

    name = "tag"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value[0], value[1]
        match = TAG.fullmatch(str(value))
        if not match:
            self.fail(f"{value!r} is no tag. Write KEY=VALUE, such as env=prod.", param, ctx)
        return match[1], match[2]


class SelectorType(click.ParamType[Selector]):
    """`app=shop,env=prod`, `workload=shop-db,env=prod`, or `everything`."""

    name = "selector"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Selector:
        if isinstance(value, Selector):
            return value
        words = [] if value == EVERYTHING else str(value).split(",")
        tags = {match[1]: match[2] for word in words if (match := TAG.fullmatch(word))}
        if len(tags) != len(words) or "peer" in tags:
            mend = f"Write tags such as app=shop,env=prod, with workload=NAME where one is meant, or {EVERYTHING}."
            self.fail(f"{value!r} is no selector. {mend}", param, ctx)
        workload = tags.pop("workload", None)
        return Selector(Tags.of(tags), workload)


class VerbGroup(click.Group):
    """A noun with verbs below it (`segctl host list`). Takes the common options too."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return insert_options(super().get_params(ctx))

    def invoke(self, ctx: click.Context) -> object:
        take_common_options(ctx)
        return super().invoke(ctx)


class QuestionGroup(Verb, click.Group):
    """A group that answers by itself where no verb below it is named (`segctl audit`)."""
