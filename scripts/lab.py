"""Start, stop, reset or describe the local lab: `python scripts/lab.py up|down|status|reset [--json]`."""

from dataclasses import asdict

from flows import commands, lab


def main() -> int:
    """Do what is asked, then print what runs. Returns 1 where `status` or `up` finds no running lab."""
    parser = commands.Arguments(description="The local lab: PostgreSQL and a Prefect server.")
    parser.add_argument("action", choices=["up", "down", "status", "reset"], help="what to do with it")
    parser.add_argument("--auth", choices=["none"], default="none", help="how the server checks its callers")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    match arguments.action:
        case "up":
            lab.up()
        case "down":
            lab.down()
        case "reset":
            lab.reset()
    found = lab.status()
    if arguments.json:
        commands.print_json(asdict(found))
    elif found.running:
        print(f"Prefect {found.prefect_version} answers at {found.api_url} (authentication: {found.auth})")
        print(f"PostgreSQL: {found.database}")
        print("Processes: " + ", ".join(f"{name} {pid}" for name, pid in found.pids.items()))
        print(f"For other programs: export PREFECT_API_URL={found.api_url}")
    else:
        print("The lab is down. python scripts/lab.py up starts it.")
    return 0 if found.running or arguments.action in ("down", "reset") else 1


if __name__ == "__main__":
    commands.run(main)
