"""Set, show or free the limit of a tag, or a global limit.

python scripts/setup_concurrency_limit.py [--tag TAG] [--global] [--limit N] [--reset] [--json]
"""

from flows import cli, limits
from flows.api import server


def main() -> int:
    """Set the limit, free its slots with --reset, and print what the server then reports."""
    parser = cli.Arguments(description="Set how many task runs with a tag the server lets run at once.")
    parser.add_argument("--tag", default=limits.TAG, help=f"the tag (default {limits.TAG})")
    parser.add_argument(
        "--global",
        dest="kind",
        action="store_const",
        const="global",
        default="tag",
        help="the global limit that has the tag's name, which flows/prefect_flow.py --limit-by global uses",
    )
    parser.add_argument("--limit", type=cli.whole_number, help="how many (default 3; with --reset: unchanged)")
    parser.add_argument("--reset", action="store_true", help="free all slots, such as those of killed runs")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    server.use()
    changed = False
    before = limits.read(arguments.tag, arguments.kind)
    if arguments.limit is not None or before is None or not arguments.reset:
        changed = limits.ensure(arguments.tag, arguments.limit or limits.DEFAULT, arguments.kind)
    if arguments.reset:
        limits.reset(arguments.tag, arguments.kind)
        changed = changed or bool(before and (before.active_slots or before.holders))
    now = limits.read(arguments.tag, arguments.kind)
    assert now is not None, "a limit that has just been set"
    if arguments.json:
        cli.print_json(now._asdict() | {"changed": changed})
        return 0
    note = " (changed)" if changed else ""
    what = "tag" if arguments.kind == "tag" else "global limit"
    print(f"The {what} {now.tag!r}: at most {now.limit} at once{note}, {now.active_slots} slots taken")
    for holder in now.holders:
        print(f"  held by {holder['name']} ({holder['state']}), task run {holder['task_run_id']}")
    if arguments.reset and before and before.active_slots:
        names = ", ".join(str(holder["name"]) for holder in before.holders) or "unknown task runs"
        print(f"Freed {before.active_slots} slots, held by {names}.")
        print("A task that is still running continues without a slot.")
    return 0


if __name__ == "__main__":
    cli.run(main)
