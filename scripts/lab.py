"""Start, stop, reset or describe the local lab.

python scripts/lab.py up|down|status|reset [--auth none|basic|gateway] [--https] [--json]
"""

import shlex
from dataclasses import asdict

from flows import cli, settings, versions

with cli.importing(__name__):  # its packages may not be installed
    from flows import lab
    from flows.lab import gateway, keys


def main() -> int:
    """Do what is asked, then print what runs. Return 1 if `status` or `up` finds no running lab."""
    parser = cli.Arguments(description="The local lab: PostgreSQL and a Prefect server.")
    parser.add_argument("action", choices=["up", "down", "status", "reset"], help="what to do with it")
    parser.add_argument(
        "--auth",
        choices=["none", "basic", "gateway"],
        help="how callers are authenticated: not at all, by password, or by API keys (default: unchanged)",
    )
    parser.add_argument("--https", action="store_true", help="with --auth gateway: over TLS")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    if arguments.https and arguments.auth != "gateway":
        parser.error("--https needs --auth gateway, because only the gateway uses TLS")
    if arguments.action in ("down", "reset") and not arguments.json:
        print("Stopping the lab, which may take some seconds.", flush=True)
    match arguments.action:
        case "up":
            lab.up(arguments.auth, arguments.https)
        case "down":
            lab.down()
        case "reset":
            lab.reset()
    status = lab.status()
    if arguments.json:
        cli.print_json(asdict(status))
    elif status.running:
        print(f"Prefect {status.prefect_version} answers at {status.api_url} (authentication: {status.auth})")
        print(f"PostgreSQL: {status.database}")
        print("Processes: " + ", ".join(f"{name} {pid}" for name, pid in status.pids.items()))
        print("For other programs:")
        exports = _exports(status)
        print(f"  unset {' '.join(_left(exports))}")
        print("\n".join(f"  export {variable}" for variable in exports))
    else:
        print("The lab is down. python scripts/lab.py up starts it.")
    return 0 if status.running or arguments.action in ("down", "reset") else 1


def _exports(status: lab.Lab) -> list[str]:
    """Return what a shell sets to reach the lab. It reads secrets from their files, so that none is printed."""
    exports = [f"PREFECT_API_URL={status.api_url}"]
    if status.auth == "basic":
        exports.append(f'PREFECT_API_AUTH_STRING="$(cat {shlex.quote(str(keys.file("auth_string")))})"')
    if status.auth == "gateway":
        first = "'/^Bearer/ {print $2; exit}'"
        exports.append(f'PREFECT_API_KEY="$(awk {first} {shlex.quote(str(keys.file("keys")))})"')
        # For Prefect's own commands: they send the key with requests, and not when they open a WebSocket.
        exports.append('PREFECT_CLIENT_CUSTOM_HEADERS="{\\"Authorization\\": \\"Bearer $PREFECT_API_KEY\\"}"')
    if str(status.api_url).startswith("https:"):
        certificate = gateway.certificate(settings.read().flows_lab_dir / "gateway")
        names = ["PREFECT_API_SSL_CERT_FILE"]  # for the kit's own requests and Prefect 3
        if not versions.is_3(versions.here()):
            names.append("SSL_CERT_FILE")  # which is what Prefect 2's client reads
        exports += [f"{name}={shlex.quote(str(certificate))}" for name in names]
    return exports


def _left(exports: list[str]) -> list[str]:
    """Return the variables that are not among the `exports`: left over from other credentials, they would be sent."""
    names = ("PREFECT_API_KEY", "PREFECT_API_AUTH_STRING", "PREFECT_CLIENT_CUSTOM_HEADERS", "PREFECT_API_SSL_CERT_FILE")
    return [name for name in names if not any(variable.startswith(f"{name}=") for variable in exports)]


if __name__ == "__main__":
    cli.run(main)
