"""Delete old flow runs from the server, with their task runs and logs.

    python scripts/retention.py --older-than 30 [--dry-run] [--json]

Runs that have not ended are never deleted. docs/production.md says what the server deletes by itself. Prefect 3 only.
"""

from datetime import datetime, timedelta, timezone
from typing import Any

from flows import cli, versions
from flows.api import endpoints, rest, server

with cli.importing(__name__):  # after `flows`, which keeps it from sending usage data
    from prefect import flow

AT_ONCE = 50  # as many as the server deletes in one request, which is one transaction
KINDS = ("flow_runs", "task_runs")


@flow(name="retention")
def delete_old_runs(older_than: int = 30, dry_run: bool = True) -> dict[str, Any]:
    """Delete the flow runs that ended more than `older_than` days ago; return how many there were of each kind.

    A run that another one called is deleted after that one. A `dry_run` only counts.
    """
    before = (datetime.now(timezone.utc) - timedelta(days=older_than)).isoformat()
    ended = {"state": {"type": {"any_": endpoints.FINAL}}, "end_time": {"before_": before}}
    counted = rest.gather([rest.Request("POST", f"{kind}/count", {"flow_runs": ended}) for kind in KINDS])
    batch = {"flow_runs": ended | {"parent_task_run_id": {"is_null_": True}}, "limit": AT_ONCE}
    deleted = 0
    while not dry_run and (ids := rest.call("POST", "flow_runs/bulk_delete", batch)["deleted"]):
        deleted += len(ids)
    return {"before": before, **dict(zip(KINDS, counted, strict=True)), "deleted": deleted, "dry_run": dry_run}


def main() -> int:
    """Delete what is older, or count it with --dry-run, and print how much that was."""
    parser = cli.Arguments(description="Delete old flow runs, with their task runs and logs.")
    parser.add_argument("--older-than", type=cli.whole_number, required=True, help="days since the end of a run")
    parser.add_argument("--dry-run", action="store_true", help="delete nothing, and say what would be deleted")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    server.check_prefect(server.use())
    cli.quiet_prefect()
    with versions.no_heartbeats():
        report = delete_old_runs(arguments.older_than, arguments.dry_run)
    if arguments.json:
        cli.print_json(report)
        return 0
    ended = (
        f"{report['flow_runs']} flow runs, with {report['task_runs']} task runs, ended before {report['before']:.16}."
    )
    print(ended, "Nothing was deleted." if arguments.dry_run else f"Deleted {report['deleted']} flow runs.")
    return 0


if __name__ == "__main__":
    cli.run(main)
