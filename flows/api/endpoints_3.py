"""The endpoints that Prefect 3 alone has; the server of 2.13.7 answers 404 to them.

`bulk_set_state` and those with leases change something, and so are sent once, whatever becomes of them.
"""

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from flows.api.rest import Request


def paginate(chosen: Request, page: int = 1) -> Request:
    """POST /flow_runs/paginate: the page numbered `page`, from 1, of what `endpoints.flow_runs` chose.

    Answers with the rows as `results`, with the `count` of all rows, and that of all `pages`.
    """
    return chosen._replace(path="flow_runs/paginate", body={**(chosen.body or {}), "page": page})


def bulk_set_state(flow_runs: Sequence[str], type_: str, name: str, message: str, *, force: bool = False) -> Request:
    """POST /flow_runs/bulk_set_state: propose a state for up to 50 flow runs, by id; answers with `results`.

    Each of them has a `status` like the answer to `endpoints.set_state`.
    """
    state = {"type": type_, "name": name, "message": message}
    body: dict[str, Any] = {"flow_runs": {"id": {"any_": list(flow_runs)}}, "state": state, "force": force}
    return Request("POST", "flow_runs/bulk_set_state", body)


def count_task_runs(flow_runs: Sequence[str]) -> Request:
    """POST /ui/flow_runs/count-task-runs: how many task runs each of up to 200 flow runs has, by their ids."""
    return Request("POST", "ui/flow_runs/count-task-runs", {"flow_run_ids": list(flow_runs)})


def csrf_token(client: str) -> Request:
    """GET /csrf-token: a token for `client`, a name that one thinks up; 422 where the server asks for no tokens.

    Where it does, what is not a GET needs the headers Prefect-Csrf-Client and Prefect-Csrf-Token.
    """
    return Request("GET", f"csrf-token?client={quote(client, safe='')}")


def take_slots(limits: Sequence[str], holder: str, *, slots: int = 1, seconds: float = 60) -> Request:
    """POST /v2/concurrency_limits/increment-with-lease: take slots for the task run with the id `holder`.

    A tag's limit has the name `tag:<tag>`. Answers with a `lease_id`, and with 423 where no slot is free. The slots
    are free again after `seconds`, 60 at the least, unless the lease is renewed.
    """
    body: dict[str, Any] = {"names": list(limits), "slots": slots, "mode": "concurrency", "lease_duration": seconds}
    held = {"holder": {"type": "task_run", "id": holder}}
    return Request("POST", "v2/concurrency_limits/increment-with-lease", body | held)


def renew(lease: str, seconds: float = 60) -> Request:
    """POST /v2/concurrency_limits/leases/{id}/renew: keep the slots of a lease for so long from now on."""
    return Request("POST", f"v2/concurrency_limits/leases/{lease}/renew", {"lease_duration": seconds})


def give_back(lease: str) -> Request:
    """POST /v2/concurrency_limits/decrement-with-lease: free the slots of a lease, which ends it."""
    return Request("POST", "v2/concurrency_limits/decrement-with-lease", {"lease_id": lease})
