"""The figures that the documents quote are those that the scripts stored in docs/figures, and stand in one place."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from simulate_slots import ASK, CLIENT, GIVE_BACK, STORE, simulate
from support.figures import FOLDER, stored
from support.notebooks import prose, read

from flows import settings

DOCS = settings.PROJECT / "docs"
ENGINES = {
    "tag limit, the kit's lab": "tag limit",
    "global limit, the kit's lab": "global limit",
    "tag limit, Prefect's defaults on SQLite": "Prefect's defaults",
}
GROWTH = ["span_seconds", "peak", "requests_per_task", "refused_per_task", "server_cpu_ms_per_task"]
GROWTH += ["client_mb", "server_mb"]
# The simulation's names of what was measured.
SIMULATED = {
    "span_seconds": "span_seconds",
    "refused_per_task": "refused_per_task",
    "server_cpu_ms_per_task": "server_ms_per_task",
}


def table(document: str, head: str) -> Iterator[list[str]]:
    """Yield the cells of each row of the tables in `document` whose first line begins with `head`."""
    parts = (DOCS / document).read_text().split(f"\n| {head} |")[1:]
    assert parts, f"{document} has no table that begins with {head}"
    for part in parts:
        for line in part.partition("\n\n")[0].splitlines()[2:]:
            yield [cell.strip(" *") for cell in line.strip("|").split("|")]


def on_one_line(document: str) -> str:
    return " ".join((DOCS / document).read_text().split())


def near(quoted: str, exact: float) -> bool:
    """Return whether `quoted` is `exact`, rounded to as many digits as were written."""
    digits = len(quoted.partition(".")[2])
    return abs(float(quoted.replace(",", "")) - exact) <= 0.5001 * 10**-digits


def all_near(quoted: list[str], exact: list[float]) -> bool:
    return all(near(*pair) for pair in zip(quoted, exact, strict=True))


def test_the_ways_to_limit_tasks() -> None:
    measured = {row["engine"]: row for row in stored("bench")}
    quoted = list(table("performance.md", "way"))
    assert len(quoted) == len(measured)
    for way, *figures in quoted:
        row = measured[ENGINES.get(way, way)]
        exact = [row[name] for name in ("wall_seconds", "span_seconds", "ratio", "span_ratio", "peak")]
        assert all_near(figures, exact), (way, figures, exact)


@pytest.mark.parametrize("place, name", [*enumerate(["bench-20", "bench-100", "queries"])])
def test_other_work(place: int, name: str) -> None:
    measured = {row["engine"]: row for row in stored(name)}
    (_, *figures) = [*table("performance.md", "work, medians of five")][place]
    limits = [measured[f"{kind} limit"] for kind in ("tag", "global")]
    exact = [row[figure] for row in limits for figure in ("wall_seconds", "ratio")]
    assert all_near(figures, exact), (figures, exact)


def test_what_prefect_adds_to_the_queries() -> None:
    measured = {row["engine"]: row for row in stored("queries")}
    pool, tag = measured["thread pool"], measured["tag limit"]
    text = on_one_line("performance.md")
    quoted = re.search(
        r"they take ([\d.]+) seconds\. As a flow they take ([\d.]+): .* which is ([\d.]+) seconds .* other ([\d.]+)\.",
        text,
    )
    slower = tag["ideal_seconds"] - pool["ideal_seconds"]
    longer = tag["wall_seconds"] - pool["wall_seconds"]
    assert quoted
    assert all_near([*quoted.groups()], [pool["wall_seconds"], tag["wall_seconds"], slower, longer - slower])


def test_how_long_the_start_takes() -> None:
    """The rows of the table are in the order of the file, and begin with the same words."""
    for (what, quoted), row in zip(table("performance.md", "what starts"), stored("start"), strict=True):
        assert what.startswith(row["what"])
        exact = [row["seconds"], *([row["flow_seconds"]] if "flow_seconds" in row else [])]
        assert all_near(re.findall(r"[\d.]+", quoted), exact), (what, quoted, exact)


def test_how_far_off_a_replay_is() -> None:
    works = stored("replay-sleeping"), stored("replay-computing")
    for (limit, *figures), *rows in zip(table("performance.md", "limit"), *works, strict=True):
        for (*quoted, error), row in zip((figures[:3], figures[3:]), rows, strict=True):
            exact = [row["predicted_seconds"], row["measured_seconds"]]
            assert int(limit) == row["limit"] and all_near([*quoted], exact), (limit, quoted, exact)
            assert near(error.removesuffix(" %"), 100 * (exact[0] / exact[1] - 1)), (limit, error, exact)


def test_what_the_gateway_costs() -> None:
    through, past = (row["median_ms"] for row in stored("gateway"))
    quoted = re.search(r"a median of ([\d.]+) ms per request", (DOCS / "authentication_guide.md").read_text())
    assert quoted and near(quoted[1], through - past)


def test_how_the_cost_grows() -> None:
    measured = {
        tuple(row[name] for name in ("tasks", "seconds", "limit", "processes")): row for row in stored("growth")
    }
    quoted = list(table("performance.md", "tasks"))
    assert len(quoted) >= 12
    for tasks, seconds, limit, processes, *figures in quoted:
        row = measured[int(tasks.replace(",", "")), float(seconds), int(limit), int(processes)]
        exact = [row[name] for name in GROWTH]
        assert all_near(figures, exact), (tasks, limit, processes, figures, exact)


def test_the_set_ups_that_scale() -> None:
    quoted = list(table("scaling.md", "set-up"))
    for (set_up, limit, *figures, busy), row in zip(quoted, stored("scaling"), strict=True):
        assert (set_up, int(limit)) == (row["set_up"], row["limit"])
        exact = [row[name] for name in ("span_seconds", "tasks_per_second", "peak")]
        assert all_near(figures, exact) and row["peak"] <= int(limit), (set_up, figures, exact)
        shares = dict(re.findall(r"([A-Za-z ]+?) (\d+) %", busy))
        assert {name.strip(): int(share) for name, share in shares.items()} == {
            name: round(100 * share) for name, share in row["busy"].items() if share >= 0.05
        }


def test_the_simulated_processes() -> None:
    simulated = {(row["processes"], row["servers"], row["wait"]): row for row in stored("slots")}
    waits = [(servers, wait) for servers in (1, 2) for wait in (0.03, 0.1, 0.5, 1.0)]
    for processes, *figures in (row for row in table("scaling.md", "processes") if len(row) > 4):
        exact = [simulated[(int(processes), *which)]["tasks_per_second"] for which in waits]
        assert all_near(figures, exact), (processes, figures, exact)


def test_what_a_page_of_the_monitor_takes() -> None:
    """Times in the document are in milliseconds, as in the file."""
    for quoted, row in zip(table("monitor.md", "flow runs"), stored("pages"), strict=True):
        assert all_near(quoted, [*row.values()]), (quoted, row)


def test_what_a_wide_run_takes() -> None:
    text = on_one_line("monitor.md")
    words = ["loads in ", " seconds .*? in ", " seconds .*? takes ", " seconds, and opening its page ", " "]
    quoted, (row,) = re.search(r"([\d.]+)".join(words), text), stored("wide-run")
    assert quoted and all_near([*quoted.groups()], [milliseconds / 1000 for milliseconds in row.values()]), row


def test_what_a_visit_takes() -> None:
    for (visit, requests, received), row in zip(table("monitor.md", "visit"), stored("dashboard"), strict=True):
        exact = [row["requests"], row["bytes"] / 1000]
        assert visit == row["visit"] and all_near([requests, received.removesuffix(" kB")], exact), row


def test_what_open_tabs_take() -> None:
    text = on_one_line("monitor.md")
    words = ["process had ", " MB after the first ", " refreshes and ", " MB after ", ", and each tab ", " and ", " MB"]
    quoted, (early, late) = re.search(r"([\d.]+)".join(words), text), stored("tabs")
    exact = [row[name] for row in (early, late) for name in ("server_mb", "refreshes")]
    assert quoted and all_near([*quoted.groups()], [*exact, early["tab_mb"], late["tab_mb"]]), (early, late)


def test_how_the_ledger_agrees_with_the_database() -> None:
    text = on_one_line("monitor.md")
    ((ledger,), (outsiders,), (waits,)) = (stored(name) for name in ("ledger", "outsiders", "waits"))
    quoted = [
        re.search(r"(\d+) runs, of which (\d+) were killed, .* in ([\d.]+) % of (\d+) seconds", text),
        re.search(r"All (\d+) leaks were named, (\d+) to (\d+) seconds after the kill", text),
        re.search(r"(\d+) outsiders .* after at most ([\d.]+) seconds", text),
        re.search(r"([\d.]+) % of (\d+) waits .* median wait was ([\d.]+) s, the median range ([\d.]+) s wide", text),
    ]
    exact = [
        [ledger[name] for name in ("runs", "killed", "same_percent", "busy_seconds")],
        [ledger["leaks"], *ledger["named_after_seconds"]],
        [outsiders["outsiders"], outsiders["most_seconds"]],
        [waits[name] for name in ("held_percent", "waits", "median_wait_seconds", "median_width_seconds")],
    ]
    for found, figures in zip(quoted, exact, strict=True):
        assert found and all_near([*found.groups()], figures), (found, figures)
    assert ledger["false_alarms"] == 0 and ledger["named"] == ledger["leaks"]


def by_processes() -> dict[int, dict]:
    return {row["processes"]: row for row in stored("growth") if (row["tasks"], row["limit"]) == (96, 3)}


def test_the_simulation_beside_the_measurements() -> None:
    measured = by_processes()
    quoted = [row for row in table("scaling.md", "processes") if len(row) == 4]
    assert [int(processes) for processes, *_ in quoted] == [*measured]
    for processes, *pairs in quoted:
        row = measured[int(processes)]
        simulated = simulate(int(processes), row["tasks"], row["seconds"], row["limit"], wait=0.03)
        for pair, real, model in zip(pairs, SIMULATED, SIMULATED.values(), strict=True):
            assert all_near(pair.split(", "), [row[real], simulated[model]]), (processes, pair)


def test_what_the_simulation_takes_for_granted() -> None:
    text = (DOCS / "scaling.md").read_text()
    for seconds in (ASK, GIVE_BACK, STORE, CLIENT):
        assert f"{1000 * seconds:.0f} ms" in text


def test_how_fair_processes_are_to_each_other() -> None:
    text = on_one_line("performance.md")
    quoted = re.search(r"a factor of ([\d.]+), of eight by ([\d.]+)\. .* took \((\d+) and (\d+) seconds\)", text)
    exact = [by_processes()[n][name] for name in ("mean_wait_ratio", "longest_wait") for n in (2, 8)]
    assert quoted and all_near([*quoted.groups()], exact)


def test_ten_times_the_runs_on_paper() -> None:
    """Twenty queries a run: what they store, by the measurement, and how many requests they send for slots."""
    rows, size = json.loads((FOLDER / "scaling.json").read_text())["rows_and_bytes_per_task"]
    for runs, *figures, _ in table("scaling.md", "runs a day"):
        tasks = 20 * int(runs.replace(",", ""))
        rate, requests, stored_rows, week = (re.findall(r"[\d.,]+", figure) for figure in figures)
        exact = [tasks / 86400, 3 * tasks / 86400, 10 * tasks / 86400, tasks * rows / 1e6, 7 * tasks * size / 1e9]
        assert all_near([*rate, *requests, *stored_rows, *week], exact), (runs, figures, exact)


@pytest.mark.parametrize("kind", ["tag", "global"])
def test_a_lesson_quotes_the_benchmark_as_well(kind: str) -> None:
    """Only there, so that its reader has the two numbers at hand; all other documents link to the page."""
    measured = {row["engine"]: row["wall_seconds"] for row in stored("bench")}
    text = prose(read("02_limits"))
    (older, newer) = re.search(rf"^\| a {kind}(?:'s)? limit \| ([\d.]+) s \| ([\d.]+) s \|$", text, re.M).groups()
    assert near(older, measured[f"{kind} limit, Prefect 2.13.7"]) and near(newer, measured[f"{kind} limit"])


def test_no_other_document_has_a_table_of_the_benchmark() -> None:
    documents: list[Path] = [settings.PROJECT / "README.md", *DOCS.glob("*.md")]
    row = re.compile(r"^\| (?:a )?\**(?:tag|global)(?:'s)? limit[^|]*(?=\|).*(?<=\| )\d+\.\d+(?: s)? \|", re.MULTILINE)
    assert [path.name for path in documents if row.search(path.read_text())] == ["performance.md"]
