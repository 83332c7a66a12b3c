"""`python -m bench.fleet prepare | enrol | policy | run | figures`.

docs/operations.md, "Sizing a controller", shows how they go together; docs/figures.md what `figures` measures.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from segctl.errors import SegctlError

from bench.fleet import figures
from bench.fleet.crowd import Churn
from bench.fleet.crowds import PROCESSES
from bench.fleet.identities import enrol, issue, load, save
from bench.fleet.policies import APPS, ENVS, RULES, fleet_hosts, fleet_policy
from bench.fleet.reports import Load
from bench.fleet.sizing import simulate
from bench.rows import table, to_json
from bench.runner import run


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.fleet", description="A simulated fleet: real protocol, real TLS, no kernels."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (_prepare, _enrol, _policy, _run, _figures):
        add(commands)
    options = parser.parse_args()
    try:
        code: int = options.command(options)
    except (SegctlError, OSError, RuntimeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return code


Commands = argparse._SubParsersAction  # argparse gives this type no public name


def _prepare(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "prepare", help="make agents with the CA of a controller that does not run, on its machine"
    )
    parser.add_argument("--state", type=Path, required=True, help="the controller's state directory")
    parser.add_argument("--agents", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True, help="where the agents' keys go: one new file")

    def command(options: argparse.Namespace) -> int:
        save(options.out, issue(options.state, fleet_hosts(options.agents)))
        print(f"{options.agents} agents in {options.out}; start the controller, then: run --agents {options.out}")
        return 0

    parser.set_defaults(command=command)


def _enrol(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("enrol", help="make agents as real ones are made, with a join token of as many uses")
    parser.add_argument("--token-file", type=Path, required=True, help="holds what `segctl token create` printed")
    parser.add_argument("--agents", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True, help="where the agents' keys go: one new file")

    def command(options: argparse.Namespace) -> int:
        join = options.token_file.read_text().strip()
        save(options.out, asyncio.run(enrol(join, fleet_hosts(options.agents))))
        print(f"{options.agents} agents in {options.out}, with the tags of the token")
        return 0

    parser.set_defaults(command=command)


def _policy(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("policy", help="write a policy for the fleet, to be pushed with segctl")
    parser.add_argument("--apps", type=int, default=APPS, help="default: %(default)s")
    parser.add_argument("--envs", type=int, default=ENVS, help="default: %(default)s")
    parser.add_argument("--rules", type=int, default=RULES, help="default: %(default)s")
    parser.add_argument("--turn", type=int, default=0, help="another number: a policy that differs for every host")
    parser.add_argument("--out", type=Path, required=True, metavar="DIRECTORY")

    def command(options: argparse.Namespace) -> int:
        options.out.mkdir(parents=True, exist_ok=True)
        for file in fleet_policy(options.apps, options.envs, options.rules, options.turn):
            (options.out / file.name).write_bytes(file.content)
        return 0

    parser.set_defaults(command=command)


def _run(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("run", help="connect agents, and keep them talking")
    parser.add_argument("--agents", type=Path, required=True, metavar="FILE", help="of `prepare` or `enrol`")
    parser.add_argument("--first", type=int, help="only so many of them")
    parser.add_argument(
        "--controller", action="append", metavar="HOST:PORT", help="instead of the one in FILE; several: a list"
    )
    parser.add_argument("--processes", type=int, default=PROCESSES, help="default: %(default)s")
    parser.add_argument("--report-every", type=float, default=0.0, metavar="SECONDS", help="0, the default: no reports")
    parser.add_argument("--flows", type=int, default=100, help="in a report; default: %(default)s")
    parser.add_argument("--denials", type=int, default=1, help="in a report; default: %(default)s")
    parser.add_argument("--reconnects", type=float, default=0.0, help="connections lost a second, of the whole fleet")
    parser.add_argument("--moves", type=float, default=0.0, help="changes of addresses a second, of the whole fleet")
    parser.add_argument("--verify", action="store_true", help="recompute the digest of every policy, as real agents do")
    parser.add_argument("--every", type=float, default=5.0, metavar="SECONDS", help="between two lines")
    parser.add_argument("--seconds", type=float, default=0.0, help="0, the default: until interrupted")

    def command(options: argparse.Namespace) -> int:
        members = load(options.agents)[: options.first]
        if options.controller:
            members = [member.at(options.controller) for member in members]
        simulate(
            members,
            Load(options.report_every, options.flows, options.denials),
            Churn(options.reconnects, options.moves),
            count=options.processes,
            verify=options.verify,
            every=options.every,
            seconds=options.seconds,
        )
        return 0

    parser.set_defaults(command=command)


def _figures(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("figures", help="measure a controller on this machine; rows in bench/out/fleet.json")
    parser.add_argument("--quick", action="store_true", help="small fleets and few rounds; figures are rough")
    parser.add_argument("--only", action="append", choices=figures.names(), help="may be given again")
    parser.add_argument("--out", type=Path, default=figures.OUT, help="where the rows go (default: %(default)s)")
    parser.set_defaults(command=_measure)


def _measure(options: argparse.Namespace) -> int:
    """1 when something could not be measured, whether the goals hold or not."""
    rows = []
    for row in run(figures.measures(options.only), options.quick):
        rows.append(row)
        print(table([row]).splitlines()[1], file=sys.stderr, flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(to_json(rows) + "\n")
    print(table(rows))
    for row in rows:
        if row.value is None:
            print(f"{row.name}: {row.how}", file=sys.stderr)
    print(f"rows: {options.out}")
    return 1 if any(row.value is None for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
