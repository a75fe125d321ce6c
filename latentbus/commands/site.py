"""``latentbus site``: what operators say about a site: its profile, intervals and snoozes."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated

import typer

from latentbus.broker.options import BrokerConfigOption, HostOption, IdOption, PortOption, broker_settings
from latentbus.options.arguments import checked_name
from schemas.errors import ConfigError

if TYPE_CHECKING:
    from latentbus.client.site_config import SiteConfigClient
    from pipeline.config.broker_settings import BrokerSettings
    from pipeline.node.runtime import Stop
    from schemas.messages import SiteConfig

site_app = typer.Typer(
    no_args_is_help=True,
    help="Switch the profile of a site, and snooze its cameras and alerts. A secured broker lets operators do this.",
    epilog="Examples: latentbus site show north; latentbus site profile north night; "
    "latentbus site snooze north --camera gate --for 3600; latentbus site wake north",
)
SiteArgument = Annotated[str, typer.Argument(help="Name of the site.")]
CameraOption = Annotated[list[str] | None, typer.Option(help="This camera; repeatable.")]
AlertOption = Annotated[list[str] | None, typer.Option(help="The alert of this question, or this rule; repeatable.")]
MAX_SNOOZE_S = 31_536_000.0


@site_app.command(epilog="Example: latentbus site show north --host broker.example")
def show(
    site: SiteArgument,
    config: BrokerConfigOption = None,
    host: HostOption = None,
    port: PortOption = None,
    name: IdOption = None,
) -> None:
    """Show what operators have said about a site, as JSON."""

    async def work(client: SiteConfigClient) -> None:
        found = await client.read(site)
        typer.echo(json.dumps(found.model_dump(mode="json", exclude_defaults=True)))

    _run(work, site, broker_settings(config, host, port), name)


@site_app.command(epilog="Examples: latentbus site profile north night; latentbus site profile north --of-the-settings")
def profile(
    site: SiteArgument,
    wanted: Annotated[str | None, typer.Argument(help="Profile of the settings.")] = None,
    of_the_settings: Annotated[bool, typer.Option("--of-the-settings", help="The one that the settings name.")] = False,
    config: BrokerConfigOption = None,
    host: HostOption = None,
    port: PortOption = None,
    name: IdOption = None,
) -> None:
    """Switch the profile of a site: which questions are asked, and which alerts count."""
    if (wanted is None) is not of_the_settings:
        raise ConfigError("PROFILE", "name one, or say --of-the-settings")
    checked_name("PROFILE", wanted)
    _change(site, lambda said: said.model_copy(update={"profile": wanted}), broker_settings(config, host, port), name)


@site_app.command(epilog="Example: latentbus site snooze north --camera gate --alert person --for 3600")
def snooze(
    site: SiteArgument,
    camera: CameraOption = None,
    alert: AlertOption = None,
    duration_s: Annotated[float, typer.Option("--for", help="Seconds from now.", min=60, max=MAX_SNOOZE_S)] = 3_600.0,
    config: BrokerConfigOption = None,
    host: HostOption = None,
    port: PortOption = None,
    name: IdOption = None,
) -> None:
    """Ask cameras no standing questions, and tell nobody of alerts, for a while. The clock is this machine's."""
    import time

    from schemas.utc_time import utc_text

    if not (camera or alert):
        raise ConfigError("snooze", "say what: --camera or --alert")
    for entry in (*(camera or ()), *(alert or ())):
        checked_name("--camera or --alert", entry)
    until = utc_text(time.time() + duration_s)

    def changed(said: SiteConfig) -> SiteConfig:
        return said.model_copy(
            update={
                "snoozed_cameras": {**said.snoozed_cameras, **dict.fromkeys(camera or (), until)},
                "snoozed_alerts": {**said.snoozed_alerts, **dict.fromkeys(alert or (), until)},
            }
        )

    _change(site, changed, broker_settings(config, host, port), name)


@site_app.command(epilog="Examples: latentbus site wake north; latentbus site wake north --camera gate")
def wake(
    site: SiteArgument,
    camera: CameraOption = None,
    alert: AlertOption = None,
    config: BrokerConfigOption = None,
    host: HostOption = None,
    port: PortOption = None,
    name: IdOption = None,
) -> None:
    """End snoozes of a site: those that are named, or all."""

    def changed(said: SiteConfig) -> SiteConfig:
        everything = not (camera or alert)
        return said.model_copy(
            update={
                "snoozed_cameras": _without(said.snoozed_cameras, camera, everything),
                "snoozed_alerts": _without(said.snoozed_alerts, alert, everything),
            }
        )

    _change(site, changed, broker_settings(config, host, port), name)


def _without(snoozed: dict[str, str], named: list[str] | None, everything: bool) -> dict[str, str]:
    return {} if everything else {key: until for key, until in snoozed.items() if key not in (named or ())}


def _change(site: str, change: Callable[[SiteConfig], SiteConfig], broker: BrokerSettings, name: str | None) -> None:
    async def work(client: SiteConfigClient) -> None:
        from schemas.printable import printable

        typer.echo(f"{site}: {printable(await client.change(site, change))}")

    _run(work, site, broker, name)


def _run(
    work: Callable[[SiteConfigClient], Awaitable[None]], site: str, broker: BrokerSettings, name: str | None
) -> None:
    from latentbus.client.site_config import SiteConfigClient
    from pipeline.config.logs import configure_logging
    from pipeline.node.runtime import run

    checked_name("SITE", site)
    configure_logging("error")

    async def main(_stop: Stop) -> int:
        async with SiteConfigClient(broker, name=name) as client:
            await work(client)
        return 0

    raise typer.Exit(run(main, drain_timeout_s=2))
